"""Studio: what a page, a script or a command may ask for, with every argument checked before any work is done.

It opens packs on first use and holds those last used. torch and diffusers are imported only then, so that a page can
be up first; what a pack stores ready-made (its list entry, its codebook) needs neither.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import coding, drawing, images, packs, stored
from mmdemo.arguments import choice, number, shown, whole
from mmdemo.coding import MAX_SIDE
from mmdemo.drawing import ALL, AXES, BUDGET, MAX_AXIS, MAX_COUNT, MAX_GUIDANCE, MAX_SEED, MAX_STEPS, MAX_STRIP
from mmdemo.errors import ArgumentError, PackError
from mmdemo.views import (
    SETTINGS,
    Cell,
    Code,
    Codebook,
    CodeMap,
    Edit,
    Frame,
    Interpolation,
    NoisedFrame,
    PackInfo,
    Reconstruction,
    Replacement,
    Samples,
    SamplingProgress,
    Strip,
)  # fmt: skip

if TYPE_CHECKING:
    from mmdemo.pipeline import ClassPipeline

__all__ = [
    "ALL",
    "AXES",
    "BUDGET",
    "DEVICES",
    "MAX_AXIS",
    "MAX_COUNT",
    "MAX_GUIDANCE",
    "MAX_SEED",
    "MAX_SIDE",
    "MAX_STEPS",
    "MAX_STRIP",
    "Studio",
]

DEVICES = ("auto", "cpu", "cuda", "mps")


class Studio:
    """Packs in folders (and Hub repositories), and everything one may do with them. Safe to use from many threads.

    weights: folders that hold packs.  hub: repositories `owner/name[@revision]`.  device: one of DEVICES.
    memory: GB that the models held may take together; beyond it the least recently used go, never those just asked for.
    Every method raises ArgumentError, PackError or ImageError, one sentence each, before it starts to work.
    """

    def __init__(
        self,
        weights: Sequence[str | Path] = ("weights",),
        hub: Sequence[str] = (),
        device: str = "auto",
        memory: float = 2.0,
    ):
        self._weights = tuple(Path(folder) for folder in weights)
        self._hub = tuple(hub)
        self._fetched: list[packs.Pack] | None = None  # the Hub's packs, asked for once
        self._device = choice("device", device, DEVICES)
        self._memory = number("memory", memory, 0, inf) * 1e9
        # By name, with the pack's stamp when loaded; the least recently used first.
        self._pipelines: OrderedDict[str, tuple[int, ClassPipeline]] = OrderedDict()
        self._loading, self._fetching = threading.Lock(), threading.Lock()  # a list need not wait for a model

    def packs(self) -> list[PackInfo]:
        """Every pack, damaged ones with the reason; found anew each time, so a pack just trained is there."""
        return [stored.pack_info(pack) for pack in self._found().values()]

    def is_loaded(self, pack: str) -> bool:
        """Whether the pack's models are in memory."""
        return pack in self._pipelines

    def load(self, pack: str) -> None:
        """Bring the pack's models into memory: seconds the first time, for torch and diffusers; then nothing."""
        self._pipeline(self._pack(pack))

    def examples(self, pack: str) -> list[Image.Image]:
        """The pictures in the pack's examples/ folder, by name; [] without one."""
        folder = self._pack(pack).path / "examples"
        return [images.open_image(file) for file in sorted(folder.glob("*.png"))]

    def cover(self, pack: str) -> Image.Image:
        """A small square to know the pack by: four of its examples, or else some of its codes, or else grey."""
        return stored.cover(self._pack(pack))

    def codebook(self, pack: str) -> Codebook:
        """Every code as a picture, and how often the training split used it."""
        return stored.codebook(self._pack(pack))

    def code(self, pack: str, code: int) -> Code:
        """One code: its picture, its share, its nearest codes, real patches that use it."""
        found = self._pack(pack)
        return stored.code(found, whole("code", code, 0, found.codes - 1))

    def code_map(self, pack: str) -> CodeMap:
        """Every code as a point on the plane in which the codes differ most."""
        return stored.code_map(self._pack(pack))

    def reconstruct(
        self,
        pack: str,
        image: str | Path | Image.Image,
        invert: str | bool = "auto",
        size: int | None = None,  # None = the side of the pictures the pack was trained on
    ) -> Reconstruction:
        """A picture turned into tokens and back.

        image: a file or a PIL image; oriented, flattened on white, cropped to its middle square and resized.
        invert: "auto", "yes", "no" (or True, False), for one-channel packs: auto inverts if the border is lighter.
        size: the side in pixels of the square that the codec sees, a multiple of its stride: it is all convolutions.
        """
        found = self._pack(pack)
        original, inverted = coding.seen(found, image, invert, size)
        return coding.reconstruct(found, self._pipeline(found).vae, original, inverted)

    def decode(self, pack: str, tokens: list[list[int]]) -> Image.Image:
        """The picture of a grid of ids: h rows of w whole numbers in [0, K), at most MAX_SIDE pixels each way."""
        found = self._pack(pack)
        ids = coding.grid(found, tokens)
        return coding.decode(self._pipeline(found).vae, ids)

    def replace(self, pack: str, tokens: list[list[int]], code: int, by: int) -> Replacement:
        """What changes in the picture of a grid of ids when one code stands wherever another stood."""
        found = self._pack(pack)
        ids = coding.grid(found, tokens)
        code, by = whole("code", code, 0, found.codes - 1), whole("by", by, 0, found.codes - 1)
        return coding.replace(self._pipeline(found).vae, ids, code, by)

    def interpolate(
        self,
        pack: str,
        image: str | Path | Image.Image,
        other: str | Path | Image.Image,
        count: int = 7,
        invert: str | bool = "auto",
        size: int | None = None,
    ) -> Interpolation:
        """From one picture to another, through the latents and token by token. Arguments as in `reconstruct`."""
        found = self._pack(pack)
        count = whole("count", count, 2, drawing.MAX_STRIP)
        ends = tuple(
            coding.seen(found, one, invert, size, name)[0] for one, name in ((image, "image"), (other, "other"))
        )
        return coding.interpolate(self._pipeline(found).vae, ends, count)

    def sample(
        self,
        pack: str,
        label: str | Sequence[str],  # a class, several, or "all": image i gets the (i mod number)-th
        count: int = 1,
        seed: int | None = None,  # None = draw one and report it; image i has seed + i
        steps: int | None = None,  # None = the pack's default, here and below
        guidance: float | None = None,
        sampler: str | None = None,
        interval: Sequence[float] | None = None,  # the two noise levels between which to guide, of 0 to 1
    ) -> Samples:
        """Pictures by class."""
        *_, last = self.sampling(pack, label, count, seed, steps, guidance, sampler, interval)
        return last.result

    def sampling(
        self, pack, label, count=1, seed=None, steps=None, guidance=None, sampler=None, interval=None
    ) -> Iterator[SamplingProgress]:
        """`sample`, watched: an iterator of SamplingProgress, whose last has the result. close() stops it at once."""
        asked = drawing.request(self._pack(pack), label, count, seed, steps, guidance, sampler, interval)
        return self._draw(asked, drawing.sampling, asked)

    def denoise(
        self, pack, label, seed=None, steps=None, guidance=None, sampler=None, interval=None
    ) -> Iterator[Frame]:
        """One picture, watched step by step: an iterator of Frames, the last one the result."""
        asked = drawing.request(self._pack(pack), label, 1, seed, steps, guidance, sampler, interval)
        return self._draw(asked, drawing.denoising, asked)

    def noise(self, pack, image, seed=None, steps=None, sampler=None, invert="auto") -> Iterator[NoisedFrame]:
        """A picture under ever more noise, in closed form, at the times at which it would be denoised."""
        found = self._pack(pack)
        asked = drawing.request(found, ALL, 1, seed, steps, None, sampler, None)
        return self._draw(asked, drawing.noising, asked, coding.seen(found, image, invert)[0])

    def edit(
        self,
        pack: str,
        image: str | Path | Image.Image,
        label: str,
        strength: float = 0.8,  # share of the steps to take: 1 forgets the picture, little changes little
        seed: int | None = None,  # None = draw one and report it
        steps: int | None = None,  # None = the pack's default, here and below
        guidance: float | None = None,
        sampler: str | None = None,
        invert: str | bool = "auto",
        interval: Sequence[float] | None = None,
    ) -> Edit:
        """A picture noised part of the way and denoised with a label (SDEdit, arXiv:2108.01073)."""
        original, frames = self.editing(pack, image, label, strength, seed, steps, guidance, sampler, invert, interval)
        *_, last = frames
        from mmdemo.pipeline import first_step

        settings = {name: getattr(last, name) for name in SETTINGS}
        taken = last.steps - first_step(last.steps, strength)  # frames are more: Heun looks at a step twice
        return Edit(original, last.x0, float(strength), taken=taken, seconds=last.seconds, **settings)

    def editing(
        self, pack, image, label, strength=0.8, seed=None, steps=None, guidance=None, sampler=None, invert="auto",
        interval=None,
    ) -> tuple[Image.Image, Iterator[Frame]]:  # fmt: skip
        """`edit`, watched: the picture as the model sees it, and an iterator of Frames, the last one the result."""
        found = self._pack(pack)
        asked = drawing.one_class(found, label, seed, steps, guidance, sampler, interval)
        strength = number("strength", strength, 0, 1)
        if strength == 0:
            raise ArgumentError("strength is 0; it must be a number above 0 and at most 1: the share of steps to take")
        original, _ = coding.seen(found, image, invert)
        return original, self._draw(asked, drawing.editing, asked, original, strength)

    def compare(
        self,
        pack: str,
        x: str,  # one of AXES: what changes from left to right
        xs: Sequence,  # its values
        y: str,  # another of AXES: what changes from top to bottom
        ys: Sequence,
        label: str | None = None,  # None = the first class; here and below, what is no axis
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        interval: Sequence[float] | None = None,
    ) -> Iterator[Cell]:
        """A picture for every pair of values, all else being equal: an iterator of Cells, row by row."""
        found = self._pack(pack)
        label = next(iter(found.classes), "") if label is None else label
        asked = drawing.one_class(found, label, seed, steps, guidance, sampler, interval)
        return self._draw(asked, drawing.comparing, drawing.comparison(asked, x, xs, y, ys))

    def morph(
        self,
        pack: str,
        label: str,
        other_label: str | None = None,  # None = the same
        seed: int | None = None,
        other_seed: int | None = None,  # None = the same
        count: int = 7,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        interval: Sequence[float] | None = None,
    ) -> Strip:
        """Pictures between two labels, two seeds, or both."""
        *_, last = self.morphing(pack, label, other_label, seed, other_seed, count, steps, guidance, sampler, interval)
        return last.result

    def morphing(
        self, pack, label, other_label=None, seed=None, other_seed=None, count=7, steps=None, guidance=None,
        sampler=None, interval=None,
    ) -> Iterator[SamplingProgress]:  # fmt: skip
        """`morph`, watched: an iterator of SamplingProgress, whose last has the strip. close() stops it at once."""
        found = self._pack(pack)
        count = whole("count", count, 2, drawing.MAX_STRIP)
        asked = drawing.one_class(found, label, seed, steps, guidance, sampler, interval, count=count)
        other_label = asked.labels[0] if other_label is None else choice("other_label", other_label, found.classes)
        other_seed = asked.seed if other_seed is None else whole("other_seed", other_seed, 0, MAX_SEED)
        if (other_label, other_seed) == (asked.labels[0], asked.seed):
            raise ArgumentError("both ends of the strip are the same; give another other_label or other_seed")
        return self._draw(asked, drawing.morphing, asked, other_label, other_seed)

    def _draw(self, asked: drawing.Request, draw: Callable, *arguments) -> Iterator:
        """draw(pipeline, *arguments), with the models loaded when the first of it is asked for."""
        yield from draw(self._pipeline(asked.pack), *arguments)

    def _found(self, name: str | None = None) -> dict[str, packs.Pack]:
        """Every pack by its name, or those of one name."""
        with self._fetching:
            if self._fetched is None:
                self._fetched = [packs.read_hub(repo) for repo in self._hub]
        return {pack.name: pack for pack in (*packs.find(self._weights, name), *self._fetched)}

    def _pack(self, name: str) -> packs.Pack:
        found = self._found(name).get(name) if isinstance(name, str) else None
        if found is None:
            every = self._found().values()
            usable = ", ".join(pack.name for pack in every if not pack.problem) or "none yet: train one"
            raise PackError(f"pack is {shown(name)}; it must be one of: {usable}")
        if found.problem:
            raise PackError(f"pack {name!r} cannot be used: {found.problem}")
        return found

    def _pipeline(self, pack: packs.Pack) -> ClassPipeline:
        """Asked for before torch, diffusers or what needs them is imported: two threads at it at once would fail."""
        with self._loading:
            stamp, pipeline = self._pipelines.get(pack.name, (None, None))
            if stamp != pack.stamp:  # never loaded, dropped, or trained anew since
                pipeline = packs.load(pack, self._device)
                self._pipelines[pack.name] = pack.stamp, pipeline
            self._pipelines.move_to_end(pack.name)
            while len(self._pipelines) > 1 and sum(_bytes(held) for _, held in self._pipelines.values()) > self._memory:
                self._pipelines.popitem(last=False)  # a request still at work with it keeps it until it is done
            return pipeline


def _bytes(pipeline: ClassPipeline) -> int:
    models = filter(None, (pipeline.vae, pipeline.transformer))
    return sum(tensor.nbytes for model in models for tensor in (*model.parameters(), *model.buffers()))
