"""What a transformer can be asked to draw, and what comes of it: pictures, films, edits, comparisons, blends.

A Request is all checked arguments of a drawing; the rest is what a pipeline makes of one, as generators that return
their result. It knows no files and no page. torch is imported only once a pipeline is there.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images
from mmdemo.arguments import ARGUMENTS, AXES, Recipe
from mmdemo.errors import ArgumentError
from mmdemo.kinds import choice, shown
from mmdemo.packs import Pack, read_words
from mmdemo.results import Blend, Cell, Edit, Frame, Made, NoisedFrame, Progress, Pull, Run, Samples, Strip, Synthetic

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmdemo.pipeline import ClassPipeline, Step

MAX_WORDS = 48  # of a text, whose pull is measured
TOGETHER = 50  # pictures of a set that are drawn at once: more are no faster on two CPU cores
BUDGET = 6400  # steps × pictures of one request: about half a minute on two CPU cores


@dataclass(frozen=True)
class Request:
    """What is to be drawn, and how: all it takes to make it again.  Raises ArgumentError if it is too much at once."""

    pack: Pack
    labels: tuple[str, ...]  # one an image
    recipe: Recipe  # image i has its seed + i

    def __post_init__(self):
        steps, count = self.recipe.steps, len(self.labels)
        if steps * count > BUDGET:
            most = f"at most {BUDGET} are allowed in one request, with {steps} steps a count of {BUDGET // steps}"
            raise ArgumentError(f"steps × count is {steps} × {count} = {steps * count}; {most}")

    @property
    def common(self) -> dict:
        """As the answers repeat it."""
        texts = [*self.labels, self.recipe.negative or ""] if self.pack.words else []
        notice = _notice(self.pack, tuple(texts)) if any(texts) else ""
        return {"pack": self.pack.name, "recipe": self.recipe, "reads": self.pack.words, "notice": notice}


@lru_cache(maxsize=64)
def _notice(pack: Pack, texts: tuple[str, ...]) -> str:
    """What of texts is not read. Kept, for a picture that follows a hand says so many times a second."""
    return read_words(pack).notice(texts)


def request(pack: Pack, labels: Sequence[str], count: int, recipe: Recipe) -> Request:
    """`count` pictures that take the labels in turn."""
    return Request(pack, tuple(labels[i % len(labels)] for i in range(count)), recipe)


def comparison(request: Request, x: str, xs: Sequence, y: str, ys: Sequence) -> list[list[Request]]:
    """A Request for every cell, row by row: x goes right, y goes down.

    Raises ArgumentError if an axis or one of its values is wrong, or all together are too much.
    """
    choice("y", y, tuple(axis for axis in AXES if axis != x))
    cells = [[_changed(request, {x: right, y: down}) for right in xs] for down in ys]
    for name, values, line in (("xs", xs, cells[0]), ("ys", ys, [row[0] for row in cells])):
        if len(set(line)) < len(line):
            raise ArgumentError(f"{name} is {shown(values)}; it must hold no value twice")
    cost = sum(cell.recipe.steps for row in cells for cell in row)
    if cost > BUDGET:
        raise ArgumentError(f"all cells together take {cost} steps; at most {BUDGET} are allowed in one request")
    return cells


def _changed(request: Request, changes: dict) -> Request:
    settings = {"label": request.labels[0]} | asdict(request.recipe)
    for axis, value in changes.items():
        if value is None:  # elsewhere None is a default, but a value along an axis is there to be read
            raise ArgumentError(f"{axis} is None; every value along an axis must be given")
        settings[axis] = ARGUMENTS[axis].check(axis, value, request.pack)
    return Request(request.pack, (settings.pop("label"),), Recipe(**settings))


def sample(pipeline: ClassPipeline, request: Request) -> Generator[Progress, None, Samples]:
    """Pictures by class."""
    started = time.perf_counter()
    seeds = [request.recipe.seed + i for i in range(len(request.labels))]
    latents = yield from _watched(pipeline, _steps(pipeline, request, _generators(seeds)))
    pictures = _pictures(pipeline, latents)
    seconds = time.perf_counter() - started
    return Samples(**request.common, seconds=seconds, images=pictures, labels=list(request.labels), seeds=seeds)


def synthesize(pipeline: ClassPipeline, request: Request, augment: bool) -> Generator[Made, None, Synthetic]:
    """Pictures by class to train on, some at a time; with a variant of each, if asked for."""
    started, labels = time.perf_counter(), list(request.labels)
    classes = () if request.pack.words else request.pack.classes
    done = Synthetic(**request.common, seconds=0.0, images=[], labels=[], seeds=[], classes=classes, variants=[])
    parts = -(-len(labels) // TOGETHER)
    for part in range(parts):
        first = part * TOGETHER
        recipe = replace(request.recipe, seed=request.recipe.seed + first)
        some = Run(sample(pipeline, replace(request, labels=request.labels[first : first + TOGETHER], recipe=recipe)))
        for step in some:
            yield Made(part * step.total + step.index, parts * step.total, done, labels, step.decode)
        done = replace(
            done,
            images=done.images + some.images,
            labels=done.labels + some.labels,
            seeds=done.seeds + some.seeds,
            variants=done.variants + (_variants(some.images, some.seeds) if augment else []),
            seconds=time.perf_counter() - started,
        )
    return done


def _variants(pictures: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
    import torch

    from mmdemo.augmentation import augmented

    return images.to_images(augmented(torch.stack([images.image_bytes(one) for one in pictures]), seeds))


def denoise(pipeline: ClassPipeline, request: Request, original: Image.Image | None = None, **start) -> Iterator[Frame]:
    """One picture, step by step; the last frame is the result.  start: x0 and strength, to begin from a picture."""
    import torch

    from mmdemo import codec

    started, before, std = time.perf_counter(), None, codec.latent_std(pipeline.vae)
    low, high = request.recipe.interval
    for step in _steps(pipeline, request, _generators([request.recipe.seed]), compare=True, **start):
        x0 = step.latents if step.index == step.total - 1 else step.x0
        sides = [x0 if one is None else one for one in (step.x0_label, step.x0_null)]  # a student has but one guess
        ids = pipeline.tokens(x0) if request.pack.codes else None
        tokens = None if ids is None else ids[0].tolist()
        frame = Frame(
            **request.common,
            seconds=time.perf_counter() - started,
            label=request.labels[0],
            index=step.index,
            total=step.total,
            timestep=step.timestep,
            noise_level=step.noise_level,
            tokens=tokens,
            flips=flips(before, tokens),
            distance=None if ids is None else codec.distance(pipeline.vae, x0 * std, ids) / std,
            guided=low <= step.noise_level <= high,
            original=original,
            decode=partial(_pictures, pipeline, torch.cat([step.x_t, x0, *sides])),
            weigh=partial(_pulls, pipeline, step, request.labels[0]),
        )
        yield frame
        before = tokens
    return frame


def _pulls(pipeline: ClassPipeline, step: Step, label: str) -> list[Pull]:
    if pipeline.words is None:
        return []
    read = [(place, word) for place, word in enumerate(pipeline.words.words(label)) if word.ids][:MAX_WORDS]
    maps = pipeline.pulls(step, label, [place for place, _ in read]).tolist()
    return [Pull(word.text, word.start, word.end, one) for (_, word), one in zip(read, maps, strict=True)]


def flips(before: list[list[int]] | None, tokens: list[list[int]] | None) -> list[tuple[int, int]]:
    """(row, column) of every token that is another than before; none where there was nothing before."""
    if before is None:
        return []
    places = product(range(len(tokens)), range(len(tokens[0])))
    return [(row, column) for row, column in places if tokens[row][column] != before[row][column]]


def noise(
    pipeline: ClassPipeline, pack: Pack, original: Image.Image, recipe: Recipe
) -> Generator[NoisedFrame, None, list[NoisedFrame]]:
    """The picture under ever more noise: q(x_t | x_0) in closed form, at the times at which it would be denoised."""
    import torch

    from mmdemo.schedules import make_scheduler, noise_level, set_timesteps

    scheduler = make_scheduler(pipeline.scheduler, recipe.sampler)
    set_timesteps(scheduler, recipe.steps, "cpu")
    x0 = latents_of(pipeline, original)
    eps = _noise(pipeline, *_generators([recipe.seed])).to(x0.device)
    times = sorted(set(scheduler.timesteps.tolist()))  # Heun visits each twice
    frames = []
    for index, t in enumerate(times):
        a, s = (float(level) for level in noise_level(scheduler, torch.tensor(t)))
        frame = NoisedFrame(
            index=index,
            total=len(times),
            timestep=t,
            noise_level=s / (a + s),
            a=a,
            s=s,
            image=_pictures(pipeline, a * x0 + s * eps)[0],
            seed=recipe.seed,
            steps=recipe.steps,
            sampler=recipe.sampler,
            pack=pack.name,
        )
        frames.append(frame)
        yield frame
    return frames


def edit(
    pipeline: ClassPipeline, request: Request, original: Image.Image, strength: float
) -> Generator[Frame, None, Edit]:
    """The picture noised to a share of the steps, then denoised with the label (SDEdit, arXiv:2108.01073)."""
    from mmdemo.schedules import first_step

    last = yield from denoise(pipeline, request, original, x0=latents_of(pipeline, original), strength=strength)
    return Edit(
        **request.common,
        seconds=last.seconds,
        original=original,
        image=last.x0,
        label=last.label,
        strength=strength,
        taken=request.recipe.steps - first_step(request.recipe.steps, strength),  # frames are more: Heun has two a step
    )


def compare(pipeline: ClassPipeline, cells: list[list[Request]]) -> Generator[Cell, None, list[Cell]]:
    """One picture a cell, each from its own settings, as it is done."""
    done, total = [], sum(map(len, cells))
    for row, requests in enumerate(cells):
        for column, request in enumerate(requests):
            made = Run(sample(pipeline, request)).result()
            where = {"index": len(done), "total": total, "row": row, "column": column, "label": made.labels[0]}
            cell = Cell(**request.common, seconds=made.seconds, image=made.images[0], **where)
            done.append(cell)
            yield cell
    return done


def morph(
    pipeline: ClassPipeline, request: Request, other_label: str, other_seed: int
) -> Generator[Progress, None, Strip]:
    """Pictures between two labels, two seeds, or both."""
    started, count = time.perf_counter(), len(request.labels)
    shares = [i / (count - 1) for i in range(count)]
    ends = (request.labels[0], other_label)
    seeds = (request.recipe.seed, other_seed)
    steps = _within(pipeline, request, 2 * ends, 2 * seeds, [(share, 0.0) for share in shares])
    pictures = _pictures(pipeline, (yield from _watched(pipeline, steps)))
    return Strip(
        **replace(request, labels=ends).common,  # whose notice is of both
        seconds=time.perf_counter() - started,
        images=pictures,
        shares=shares,
        label=ends[0],
        other_label=ends[1],
        other_seed=other_seed,
    )


def blend(
    pipeline: ClassPipeline, request: Request, seeds: Sequence[int], x: float, y: float
) -> Generator[Progress, None, Blend]:
    """A picture at a place in a square between the four labels of a request, and four seeds."""
    started = time.perf_counter()
    steps = _within(pipeline, request, request.labels, seeds, [(x, y)])
    (picture,) = _pictures(pipeline, (yield from _watched(pipeline, steps)))
    return Blend(
        **request.common,
        seconds=time.perf_counter() - started,
        image=picture,
        labels=list(request.labels),
        seeds=list(seeds),
        shares=corner_shares(x, y),
        x=x,
        y=y,
    )


def corner_shares(x: float, y: float) -> list[float]:
    """What each corner of a square has of a place in it: top left, top right, bottom left, bottom right (bilinear).

    x: from left to right.  y: from top to bottom; both from 0 to 1.
    """
    return [across * down for down in (1 - y, y) for across in (1 - x, x)]


def _within(
    pipeline: ClassPipeline,
    request: Request,
    labels: Sequence[str],  # at the corners of a square, in the order of `corner_shares`
    seeds: Sequence[int],
    places: Sequence[tuple[float, float]],  # (x, y) of every picture
) -> Iterator[Step]:
    """The steps of pictures at places in a square: labels mix by what they mean, noise along the sphere."""
    import torch

    from mmdemo.pipeline import slerp

    drawn = {seed: _noise(pipeline, *_generators([seed])) for seed in seeds}
    corners = [drawn[seed] for seed in seeds]
    latents = [slerp(slerp(*corners[:2], x), slerp(*corners[2:], x), y) for x, y in places]
    shares, different = [corner_shares(x, y) for x, y in places], list(dict.fromkeys(labels))
    mix = [
        [sum(one for one, at in zip(each, labels, strict=True) if at == label) for label in different]
        for each in shares
    ]
    # Samplers that draw noise at every step go on with that of the nearest corner, from where `sample` would.
    generators = _generators(seeds[max(range(4), key=lambda corner: (each[corner], corner))] for each in shares)
    for generator in generators:
        _noise(pipeline, generator)
    return _steps(
        pipeline,
        replace(request, labels=tuple(different)),
        generators,
        latents=torch.cat(latents),
        mix=mix,
    )


def latents_of(pipeline: ClassPipeline, original: Image.Image) -> Tensor:
    """(1, d, h, w): a picture's latents, not snapped to codes, in the units in which they are denoised."""
    from mmdemo import codec

    return codec.encode(pipeline.vae, images.to_tensor(original)[None]).float() / codec.latent_std(pipeline.vae)


def _watched(pipeline: ClassPipeline, steps: Iterator[Step]) -> Generator[Progress, None, Tensor]:
    """The guess after every step; returns the latents after the last one, (B, d, h, w)."""
    for step in steps:
        yield Progress(step.index, step.total, partial(_pictures, pipeline, step.x0))
    return step.latents


def _steps(pipeline: ClassPipeline, request: Request, generators: list[torch.Generator], **more) -> Iterator[Step]:
    recipe, pack = request.recipe, request.pack
    return pipeline.steps(
        [as_asked(pack, label) for label in request.labels],
        generators,
        recipe.steps,
        recipe.guidance,
        recipe.sampler,
        guidance_interval=recipe.interval,
        negative_label=None if recipe.negative is None else as_asked(pack, recipe.negative),
        **more,
    )


def as_asked(pack: Pack, label: str) -> int | str:
    """A label as the pipeline takes it: the class's id, or the text itself."""
    return label if pack.words else pack.classes.index(label)


def _generators(seeds) -> list[torch.Generator]:
    import torch

    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _noise(pipeline: ClassPipeline, generator: torch.Generator) -> Tensor:
    """(1, d, h, w), on the CPU: what sampling with this generator starts from."""
    import torch

    config = pipeline.transformer.config
    size = (1, config.in_channels, config.sample_size, config.sample_size)
    return torch.randn(size, generator=generator)


def _pictures(pipeline: ClassPipeline, latents: Tensor) -> list[Image.Image]:
    return images.to_images(pipeline.decode(latents))
