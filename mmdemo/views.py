"""What the studio answers: plain records with pictures in them, and those of them that a pack stores ready-made."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, exp, log, log2

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmdemo import images, packs
from mmdemo.errors import MmdemoError

COVER = 128  # pixels of a cover's side


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
        settings = self.json()
        if i is not None:
            settings |= {"labels": [self.labels[i]], "seed": self.seeds[i]}
        text = PngInfo()
        text.add_text("mmdemo", json.dumps(settings))
        file = io.BytesIO()
        (self.grid() if i is None else self.images[i]).save(file, "PNG", pnginfo=text)
        return file.getvalue()


@dataclass(frozen=True)
class SamplingProgress:
    """Sampling after step `index` of `total`."""

    index: int
    total: int
    images: list[Image.Image]  # the current guess of every x0
    result: Samples | None  # in the last one only


@dataclass(frozen=True)
class Frame:
    """One denoising step of one picture."""

    index: int
    total: int
    timestep: float  # of 1000
    noise_level: float  # 1 = pure noise, 0 = clean
    x_t: Image.Image  # the noisy latents, decoded
    x0: Image.Image  # the current guess of the clean ones, decoded; in the last frame, the result
    x0_label: Image.Image  # the guess by the label alone
    x0_null: Image.Image  # the guess without a label
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

    def json(self) -> dict:
        shown = ("index", "total", "timestep", "noise_level", "tokens", "flips", "guided", *SETTINGS)
        rounded = {"distance": round(self.distance, 5), "seconds": round(self.seconds, 3)}
        return {name: getattr(self, name) for name in shown} | rounded


SETTINGS = ("pack", "label", "seed", "steps", "guidance", "sampler", "interval")


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


@dataclass(frozen=True)
class Cell:
    """One picture of a comparison."""

    row: int
    column: int
    image: Image.Image
    label: str
    seconds: float
    settings: dict


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
    shares: list[float]  # of the other picture


@dataclass(frozen=True)
class Replacement:
    """What a picture becomes when one code stands wherever another stood."""

    before: Image.Image
    after: Image.Image
    difference: Image.Image  # grey, brighter where more has changed
    tokens: list[list[int]]
    places: list[tuple[int, int]]  # (row, column) of every token replaced


@dataclass(frozen=True)
class CodeMap:
    """The code vectors on a plane."""

    points: list[tuple[float, float]]  # by code, in [-1, 1], along the two directions in which codes differ most
    counts: list[int]  # uses in the training split, by code
    explained: float  # share of the codes' variance that the plane shows


def pack_info(pack: packs.Pack) -> PackInfo:
    return PackInfo(
        pack.name, pack.classes, pack.codes, pack.image_size, pack.stride, pack.channels, pack.can_sample,
        pack.samplers, pack.steps, pack.guidance, pack.problem, pack.stamp,
    )  # fmt: skip


def code_map(pack: packs.Pack) -> CodeMap:
    """The first two principal components of the codebook, which is read from the pack without torch."""
    import numpy as np

    e = packs.read_codes(pack)
    e = e - e.mean(0)
    _, sizes, directions = np.linalg.svd(e, full_matrices=False)
    # An SVD's signs are arbitrary: make the largest number of each direction positive, so that the map is stable.
    directions = directions[:2] * np.sign([row[np.abs(row).argmax()] for row in directions[:2]])[:, None]
    places = np.zeros((len(e), 2))
    places[:, : len(directions)] = e @ directions.T
    places /= max(np.abs(places).max(), 1e-12)
    explained = float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-12))
    return CodeMap([(x, y) for x, y in places.round(4).tolist()], packs.read_codebook(pack)["counts"], explained)


def cover(pack: packs.Pack) -> Image.Image:
    """COVER × COVER pixels in colour: four examples (the first, if fewer), or the codebook's middle, or plain grey."""
    files = sorted((pack.path / "examples").glob("*.png"))[:4]
    with suppress(MmdemoError):  # what is wrong with a file is told where it is asked for; here the next best is shown
        if files:
            columns = 2 if len(files) == 4 else 1
            opened = [images.open_image(file) for file in files[: columns**2]]
            return images.grid([images.fit_square(image, COVER // columns, 3) for image in opened], columns, gap=0)
    with suppress(MmdemoError):
        swatches, *_ = _swatches(pack, packs.read_codebook(pack))
        left, top = (max(0, side - COVER) // 2 for side in swatches.size)
        middle = swatches.crop((left, top, swatches.width - left, swatches.height - top))
        return images.fit_square(middle, COVER, 3)
    return Image.new("RGB", (COVER, COVER), "grey")


def codebook(pack: packs.Pack) -> Codebook:
    """From the pack's codebook/ folder.  Raises PackError if it is missing or damaged."""
    stored = packs.read_codebook(pack)
    sprite, size, columns = _swatches(pack, stored)
    counts, total = stored["counts"], max(1, sum(stored["counts"]))
    entropy = -sum(n / total * log(n / total) for n in counts if n)
    swatches = [_cell(sprite, n % columns, n // columns, size) for n in range(pack.codes)]
    return Codebook(
        sheet=images.grid(swatches, columns),
        swatches=sprite,
        swatch_size=size,
        columns=columns,
        order=stored["order"],
        counts=counts,
        codes=pack.codes,
        used=sum(n > 0 for n in counts),
        perplexity=exp(entropy),
        dim=pack.dim,
        bits_per_token=log2(pack.codes),
    )


def code(pack: packs.Pack, k: int) -> Code:
    """From the pack's codebook/ folder.  Raises PackError if it is missing or damaged."""
    stored = packs.read_codebook(pack)
    sprite, size, columns = _swatches(pack, stored)
    place = {code: n for n, code in enumerate(stored["order"])}
    each, side = stored["patches_per_code"], stored["patch_size"]
    patch_sprite = packs.read_sprite(pack, "patches", each, pack.codes, side)
    patches = [_cell(patch_sprite, n, k, side) for n in range(min(each, stored["counts"][k]))]
    swatch = _cell(sprite, place[k] % columns, place[k] // columns, size)
    near = [_cell(sprite, place[n] % columns, place[n] // columns, size) for n in stored["nearest"][k]]
    return Code(
        card=_card(swatch, near, patches),
        swatch=swatch,
        patches=patches,
        code=k,
        count=stored["counts"][k],
        share=stored["counts"][k] / max(1, sum(stored["counts"])),
        nearest=[{"code": n, "distance": d} for n, d in zip(stored["nearest"][k], stored["distances"][k], strict=True)],
    )


def _swatches(pack: packs.Pack, stored: dict) -> tuple[Image.Image, int, int]:
    """The sprite of all swatches, the side of one, and the number of columns."""
    size, columns = stored["swatch_size"], stored["columns"]
    return packs.read_sprite(pack, "swatches", columns, ceil(pack.codes / columns), size), size, columns


def _card(swatch: Image.Image, near: list[Image.Image], patches: list[Image.Image]) -> Image.Image:
    """The swatch large on the left; its nearest codes above, real patches below."""
    cell, gap = 48, 4
    card = Image.new("RGB", (4 * cell + 3 * gap + gap + 8 * (cell + gap), 4 * cell + 3 * gap), "white")
    large = 4 * cell + 3 * gap
    card.paste(swatch.resize((large, large), Image.Resampling.NEAREST), (0, 0))
    for row, pictures in ((0.5, near), (2.5, patches)):
        for i, picture in enumerate(pictures[:8]):
            place = (large + 2 * gap + i * (cell + gap), int(row * (cell + gap)))
            card.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), place)
    return card


def _cell(sprite: Image.Image, column: int, row: int, size: int) -> Image.Image:
    return sprite.crop((column * size, row * size, (column + 1) * size, (row + 1) * size))
