"""Studio: what a page, a script or a command may ask for, with every argument checked before any work is done.

It opens packs on first use and holds those last used. torch and diffusers are imported only then, so that a page can
be up first; what a pack stores ready-made (its list entry, its codebook) needs neither.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import inf, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmdemo import images, packs, views
from mmdemo.arguments import choice, number, shown, whole
from mmdemo.errors import ArgumentError, PackError
from mmdemo.views import Code, Codebook, Frame, PackInfo, Reconstruction, Samples, SamplingProgress

if TYPE_CHECKING:
    from mmdemo.pipeline import ClassPipeline

MAX_COUNT = 64
MAX_STEPS = 250
BUDGET = 6400  # steps × count of one request: about half a minute on two CPU cores
MAX_GUIDANCE = 20.0
MAX_SEED = 2**31 - 1  # a generator heeds 32 bits, and image i has seed + i
MIN_SIDE, MAX_SIDE = 8, 256  # pixels: SSIM has a window to fill, and 1024 would take a minute and 4 GB
DEVICES = ("auto", "cpu", "cuda", "mps")
ALL = "all"  # the label that stands for every class in order


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
        return [views.pack_info(pack) for pack in self._found().values()]

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
        return views.cover(self._pack(pack))

    def codebook(self, pack: str) -> Codebook:
        """Every code as a picture, and how often the training split used it."""
        return views.codebook(self._pack(pack))

    def code(self, pack: str, code: int) -> Code:
        """One code: its picture, its share, its nearest codes, real patches that use it."""
        found = self._pack(pack)
        return views.code(found, whole("code", code, 0, found.codes - 1))

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
        invert = {True: "yes", False: "no"}[invert] if isinstance(invert, bool) else invert
        choice("invert", invert, ("auto", "yes", "no"))
        side = found.image_size if size is None else _side(size, found.stride)
        if image is None:
            raise ArgumentError("image is missing; give a picture file")
        original = images.fit_square(images.open_image(image), side, found.channels)
        inverted = found.channels == 1 and (
            invert == "yes" or (invert == "auto" and images.border_is_lighter(original))
        )
        if inverted:
            original = original.point(lambda value: 255 - value)

        vae = self._pipeline(found).vae
        from mmdemo import codec

        ids = codec.encode_ids(vae, images.to_tensor(original)[None])  # (1, h, w)
        rebuilt = images.to_images(codec.decode_ids(vae, ids))[0]
        psnr, ssim = codec.quality(images.image_bytes(rebuilt)[None], images.image_bytes(original)[None])
        stored = (found.path / "codebook").is_dir()  # a pack from elsewhere may have none
        order = packs.read_codebook(found)["order"] if stored else list(range(found.codes))
        bits_per_pixel = ids.numel() * log2(found.codes) / (original.width * original.height)
        return Reconstruction(
            original=original,
            image=rebuilt,
            token_map=images.token_map(ids[0].cpu(), order, found.stride),
            tokens=ids[0].tolist(),
            stride=found.stride,
            psnr=psnr,
            ssim=ssim,
            bits_per_pixel=bits_per_pixel,
            compression_ratio=8 * found.channels / bits_per_pixel,
            inverted=inverted,
        )

    def decode(self, pack: str, tokens: list[list[int]]) -> Image.Image:
        """The picture of a grid of ids: h rows of w whole numbers in [0, K), at most MAX_SIDE pixels each way."""
        found = self._pack(pack)
        side, most = found.image_size // found.stride, max(MAX_SIDE, found.image_size) // found.stride
        form = f"a grid such as {side} rows of {side} ids from 0 to {found.codes - 1}"
        if not isinstance(tokens, list) or not tokens or not all(isinstance(row, list) and row for row in tokens):
            raise ArgumentError(f"tokens is {shown(tokens)}; it must be {form}")
        if len({len(row) for row in tokens}) > 1:
            raise ArgumentError(f"tokens has rows of different lengths; it must be {form}")
        if max(len(tokens), len(tokens[0])) > most:
            raise ArgumentError(f"tokens is {len(tokens)}×{len(tokens[0])}; at most {most}×{most} are allowed")
        ids = [[whole("tokens holds an id that", id, 0, found.codes - 1) for id in row] for row in tokens]

        vae = self._pipeline(found).vae
        import torch

        from mmdemo import codec

        return images.to_images(codec.decode_ids(vae, torch.tensor([ids])))[0]

    def sample(
        self,
        pack: str,
        label: str | Sequence[str],  # a class, several, or "all": image i gets the (i mod number)-th
        count: int = 1,
        seed: int | None = None,  # None = draw one and report it; image i has seed + i
        steps: int | None = None,  # None = the pack's default, here and below
        guidance: float | None = None,
        sampler: str | None = None,
    ) -> Samples:
        """Pictures by class."""
        *_, last = self.sampling(pack, label, count, seed, steps, guidance, sampler)
        return last.result

    def sampling(self, pack, label, count=1, seed=None, steps=None, guidance=None, sampler=None):
        """`sample`, watched: an iterator of SamplingProgress, whose last has the result. close() stops it at once."""
        return self._sampling(*self._request(pack, label, count, seed, steps, guidance, sampler))

    def denoise(self, pack, label, seed=None, steps=None, guidance=None, sampler=None) -> Iterator[Frame]:
        """One picture, watched step by step: an iterator of Frames, the last one the result."""
        return self._denoise(*self._request(pack, label, 1, seed, steps, guidance, sampler))

    def _request(self, pack, label, count, seed, steps, guidance, sampler) -> tuple[packs.Pack, dict[str, Any]]:
        found = self._pack(pack)
        if not found.can_sample:
            raise PackError(
                f"{found.name!r} has no transformer, so it cannot sample; train one: "
                f"python -m mmdemo train dit --pack {found.name}"
            )
        labels = [label] if isinstance(label, str) else label
        if not isinstance(labels, (list, tuple)) or not labels:
            raise ArgumentError(f"label is {shown(label)}; it must be one of {', '.join((ALL, *found.classes))}")
        for one in labels:
            choice("label", one, (ALL, *found.classes))
        labels = [name for one in labels for name in (found.classes if one == ALL else [one])]
        count = whole("count", count, 1, MAX_COUNT)
        steps = found.steps if steps is None else whole("steps", steps, 1, MAX_STEPS)
        if steps * count > BUDGET:
            raise ArgumentError(
                f"steps × count is {steps} × {count} = {steps * count}; at most {BUDGET} are allowed in one request"
            )
        seed = secrets.randbelow(MAX_SEED + 1) if seed is None else whole("seed", seed, 0, MAX_SEED)
        return found, {
            "labels": [labels[i % len(labels)] for i in range(count)],
            "seed": seed,
            "steps": steps,
            "guidance": found.guidance if guidance is None else number("guidance", guidance, 0, MAX_GUIDANCE),
            "sampler": found.samplers[0] if sampler is None else choice("sampler", sampler, found.samplers),
        }

    def _steps(self, found: packs.Pack, labels, seed, steps, guidance, sampler):
        pipeline = self._pipeline(found)
        import torch

        ids = [found.classes.index(label) for label in labels]
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(ids))]
        return pipeline, pipeline.steps(ids, generators, steps, guidance, sampler)

    def _sampling(self, found: packs.Pack, request: dict[str, Any]) -> Iterator[SamplingProgress]:
        pipeline, steps = self._steps(found, **request)
        started = time.perf_counter()
        labels = request.pop("labels")
        for step in steps:
            last = step.index == step.total - 1
            pictures = images.to_images(pipeline.decode(step.latents if last else step.x0))
            result = None
            if last:
                seeds = [request["seed"] + i for i in range(len(labels))]
                seconds = time.perf_counter() - started
                result = Samples(pictures, labels, seeds, pack=found.name, seconds=seconds, **request)
            yield SamplingProgress(step.index, step.total, pictures, result)

    def _denoise(self, found: packs.Pack, request: dict[str, Any]) -> Iterator[Frame]:
        pipeline, steps = self._steps(found, **request)
        started = time.perf_counter()
        (label,) = request.pop("labels")
        for step in steps:
            x0 = step.latents if step.index == step.total - 1 else step.x0
            yield Frame(
                index=step.index,
                total=step.total,
                timestep=step.timestep,
                noise_level=step.noise_level,
                x_t=images.to_images(pipeline.decode(step.x_t))[0],
                x0=images.to_images(pipeline.decode(x0))[0],
                tokens=pipeline.tokens(x0)[0].tolist(),
                label=label,
                pack=found.name,
                seconds=time.perf_counter() - started,
                **request,
            )

    def _found(self) -> dict[str, packs.Pack]:
        with self._fetching:
            if self._fetched is None:
                self._fetched = [packs.read_hub(repo) for repo in self._hub]
        return {pack.name: pack for pack in (*packs.find(self._weights), *self._fetched)}

    def _pack(self, name: str) -> packs.Pack:
        found = self._found()
        if not isinstance(name, str) or name not in found:
            usable = ", ".join(pack.name for pack in found.values() if not pack.problem) or "none yet: train one"
            raise PackError(f"pack is {shown(name)}; it must be one of: {usable}")
        if found[name].problem:
            raise PackError(f"pack {name!r} cannot be used: {found[name].problem}")
        return found[name]

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


def _side(size: int, stride: int) -> int:
    side = whole("size", size, max(MIN_SIDE, stride), MAX_SIDE)
    if side % stride:
        raise ArgumentError(
            f"size is {side}; it must be a multiple of the pack's stride, {stride}, and at most {MAX_SIDE}"
        )
    return side


def _bytes(pipeline: ClassPipeline) -> int:
    models = filter(None, (pipeline.vae, pipeline.transformer))
    return sum(tensor.nbytes for model in models for tensor in (*model.parameters(), *model.buffers()))
