"""What a transformer can be asked to draw, and what comes of it: pictures, films, edits, comparisons, strips.

`request()` checks every argument; the rest are streams that a pipeline computes for a checked Request. It knows no
files and no page. torch is imported by the streams, once a pipeline is there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images, packs
from mmdemo.arguments import choice, number, shown, whole
from mmdemo.errors import ArgumentError, PackError
from mmdemo.views import Cell, Frame, NoisedFrame, Samples, SamplingProgress, Strip

if TYPE_CHECKING:
    from torch import Tensor

    from mmdemo.pipeline import ClassPipeline, Step

MAX_COUNT = 64
MAX_STEPS = 250
BUDGET = 6400  # steps × pictures of one request: about half a minute on two CPU cores
MAX_GUIDANCE = 20.0
MAX_SEED = 2**31 - 1  # a generator heeds 32 bits, and image i has seed + i
MAX_AXIS = 8  # values along a side of a comparison
MAX_STRIP = 16
ALL = "all"  # the label that stands for every class in order
AXES = ("steps", "guidance", "sampler", "seed", "label")
EVERYWHERE = (0.0, 1.0)  # the noise levels between which guidance is on


@dataclass(frozen=True)
class Request:
    """Checked arguments of a drawing: all it takes to make it again."""

    pack: packs.Pack
    labels: tuple[str, ...]  # one an image
    seed: int  # image i has seed + i
    steps: int
    guidance: float
    sampler: str
    interval: tuple[float, float] = EVERYWHERE

    @property
    def settings(self) -> dict:
        """As the answers repeat them."""
        common = ("seed", "steps", "guidance", "sampler", "interval")
        return {"pack": self.pack.name} | {name: getattr(self, name) for name in common}


def request(found: packs.Pack, label, count, seed, steps, guidance, sampler, interval=None) -> Request:
    """Raises PackError if the pack cannot sample, and ArgumentError naming the first argument that is wrong."""
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
    return Request(
        pack=found,
        labels=tuple(labels[i % len(labels)] for i in range(count)),
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else whole("seed", seed, 0, MAX_SEED),
        steps=steps,
        guidance=found.guidance if guidance is None else number("guidance", guidance, 0, MAX_GUIDANCE),
        sampler=found.samplers[0] if sampler is None else choice("sampler", sampler, found.samplers),
        interval=_interval(interval),
    )


def _interval(interval) -> tuple[float, float]:
    if interval is None:
        return EVERYWHERE
    if not isinstance(interval, (list, tuple)) or len(interval) != 2:
        raise ArgumentError(f"interval is {shown(interval)}; it must be two noise levels such as [0.2, 0.8]")
    low, high = (number("interval's noise level", level, 0, 1) for level in interval)
    if low > high:
        raise ArgumentError(f"interval is [{low:g}, {high:g}]; its first noise level must not exceed the second")
    return low, high


def sampling(pipeline: ClassPipeline, asked: Request) -> Iterator[SamplingProgress]:
    """Pictures by class, watched; the last progress has the result."""
    started = time.perf_counter()
    for step in _steps(pipeline, asked):
        last = step.index == step.total - 1
        pictures = images.to_images(pipeline.decode(step.latents if last else step.x0))
        result = None
        if last:
            seeds = [asked.seed + i for i in range(len(asked.labels))]
            seconds = time.perf_counter() - started
            result = Samples(pictures, list(asked.labels), seeds, seconds=seconds, **asked.settings)
        yield SamplingProgress(step.index, step.total, pictures, result)


def denoising(pipeline: ClassPipeline, asked: Request, **start) -> Iterator[Frame]:
    """One picture, step by step; the last frame is the result.  start: x0 and strength, to begin from a picture."""
    import torch

    from mmdemo import codec

    started, before, std = time.perf_counter(), None, codec.latent_std(pipeline.vae)
    for step in _steps(pipeline, asked, compare=True, **start):
        x0 = step.latents if step.index == step.total - 1 else step.x0
        tokens = pipeline.tokens(x0)[0].tolist()
        decoded = pipeline.decode(torch.cat([step.x_t, x0, step.x0_label, step.x0_null]))
        x_t, guess, by_label, without = images.to_images(decoded)
        yield Frame(
            index=step.index,
            total=step.total,
            timestep=step.timestep,
            noise_level=step.noise_level,
            x_t=x_t,
            x0=guess,
            x0_label=by_label,
            x0_null=without,
            tokens=tokens,
            flips=flips(before, tokens),
            distance=codec.distance(pipeline.vae, x0 * std) / std,
            guided=asked.interval[0] <= step.noise_level <= asked.interval[1],
            label=asked.labels[0],
            seconds=time.perf_counter() - started,
            **asked.settings,
        )
        before = tokens


def flips(before: list[list[int]] | None, tokens: list[list[int]]) -> list[tuple[int, int]]:
    """(row, column) of every token that is another than before; none where there was nothing before."""
    if before is None:
        return []
    places = product(range(len(tokens)), range(len(tokens[0])))
    return [(row, column) for row, column in places if tokens[row][column] != before[row][column]]


def noising(pipeline: ClassPipeline, asked: Request, original: Image.Image) -> Iterator[NoisedFrame]:
    """The picture under ever more noise: q(x_t | x_0) in closed form, at the times at which it would be denoised."""
    import torch

    from mmdemo.pipeline import make_scheduler, noise_level, set_timesteps

    scheduler = make_scheduler(pipeline.scheduler, asked.sampler)
    set_timesteps(scheduler, asked.steps, "cpu")
    x0, eps = latents_of(pipeline, original), _noise(pipeline, asked.seed)
    times = list(reversed(list(dict.fromkeys(scheduler.timesteps.tolist()))))  # Heun visits each twice
    for index, t in enumerate(times):
        a, s = (float(level) for level in noise_level(scheduler, torch.tensor(t)))
        image = images.to_images(pipeline.decode(a * x0 + s * eps))[0]
        yield NoisedFrame(index=index, total=len(times), timestep=t, noise_level=s / (a + s), a=a, s=s, image=image)


def editing(pipeline: ClassPipeline, asked: Request, original: Image.Image, strength: float) -> Iterator[Frame]:
    """The picture noised to a share of the steps, then denoised with the label (SDEdit, arXiv:2108.01073)."""
    return denoising(pipeline, asked, x0=latents_of(pipeline, original), strength=strength)


def comparison(asked: Request, x: str, xs: Sequence, y: str, ys: Sequence) -> list[list[Request]]:
    """A Request for every cell, row by row: x goes right, y goes down.

    Raises ArgumentError if an axis or one of its values is wrong, or all together are too much.
    """
    choice("x", x, AXES)
    choice("y", y, tuple(axis for axis in AXES if axis != x))
    for name, values in (("xs", xs), ("ys", ys)):
        if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= MAX_AXIS:
            raise ArgumentError(f"{name} is {shown(values)}; it must be a list of 1 to {MAX_AXIS} values")
        if len({str(value) for value in values}) < len(values):
            raise ArgumentError(f"{name} is {shown(values)}; it must not hold a value twice")
    cells = [[_with(asked, {x: one, y: other}) for one in xs] for other in ys]
    cost = sum(cell.steps for row in cells for cell in row)
    if cost > BUDGET:
        raise ArgumentError(f"all cells together take {cost} steps; at most {BUDGET} are allowed in one request")
    return cells


def _with(asked: Request, changes: dict) -> Request:
    if changes.get("label") == ALL:
        raise ArgumentError(f"label is {ALL!r}; a cell shows one class: {', '.join(asked.pack.classes)}")
    now = {"label": asked.labels[0], "seed": asked.seed, "steps": asked.steps, "guidance": asked.guidance}
    now |= {"sampler": asked.sampler} | changes
    for name, value in changes.items():  # None would mean a default, which a cell cannot show
        if value is None:
            raise ArgumentError(f"{name} is None; every value along an axis must be given")
    label, seed, steps, guidance, sampler = (now[name] for name in ("label", "seed", "steps", "guidance", "sampler"))
    return request(asked.pack, label, 1, seed, steps, guidance, sampler, list(asked.interval))


def comparing(pipeline: ClassPipeline, cells: list[list[Request]]) -> Iterator[Cell]:
    """One picture a cell, each from its own settings, as it is done."""
    for row, requests in enumerate(cells):
        for column, asked in enumerate(requests):
            *_, last = sampling(pipeline, asked)
            made = last.result
            yield Cell(row, column, made.images[0], made.labels[0], made.seconds, asked.settings)


def morph(pipeline: ClassPipeline, asked: Request, other_label: str, other_seed: int) -> Strip:
    """Pictures between two labels, two seeds, or both: labels mix by their predictions, noise along the sphere."""
    import torch

    from mmdemo.pipeline import slerp

    count = len(asked.labels)
    shares = [i / (count - 1) for i in range(count)]
    ends = _noise(pipeline, asked.seed)[0], _noise(pipeline, other_seed)[0]
    started = time.perf_counter()
    *_, last = _steps(
        pipeline,
        asked,
        latents=torch.stack([slerp(*ends, share) for share in shares]),
        other_labels=[asked.pack.classes.index(other_label)] * count,
        mix=shares,
    )
    pictures = images.to_images(pipeline.decode(last.latents))
    return Strip(
        images=pictures,
        shares=shares,
        label=asked.labels[0],
        other_label=other_label,
        other_seed=other_seed,
        seconds=time.perf_counter() - started,
        **asked.settings,
    )


def latents_of(pipeline: ClassPipeline, original: Image.Image) -> Tensor:
    """(1, d, h, w): a picture's latents, not snapped to codes, in the units in which they are denoised."""
    from mmdemo import codec

    return codec.encode(pipeline.vae, images.to_tensor(original)[None]).float() / codec.latent_std(pipeline.vae)


def _noise(pipeline: ClassPipeline, seed: int) -> Tensor:
    """(1, d, h, w): what sampling with this seed starts from."""
    import torch

    config = pipeline.transformer.config
    size = (config.in_channels, config.sample_size, config.sample_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))[None].to(pipeline.device)


def _steps(pipeline: ClassPipeline, asked: Request, **more) -> Iterator[Step]:
    import torch

    ids = [asked.pack.classes.index(label) for label in asked.labels]
    generators = [torch.Generator().manual_seed(asked.seed + i) for i in range(len(ids))]
    settings = (asked.steps, asked.guidance, asked.sampler)
    return pipeline.steps(ids, generators, *settings, guidance_interval=asked.interval, **more)
