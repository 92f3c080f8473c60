"""What the studio answers: plain records with pictures in them, and what of them goes into JSON; and watched runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmdemo import imagefolder, images
from mmdemo.arguments import Recipe
from mmdemo.kinds import quoted

T = TypeVar("T")
R = TypeVar("R")


class Run(Iterator[T], Generic[T, R]):
    """Work that can be watched: an iterator of what there is so far, and `result()`, which waits for what comes of it.

    What the result has, the run has too: `studio.sample("mnist", "7").images` waits for them. Nothing is computed
    before the first of it is asked for; close() ends it at once.
    """

    def __init__(self, work: Generator[T, None, R]):
        self._work, self._result = work, None

    def __next__(self) -> T:
        try:
            return next(self._work)
        except StopIteration as end:
            self._result = self._result if end.value is None else end.value
            raise

    def result(self) -> R:
        """Runs what is left of it.  Raises ValueError if it was closed, or failed, before its end."""
        for _ in self:
            pass
        if self._result is None:
            raise ValueError("the run ended before it was done, so there is no result")
        return self._result

    def close(self) -> None:
        self._work.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.result(), name)


@dataclass(frozen=True)
class Codebook:
    """A codebook as pictures and numbers."""

    sheet: Image.Image  # every swatch in `order`, `columns` wide
    swatches: Image.Image  # the same without gaps: the n-th of `order` at (n % columns, n // columns)
    swatch_size: int
    columns: int
    order: list[int]  # codes, similar ones near each other
    counts: list[int] | None  # uses in the training split, by code; None, and the next two, where nobody counted
    codes: int  # K
    used: int | None
    perplexity: float | None
    dim: int
    bits_per_token: float

    def swatch(self, code: int) -> Image.Image:
        n = self.order.index(code)
        return images.cell(self.swatches, n % self.columns, n // self.columns, self.swatch_size)

    def json(self) -> dict:
        perplexity = self.perplexity and round(self.perplexity, 2)
        return {"codes": self.codes, "used": self.used, "perplexity": perplexity, "dim": self.dim}


@dataclass(frozen=True)
class Code:
    """One code."""

    card: Image.Image  # swatch, nearest codes and patches in one picture
    swatch: Image.Image
    patches: list[Image.Image]  # real pictures around a token of this code
    code: int
    count: int | None  # uses in the training split; None, and the next, where nobody counted
    share: float | None  # count over all tokens
    nearest: list[dict]  # [{"code", "distance"}], nearest first

    def json(self) -> dict:
        return {"code": self.code, "share": self.share, "nearest": self.nearest}


@dataclass(frozen=True)
class Reconstruction:
    """A picture, its tokens, and the picture they decode to."""

    original: Image.Image  # what the model saw
    image: Image.Image
    token_map: Image.Image | None  # None, and the next, where the codec has no codebook
    tokens: list[list[int]] | None
    stride: int  # pixels a token covers in each direction
    psnr: float  # dB
    ssim: float
    bits_per_pixel: float | None  # None, and the next, where there are no tokens to be counted
    compression_ratio: float | None
    inverted: bool

    def json(self) -> dict:
        return {
            "tokens": self.tokens,
            "psnr": round(self.psnr, 3),
            "ssim": round(self.ssim, 4),
            "bits_per_pixel": self.bits_per_pixel,
            "compression_ratio": self.compression_ratio and round(self.compression_ratio, 2),
            "inverted": self.inverted,
        }


def named(label: str, reads: bool) -> str:
    """A label, within a sentence.  reads: whether it is a text."""
    return quoted(label) if reads else label


@dataclass(frozen=True)
class Drawing:
    """What drawings have in common: with their labels, all it takes to make them again."""

    pack: str
    recipe: Recipe
    seconds: float  # since the start
    reads: bool = field(default=False, kw_only=True)  # whether labels are texts
    notice: str = field(default="", kw_only=True)  # what of a text was not understood, in one sentence

    def named(self, label: str) -> str:
        """A label, within a sentence."""
        return named(label, self.reads)

    def json(self) -> dict:
        notice = {"notice": self.notice} if self.notice else {}
        return {"pack": self.pack, **self.recipe.json(), "seconds": round(self.seconds, 3)} | notice


@dataclass(frozen=True)
class Samples(Drawing):
    """Sampled pictures."""

    images: list[Image.Image]
    labels: list[str]  # one an image
    seeds: list[int]  # one an image

    def json(self) -> dict:
        return super().json() | {"labels": self.labels}

    def grid(self) -> Image.Image:
        """All in rows: ten a row if there are that many."""
        return images.grid(self.images, min(len(self.images), 10))

    def png_bytes(self, i: int | None = None) -> bytes:
        """Image i as a PNG file, None = the grid, with its settings in the file's `mmdemo` text."""
        if i is None:
            return png_bytes(self.grid(), self.json())
        return png_bytes(self.images[i], self.json() | {"labels": [self.labels[i]], "seed": self.seeds[i]})


@dataclass(frozen=True)
class Synthetic(Samples):
    """Labelled pictures to train on, which make a data set's folder (imagefolder.py)."""

    classes: tuple[str, ...]  # of the pack; () = it reads
    variants: list[Image.Image]  # one an image; [] = they were not asked for

    def json(self) -> dict:
        own = {name: value for name, value in super().json().items() if name != "labels"}
        return own | {"count": len(self.images), "augment": bool(self.variants), "labels": dict(Counter(self.labels))}

    def files(self) -> Iterator[tuple[str, Image.Image]]:
        """Every picture, and its place in the folder; a variant after its picture."""
        for i, (label, seed) in enumerate(zip(self.labels, self.seeds, strict=True)):
            yield imagefolder.place(self.classes, label, seed), self.images[i]
            if self.variants:
                yield imagefolder.place(self.classes, label, seed, variant=True), self.variants[i]

    def zip_bytes(self) -> bytes:
        """The folder as a zip file."""
        file = io.BytesIO()
        table = imagefolder.table(self.classes, self.labels, self.pack, self.recipe, bool(self.variants))
        with zipfile.ZipFile(file, "w") as folder:
            for name, image in self.files():
                folder.writestr(zipfile.ZipInfo(name), images.png(image))  # of 1980: the same set is the same file
            folder.writestr(zipfile.ZipInfo(imagefolder.metadata(self.classes)), table)
        return file.getvalue()


@dataclass(frozen=True)
class Made:
    """A set of pictures on its way, after step `index` of `total`."""

    index: int
    total: int
    done: Synthetic  # as if no more than its pictures had been asked for
    labels: list[str]  # of all that are
    decode: Callable[[], list[Image.Image]] = field(repr=False)

    @property
    def images(self) -> list[Image.Image]:
        """The pictures that are done, and the current guesses of those that are being drawn."""
        return self.done.images + self.decode()


@dataclass(frozen=True)
class Progress:
    """A drawing after step `index` of `total`. Its pictures are decoded when first looked at."""

    index: int
    total: int
    decode: Callable[[], list[Image.Image]] = field(repr=False)

    @cached_property
    def images(self) -> list[Image.Image]:
        """The current guess of every x0."""
        return self.decode()


@dataclass(frozen=True)
class Pull:
    """How much a word of a text pulls at the prediction of a step.  start, end: its place among the characters."""

    word: str
    start: int
    end: int
    map: list[list[float]]  # (h, w): the change of the prediction when the word is left out

    @property
    def mean(self) -> float:
        return sum(map(sum, self.map)) / (len(self.map) * len(self.map[0]))


@dataclass(frozen=True)
class Frame(Drawing):
    """One denoising step of one picture. Its pictures are decoded when first looked at: that takes half as long as
    the step, and who watches may skip some. So is how much each word pulls, which takes as long as a few steps."""

    label: str
    index: int
    total: int
    timestep: float  # of 1000
    noise_level: float  # 1 = pure noise, 0 = clean
    tokens: list[list[int]] | None  # of x0; None where the codec has no codebook
    flips: list[tuple[int, int]]  # (row, column) of the tokens that changed since the last frame
    distance: float | None  # mean distance of x0's latents to their codes, in standard deviations of the latents
    guided: bool  # whether guidance was on at this noise level
    original: Image.Image | None  # the picture that is edited, as the model sees it; None = from pure noise
    decode: Callable[[], list[Image.Image]] = field(repr=False)  # x_t, x0, x0_label, x0_null
    weigh: Callable[[], list[Pull]] = field(repr=False)

    @cached_property
    def pulls(self) -> list[Pull]:
        """Of every word that the pack reads in the label, the first MAX_WORDS of them; [] where it knows classes."""
        return self.weigh()

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
        shown = ("label", "index", "total", "timestep", "noise_level", "tokens", "flips", "guided")
        distance = None if self.distance is None else round(self.distance, 5)
        return super().json() | {name: getattr(self, name) for name in shown} | {"distance": distance}


@dataclass(frozen=True)
class NoisedFrame:
    """A picture under noise: x_t = a x_0 + s eps."""

    index: int
    total: int
    timestep: float  # of 1000
    noise_level: float  # s / (a + s): 1 = pure noise, 0 = clean
    a: float
    s: float
    image: Image.Image = field(repr=False)  # x_t, decoded
    seed: int
    steps: int
    sampler: str
    pack: str

    def json(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "image"}


@dataclass(frozen=True)
class Edit(Drawing):
    """A picture noised part of the way, and denoised with a label."""

    original: Image.Image  # what the model saw
    image: Image.Image
    label: str
    strength: float  # share of the steps taken
    taken: int  # steps taken

    def json(self) -> dict:
        return super().json() | {name: getattr(self, name) for name in ("label", "strength", "taken")}

    def png_bytes(self) -> bytes:
        """The result as a PNG file, with its settings in the file's `mmdemo` text."""
        return png_bytes(self.image, self.json())


@dataclass(frozen=True)
class Candidates:
    """A restoration after step `index` of `total`: a frame of each candidate."""

    index: int
    total: int
    frames: list[Frame]


@dataclass(frozen=True)
class Restoration(Drawing):
    """A picture restored, once or more often: candidate i has the seed `seeds[i]`."""

    task: str
    label: str | None  # None = drawn without
    seen: Image.Image  # what the model was given; to be made larger, it is smaller than the images
    images: list[Image.Image]
    seeds: list[int]
    factor: int | None = None
    noise: float | None = None  # standard deviation of pixels in [0, 1]: as given, or as estimated

    @property
    def image(self) -> Image.Image:
        """The first candidate."""
        return self.images[0]

    def likeness(self, truth: Image.Image) -> list[tuple[float, float]]:
        """PSNR in dB and SSIM of every candidate, held against the picture that it should be."""
        from mmdemo.codec import quality

        wanted = images.image_bytes(truth)[None]
        return [quality(images.image_bytes(one)[None], wanted) for one in self.images]

    def json(self) -> dict:
        more = ("factor",) if self.factor else ()
        noise = {} if self.noise is None else {"noise": round(self.noise, 4)}
        return super().json() | {name: getattr(self, name) for name in ("task", "label", "seeds", *more)} | noise

    def png_bytes(self) -> bytes:
        """All candidates in a row as a PNG file, with their settings in the file's `mmdemo` text."""
        several = len(self.images) > 1
        return png_bytes(images.grid(self.images, len(self.images)) if several else self.image, self.json())


@dataclass(frozen=True)
class Cell(Drawing):
    """One picture of a comparison."""

    index: int
    total: int
    row: int
    column: int
    image: Image.Image
    label: str

    def json(self) -> dict:
        return {"row": self.row, "column": self.column, "label": self.label} | super().json()


@dataclass(frozen=True)
class Strip(Drawing):
    """Pictures between two labels, two seeds, or both."""

    images: list[Image.Image]
    shares: list[float]  # of the other label and seed, one an image
    label: str
    other_label: str
    other_seed: int

    def json(self) -> dict:
        more = ("label", "other_label", "other_seed", "shares")
        return super().json() | {name: getattr(self, name) for name in more}


@dataclass(frozen=True)
class Blend(Drawing):
    """A picture at a place in a square. Labels, seeds and shares are those of its corners: top left, top right, bottom
    left, bottom right."""

    image: Image.Image
    labels: list[str]
    seeds: list[int]
    shares: list[float]
    x: float  # from left to right, in [0, 1]
    y: float  # from top to bottom

    def json(self) -> dict:
        rounded = {"shares": [round(share, 4) for share in self.shares]}
        return super().json() | {name: getattr(self, name) for name in ("labels", "seeds", "x", "y")} | rounded

    def png_bytes(self) -> bytes:
        """The picture as a PNG file, with its settings in the file's `mmdemo` text."""
        return png_bytes(self.image, self.json())


@dataclass(frozen=True)
class Reading:
    """A description after attribute `index` of `total`."""

    index: int
    total: int
    text: str  # what has been found so far


@dataclass(frozen=True)
class Description:
    """The words under which a picture is denoised best."""

    text: str  # a caption of tags
    attributes: dict[str, dict[str, float]]  # attribute -> value -> probability; of a scene's part "left hair"
    maps: list[tuple[str, Image.Image]]  # every word said, and the picture, warm where the word explains it
    seconds: float
    notice: str = ""  # why the words are not to be trusted, in one sentence

    @property
    def best(self) -> dict[str, str]:
        """Every attribute's likeliest value."""
        return {name: max(by_value, key=by_value.get) for name, by_value in self.attributes.items()}

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.maps]

    @property
    def pictures(self) -> list[Image.Image]:
        return [picture for _, picture in self.maps]

    def json(self) -> dict:
        rounded = {
            name: {value: round(share, 4) for value, share in by_value.items()}
            for name, by_value in self.attributes.items()
        }
        told = {"text": self.text, "attributes": rounded, "seconds": round(self.seconds, 3)}
        return told | ({"notice": self.notice} if self.notice else {})


@dataclass(frozen=True)
class Guess:
    """What a picture may be, after all that is likely was tried under `index` noises of at most `total`."""

    index: int
    total: int
    probabilities: dict[str, float]  # by class; all alike until each was tried


@dataclass(frozen=True)
class Classification:
    """The class under which a picture is denoised best."""

    label: str
    probabilities: dict[str, float]  # by class
    map: Image.Image  # the picture, warm where the class explains it better than the next likeliest
    other: str | None  # that one; None = there is but one class, which is held against none
    seconds: float

    def json(self) -> dict:
        rounded = {name: round(share, 4) for name, share in self.probabilities.items()}
        return {"label": self.label, "probabilities": rounded, "seconds": round(self.seconds, 3)}


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
    counts: list[int] | None  # uses in the training split, by code; None where nobody counted
    explained: float  # share of the codes' variance that the plane shows

    def json(self) -> dict:
        return {"points": self.points, "counts": self.counts, "explained": round(self.explained, 4)}


def png_bytes(image: Image.Image, settings: dict) -> bytes:
    """A PNG file with the settings in its `mmdemo` text."""
    text, file = PngInfo(), io.BytesIO()
    text.add_text("mmdemo", json.dumps(settings))
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()
