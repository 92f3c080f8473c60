"""What the studio answers: plain records with pictures in them, and what of them goes into JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmdemo import images

SETTINGS = ("pack", "label", "seed", "steps", "guidance", "sampler", "interval")  # what one picture was drawn with


@dataclass(frozen=True)
class PackInfo:
    """An entry in the list of packs."""

    name: str
    classes: tuple[str, ...]
    codes: int
    image_size: int
    stride: int  # pixels a token covers in each direction
    channels: int
    can_sample: bool
    samplers: tuple[str, ...]  # the default first
    steps: int  # the default
    guidance: float  # the default
    problem: str | None  # why it cannot be used; None = it can
    stamp: int = 0  # changes when the pack is written anew, so what was drawn from it can be told to be old
    interval: tuple[float, float] = (0.0, 1.0)  # the default, in noise levels

    def json(self) -> dict:
        listed = ("name", "classes", "codes", "image_size", "can_sample", "samplers")
        entry = {name: getattr(self, name) for name in listed}
        entry |= {"classes": list(self.classes), "samplers": list(self.samplers)}
        return entry | ({"problem": self.problem} if self.problem else {})


@dataclass(frozen=True)
class Codebook:
    """A codebook as pictures and numbers."""

    sheet: Image.Image  # every swatch in `order`, `columns` wide
    swatches: Image.Image  # the same without gaps: the n-th of `order` at (n % columns, n // columns)
    swatch_size: int
    columns: int
    order: list[int]  # codes, similar ones near each other
    counts: list[int]  # uses in the training split, by code
    codes: int  # K
    used: int
    perplexity: float
    dim: int
    bits_per_token: float

    def json(self) -> dict:
        return {"codes": self.codes, "used": self.used, "perplexity": round(self.perplexity, 2), "dim": self.dim}


@dataclass(frozen=True)
class Code:
    """One code."""

    card: Image.Image  # swatch, nearest codes and patches in one picture
    swatch: Image.Image
    patches: list[Image.Image]  # real pictures around a token of this code
    code: int
    count: int  # uses in the training split
    share: float  # count over all tokens
    nearest: list[dict]  # [{"code", "distance"}], nearest first

    def json(self) -> dict:
        return {"code": self.code, "share": self.share, "nearest": self.nearest}


@dataclass(frozen=True)
class Reconstruction:
    """A picture, its tokens, and the picture they decode to."""

    original: Image.Image  # what the model saw
    image: Image.Image
    token_map: Image.Image
    tokens: list[list[int]]
    stride: int  # pixels a token covers in each direction
    psnr: float  # dB
    ssim: float
    bits_per_pixel: float
    compression_ratio: float
    inverted: bool

    def json(self) -> dict:
        return {
            "tokens": self.tokens,
            "psnr": round(self.psnr, 3),
            "ssim": round(self.ssim, 4),
            "bits_per_pixel": self.bits_per_pixel,
            "compression_ratio": round(self.compression_ratio, 2),
            "inverted": self.inverted,
        }


@dataclass(frozen=True)
class Samples:
    """Sampled pictures and all it takes to make them again."""

    images: list[Image.Image]
    labels: list[str]
    seeds: list[int]  # one an image
    seed: int
    steps: int
    guidance: float
    sampler: str
    interval: tuple[float, float]  # the noise levels between which guidance was on
    pack: str
    seconds: float

    def json(self) -> dict:
        settings = ("pack", "labels", "seed", "steps", "guidance", "sampler", "interval")
        return {name: getattr(self, name) for name in settings} | {"seconds": round(self.seconds, 3)}

    def grid(self) -> Image.Image:
        """All in rows: ten a row if there are that many."""
        return images.grid(self.images, min(len(self.images), 10))

    def png_bytes(self, i: int | None = None) -> bytes:
        """Image i as a PNG file, None = the grid, with its settings in the file's `mmdemo` text."""
        if i is None:
            return _png(self.grid(), self.json())
        return _png(self.images[i], self.json() | {"labels": [self.labels[i]], "seed": self.seeds[i]})


@dataclass(frozen=True)
class SamplingProgress:
    """Sampling, or drawing a strip, after step `index` of `total`. Its pictures are decoded when first looked at."""

    index: int
    total: int
    result: Samples | Strip | None  # in the last one only
    decode: Callable[[], list[Image.Image]] = field(repr=False)

    @cached_property
    def images(self) -> list[Image.Image]:
        """The current guess of every x0; in the last one, the result."""
        return self.decode()


@dataclass(frozen=True)
class Frame:
    """One denoising step of one picture. Its pictures are decoded when first looked at: that takes half as long as
    the step, and who watches may skip some."""

    index: int
    total: int
    timestep: float  # of 1000
    noise_level: float  # 1 = pure noise, 0 = clean
    tokens: list[list[int]]  # of x0
    flips: list[tuple[int, int]]  # (row, column) of the tokens that changed since the last frame
    distance: float  # mean distance of x0's latents to their codes, in standard deviations of the latents
    guided: bool  # whether guidance was on at this noise level
    label: str
    seed: int
    steps: int
    guidance: float
    sampler: str
    interval: tuple[float, float]  # the noise levels between which guidance is on
    pack: str
    seconds: float  # since the start
    decode: Callable[[], list[Image.Image]] = field(repr=False)  # x_t, x0, x0_label, x0_null

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """All four, decoded together."""
        return self.decode()

    @property
    def x_t(self) -> Image.Image:
        """The noisy latents, decoded."""
        return self.pictures[0]

    @property
    def x0(self) -> Image.Image:
        """The current guess of the clean ones, decoded; in the last frame, the result."""
        return self.pictures[1]

    @property
    def x0_label(self) -> Image.Image:
        """The guess by the label alone."""
        return self.pictures[2]

    @property
    def x0_null(self) -> Image.Image:
        """The guess without a label."""
        return self.pictures[3]

    def json(self) -> dict:
        shown = ("index", "total", "timestep", "noise_level", "tokens", "flips", "guided", *SETTINGS)
        rounded = {"distance": round(self.distance, 5), "seconds": round(self.seconds, 3)}
        return {name: getattr(self, name) for name in shown} | rounded


@dataclass(frozen=True)
class NoisedFrame:
    """A picture under noise: x_t = a x_0 + s eps."""

    index: int
    total: int
    timestep: float  # of 1000
    noise_level: float  # s / (a + s): 1 = pure noise, 0 = clean
    a: float
    s: float
    image: Image.Image  # x_t, decoded
    seed: int
    steps: int
    sampler: str
    pack: str

    def json(self) -> dict:
        shown = ("index", "total", "timestep", "noise_level", "a", "s", "pack", "seed", "steps", "sampler")
        return {name: getattr(self, name) for name in shown}


@dataclass(frozen=True)
class Edit:
    """A picture noised part of the way, and denoised with a label."""

    original: Image.Image  # what the model saw
    image: Image.Image
    strength: float  # share of the steps taken
    taken: int  # steps taken
    label: str
    seed: int
    steps: int
    guidance: float
    sampler: str
    interval: tuple[float, float]
    pack: str
    seconds: float

    def json(self) -> dict:
        shown = {name: getattr(self, name) for name in (*SETTINGS, "strength", "taken")}
        return shown | {"seconds": round(self.seconds, 3)}

    def png_bytes(self) -> bytes:
        """The result as a PNG file, with its settings in the file's `mmdemo` text."""
        return _png(self.image, self.json())


@dataclass(frozen=True)
class Cell:
    """One picture of a comparison."""

    row: int
    column: int
    image: Image.Image
    label: str
    seconds: float
    settings: dict  # what `sample` would be asked for this picture, by name

    def json(self) -> dict:
        where = {"row": self.row, "column": self.column}
        return where | self.settings | {"label": self.label, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Strip:
    """Pictures between two labels, two seeds, or both."""

    images: list[Image.Image]
    shares: list[float]  # of the other label and seed, one an image
    label: str
    other_label: str
    seed: int
    other_seed: int
    steps: int
    guidance: float
    sampler: str
    interval: tuple[float, float]
    pack: str
    seconds: float

    def json(self) -> dict:
        shown = {name: getattr(self, name) for name in (*SETTINGS, "other_label", "other_seed", "shares")}
        return shown | {"seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Interpolation:
    """From one picture to another, twice."""

    latent: list[Image.Image]  # straight through the latents, each snapped to its codes
    tokens: list[Image.Image]  # ever more tokens of the other picture in place of the first one's
    shares: list[float]  # of the other picture, one an image

    def json(self) -> dict:
        return {"shares": self.shares}


@dataclass(frozen=True)
class Replacement:
    """What a picture becomes when one code stands wherever another stood."""

    before: Image.Image
    after: Image.Image
    difference: Image.Image  # grey, brighter where more has changed
    tokens: list[list[int]]
    places: list[tuple[int, int]]  # (row, column) of every token replaced

    def json(self) -> dict:
        return {"tokens": self.tokens, "places": self.places}


@dataclass(frozen=True)
class CodeMap:
    """The code vectors on a plane."""

    points: list[tuple[float, float]]  # by code, in [-1, 1], along the two directions in which codes differ most
    counts: list[int]  # uses in the training split, by code
    explained: float  # share of the codes' variance that the plane shows

    def json(self) -> dict:
        return {"points": self.points, "counts": self.counts, "explained": round(self.explained, 4)}


def _png(image: Image.Image, settings: dict) -> bytes:
    text, file = PngInfo(), io.BytesIO()
    text.add_text("mmdemo", json.dumps(settings))
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()
