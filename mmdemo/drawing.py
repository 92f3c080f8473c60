"""What a transformer can be asked to draw, and what comes of it: pictures, films, edits, comparisons, strips.

`request()` and `comparison()` check every argument; the rest is what a pipeline makes of a checked Request. It knows
no files and no page. torch is imported only once a pipeline is there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import arguments, images, packs
from mmdemo.arguments import choice, number, shown, whole
from mmdemo.errors import ArgumentError, PackError
from mmdemo.packs import MAX_GUIDANCE, MAX_STEPS
from mmdemo.views import Cell, Frame, NoisedFrame, Samples, SamplingProgress, Strip

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from mmdemo.pipeline import ClassPipeline, Step

MAX_COUNT = 64
BUDGET = 6400  # steps × pictures of one request: about half a minute on two CPU cores
MAX_SEED = 2**31 - 1  # a generator heeds 32 bits, and image i has seed + i
MAX_AXIS = 8  # values along a side of a comparison
MAX_STRIP = 16
ALL = "all"  # the label that stands for every class in order
AXES = ("steps", "guidance", "sampler", "seed", "label")


@dataclass(frozen=True)
class Request:
    """Checked arguments of a drawing: all it takes to make it again."""

    pack: packs.Pack
    labels: tuple[str, ...]  # one an image
    seed: int  # image i has seed + i
    steps: int
    guidance: float
    sampler: str
    interval: tuple[float, float]

    @property
    def settings(self) -> dict:
        """As the answers repeat them."""
        common = ("seed", "steps", "guidance", "sampler", "interval")
        return {"pack": self.pack.name} | {name: getattr(self, name) for name in common}


def request(found: packs.Pack, label, count, seed, steps, guidance, sampler, interval) -> Request:
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
        interval=found.interval if interval is None else arguments.interval("interval", interval),
    )


def one_class(found: packs.Pack, label, *settings, count: int = 1) -> Request:
    """A request whose label is a single class: neither several nor `all`."""
    if found.can_sample:  # else that is what request() says
        choice("label", label, found.classes)
    return request(found, label, count, *settings)


def comparison(asked: Request, x: str, xs: Sequence, y: str, ys: Sequence) -> list[list[Request]]:
    """A Request for every cell, row by row: x goes right, y goes down.

    Raises ArgumentError if an axis or one of its values is wrong, or all together are too much.
    """
    choice("x", x, AXES)
    choice("y", y, tuple(axis for axis in AXES if axis != x))
    for name, values in (("xs", xs), ("ys", ys)):
        if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= MAX_AXIS:
            raise ArgumentError(f"{name} is {shown(values)}; it must be a list of 1 to {MAX_AXIS} values")
    cells = [[_changed(asked, {x: right, y: down}) for right in xs] for down in ys]
    for name, values, line in (("xs", xs, cells[0]), ("ys", ys, [row[0] for row in cells])):
        if len(set(line)) < len(line):
            raise ArgumentError(f"{name} is {shown(values)}; it must hold no value twice")
    cost = sum(cell.steps for row in cells for cell in row)
    if cost > BUDGET:
        raise ArgumentError(f"all cells together take {cost} steps; at most {BUDGET} are allowed in one request")
    return cells


def _changed(asked: Request, changes: dict) -> Request:
    for axis, value in changes.items():
        if value is None:  # elsewhere None is a default, but a value along an axis is there to be read
            raise ArgumentError(f"{axis} is None; every value along an axis must be given")
    settings = {name: getattr(asked, name) for name in ("seed", "steps", "guidance", "sampler", "interval")}
    return one_class(asked.pack, *({"label": asked.labels[0]} | settings | changes).values())


def sampling(pipeline: ClassPipeline, asked: Request) -> Iterator[SamplingProgress]:
    """Pictures by class, watched; the last progress has the result."""
    started = time.perf_counter()
    for step in _steps(pipeline, asked, _generators(range(asked.seed, asked.seed + len(asked.labels)))):
        if step.index < step.total - 1:
            yield SamplingProgress(step.index, step.total, None, partial(_pictures, pipeline, step.x0))
    pictures = _pictures(pipeline, step.latents)
    seconds = time.perf_counter() - started
    seeds = [asked.seed + i for i in range(len(pictures))]
    result = Samples(pictures, list(asked.labels), seeds, seconds=seconds, **asked.settings)
    yield SamplingProgress(step.index, step.total, result, lambda: pictures)


def denoising(pipeline: ClassPipeline, asked: Request, **start) -> Iterator[Frame]:
    """One picture, step by step; the last frame is the result.  start: x0 and strength, to begin from a picture."""
    import torch

    from mmdemo import codec

    started, before, std = time.perf_counter(), None, codec.latent_std(pipeline.vae)
    for step in _steps(pipeline, asked, _generators([asked.seed]), compare=True, **start):
        x0 = step.latents if step.index == step.total - 1 else step.x0
        ids = pipeline.tokens(x0)
        tokens = ids[0].tolist()
        yield Frame(
            index=step.index,
            total=step.total,
            timestep=step.timestep,
            noise_level=step.noise_level,
            tokens=tokens,
            flips=flips(before, tokens),
            distance=codec.distance(pipeline.vae, x0 * std, ids) / std,
            guided=asked.interval[0] <= step.noise_level <= asked.interval[1],
            label=asked.labels[0],
            seconds=time.perf_counter() - started,
            decode=partial(_pictures, pipeline, torch.cat([step.x_t, x0, step.x0_label, step.x0_null])),
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
    x0, eps = latents_of(pipeline, original), _noise(pipeline, *_generators([asked.seed]))
    times = sorted(set(scheduler.timesteps.tolist()))  # Heun visits each twice
    for index, t in enumerate(times):
        a, s = (float(level) for level in noise_level(scheduler, torch.tensor(t)))
        yield NoisedFrame(
            index=index,
            total=len(times),
            timestep=t,
            noise_level=s / (a + s),
            a=a,
            s=s,
            image=_pictures(pipeline, a * x0 + s * eps)[0],
            seed=asked.seed,
            steps=asked.steps,
            sampler=asked.sampler,
            pack=asked.pack.name,
        )


def editing(pipeline: ClassPipeline, asked: Request, original: Image.Image, strength: float) -> Iterator[Frame]:
    """The picture noised to a share of the steps, then denoised with the label (SDEdit, arXiv:2108.01073)."""
    return denoising(pipeline, asked, x0=latents_of(pipeline, original), strength=strength)


def comparing(pipeline: ClassPipeline, cells: list[list[Request]]) -> Iterator[Cell]:
    """One picture a cell, each from its own settings, as it is done."""
    for row, requests in enumerate(cells):
        for column, asked in enumerate(requests):
            *_, last = sampling(pipeline, asked)
            yield Cell(row, column, last.images[0], asked.labels[0], last.result.seconds, asked.settings)


def morphing(pipeline: ClassPipeline, asked: Request, other_label: str, other_seed: int) -> Iterator[SamplingProgress]:
    """Pictures between two labels, two seeds, or both, watched: labels mix by their predictions, noise along the
    sphere. The last progress has the strip."""
    import torch

    from mmdemo.pipeline import slerp

    started, count = time.perf_counter(), len(asked.labels)
    shares = [i / (count - 1) for i in range(count)]
    # Samplers that draw noise at every step go on with that of the nearer end, from where `sampling` would.
    generators = _generators(asked.seed if share < 0.5 else other_seed for share in shares)
    noises = [_noise(pipeline, generator)[0] for generator in generators]
    for step in _steps(
        pipeline,
        asked,
        generators,
        latents=torch.stack([slerp(noises[0], noises[-1], share) for share in shares]),
        other_labels=[asked.pack.classes.index(other_label)] * count,
        mix=shares,
    ):
        if step.index < step.total - 1:
            yield SamplingProgress(step.index, step.total, None, partial(_pictures, pipeline, step.x0))
    pictures = _pictures(pipeline, step.latents)
    result = Strip(
        images=pictures,
        shares=shares,
        label=asked.labels[0],
        other_label=other_label,
        other_seed=other_seed,
        seconds=time.perf_counter() - started,
        **asked.settings,
    )
    yield SamplingProgress(step.index, step.total, result, lambda: pictures)


def latents_of(pipeline: ClassPipeline, original: Image.Image) -> Tensor:
    """(1, d, h, w): a picture's latents, not snapped to codes, in the units in which they are denoised."""
    from mmdemo import codec

    return codec.encode(pipeline.vae, images.to_tensor(original)[None]).float() / codec.latent_std(pipeline.vae)


def _steps(pipeline: ClassPipeline, asked: Request, generators: list[Generator], **more) -> Iterator[Step]:
    ids = [asked.pack.classes.index(label) for label in asked.labels]
    settings = (asked.steps, asked.guidance, asked.sampler)
    return pipeline.steps(ids, generators, *settings, guidance_interval=asked.interval, **more)


def _generators(seeds) -> list[Generator]:
    import torch

    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _noise(pipeline: ClassPipeline, generator: Generator) -> Tensor:
    """(1, d, h, w): what sampling with this generator starts from."""
    import torch

    config = pipeline.transformer.config
    size = (1, config.in_channels, config.sample_size, config.sample_size)
    return torch.randn(size, generator=generator).to(pipeline.device)


def _pictures(pipeline: ClassPipeline, latents: Tensor) -> list[Image.Image]:
    return images.to_images(pipeline.decode(latents))
