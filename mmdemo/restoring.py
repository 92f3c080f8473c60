"""Pictures restored by the model that draws: inpainted, made larger, cleaned of noise.

One mechanism for all. What was seen of a picture is y = A(picture), up to noise, and the tasks differ in A and in the
noise alone: each is an Operator. At every step the prediction of x0 is moved to where its picture explains y, by a few
steps of optimization through the decoder (as ReSample, arXiv:2307.08123, does in hard data consistency, and DiffPIR,
arXiv:2305.08995, weighs the two). How far it may move, and what that means for the rest of the picture, follows by the
transformer's own Jacobian (`informed`). It knows no files and no page; torch is imported only once a pipeline
is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images
from mmdemo.errors import ArgumentError
from mmdemo.packs import Pack
from mmdemo.results import Candidates, Frame, Restoration
from mmdemo.sampling import Request, as_asked, flips
from mmdemo.tokens import seen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmdemo.pipeline import ClassPipeline, Step

NEEDS = {"inpaint": "mask", "upscale": "factor", "denoise": "noise"}  # the option of each task, and of no other
SAMPLER = "ddpm"  # fresh noise at every step lets the parts of a drawing find together; every schedule has it
ITERATIONS = 2  # of conjugate gradients, twice at every step
PROBE = 0.3  # of a standard deviation of x0: how far along a direction its curvature is looked for
REACH = 2  # standard deviations of x0 by which what was seen of a picture may move the rest at a step
TINY = 1e-12  # where nothing is left to be moved
TOLERANCE = 0.05  # standard deviation that is granted to pixels seen without noise: what the codec loses
EXPECTATIONS = 4  # rounds of estimating the noise, at every step of the optimization
FADE, FADED = 0.6, 0.05  # what is left of the miss at a seam a pixel further inside, and what is left alone
THRESHOLD = 32  # of 255, from which a pixel of a mask is to be drawn anew: its seen part is mixed with what was erased


@dataclass(frozen=True)
class Damaged:
    """What was seen of a picture, as pictures: all that a task is asked with, checked."""

    task: str
    image: Image.Image  # as the model sees it; to be made larger, smaller by `factor`
    inverted: bool
    mask: Image.Image | None = None  # "L", of the same size: 255 where it is to be drawn anew, else 0
    factor: int | None = None
    noise: float | None = None  # None = to be estimated


def damaged(
    pack: Pack,
    image: Image.Image,
    task: str,
    mask: Image.Image | None,
    factor: int | None,
    noise: float | None,
    invert: str,
) -> Damaged:
    """Raises ArgumentError if these do not make a task."""
    for other, name in NEEDS.items():
        if other != task and {"mask": mask, "factor": factor, "noise": noise}[name] is not None:
            raise ArgumentError(f"{name} is given, but task is {task}; only {other} has a use for it")
    if task == "upscale":
        if factor is None:
            raise ArgumentError("factor is missing; to upscale takes 2 or 4")
        if pack.image_size % factor:
            raise ArgumentError(f"factor is {factor}; it must divide the side of {pack.name!r}, {pack.image_size}")
        return Damaged(task, *seen(pack, image, invert, pack.image_size // factor), factor=factor)
    if task == "denoise":
        return Damaged(task, *seen(pack, image, invert), noise=noise)
    if mask is None:
        raise ArgumentError("mask is missing; to inpaint takes a picture that is white where it is to be drawn anew")
    given = [images.size_given(one) for one in (mask, image)]
    if given[0] != given[1]:
        sizes = " and image ".join(f"{width}×{height}" for width, height in given)
        raise ArgumentError(f"mask is {sizes} pixels; both must be of one size")
    fitted = images.fit_square(mask, pack.image_size, 1).point(lambda value: 255 * (value >= THRESHOLD))
    low, high = fitted.getextrema()
    if not high:
        raise ArgumentError("mask has no white in what is seen of the picture; paint white what is to be drawn anew")
    if low:
        raise ArgumentError("mask is white all over; leave black what is to stay of the picture")
    return Damaged(task, *seen(pack, image, invert), mask=fitted)


def restore(pipeline: ClassPipeline, request: Request, asked: Damaged) -> Generator[Candidates, None, Restoration]:
    """A candidate for each of the request's labels, all of them the same; None = drawn without a label."""
    import torch

    from mmdemo import codec

    started, labelled = time.perf_counter(), bool(request.labels[0] or request.recipe.negative)
    if not labelled:  # from nothing to nothing there is nowhere to guide
        request = replace(request, recipe=replace(request.recipe, guidance=1.0, interval=(0.0, 1.0)))
    pack, recipe, before = request.pack, request.recipe, None
    std = codec.latent_std(pipeline.vae)
    operator, seeds = operator_of(asked, pipeline.device), [recipe.seed + i for i in range(len(request.labels))]
    low, high = recipe.interval
    going = steps(
        pipeline,
        operator,
        [None if label is None else as_asked(pack, label) for label in request.labels],
        [torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance,
        sampler=recipe.sampler,
        guidance_interval=recipe.interval,
        negative_label=None if recipe.negative is None else as_asked(pack, recipe.negative),
    )
    for step in going:
        x0 = step.latents if step.index == step.total - 1 else step.x0
        ids = pipeline.tokens(x0) if pack.codes else None
        tokens = [None] * len(x0) if ids is None else ids.tolist()
        frames = [
            Frame(
                **request.common | {"recipe": replace(recipe, seed=seed)},
                seconds=time.perf_counter() - started,
                label=request.labels[i] or "",
                index=step.index,
                total=step.total,
                timestep=step.timestep,
                noise_level=step.noise_level,
                tokens=tokens[i],
                flips=flips(before and before[i], tokens[i]),
                distance=tokens[i] and codec.distance(pipeline.vae, x0[i : i + 1] * std, ids[i : i + 1]) / std,
                guided=labelled and low <= step.noise_level <= high,
                original=asked.image.resize((pack.image_size,) * 2, Image.Resampling.NEAREST),
                decode=partial(_pictures, pipeline, operator, step.x_t[i : i + 1], x0[i : i + 1]),
                weigh=list,
            )
            for i, seed in enumerate(seeds)
        ]
        yield Candidates(step.index, step.total, frames)
        before = tokens
    shown = picture(pipeline, operator, x0)
    return Restoration(
        **request.common,
        seconds=time.perf_counter() - started,
        task=asked.task,
        label=request.labels[0],
        seen=asked.image,
        images=images.to_images(shown),
        seeds=seeds,
        factor=asked.factor,
        noise=operator.level((shown + 1) / 2).mean().item() if asked.task == "denoise" else None,
    )


def _pictures(pipeline: ClassPipeline, operator: Operator, x_t: Tensor, x0: Tensor) -> list[Image.Image]:
    """As a Frame has them; what the label alone would do is not looked at."""
    (noisy,), (guess,) = images.to_images(pipeline.decode(x_t)), images.to_images(picture(pipeline, operator, x0))
    return [noisy, guess, guess, guess]


class Operator:
    """What was seen, and how badly pictures explain it.  y: (B or 1, C, h, w) in [0, 1]."""

    def __init__(self, y: Tensor):
        self.y = y

    def lost(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> (B,) nats: -log p(y | x), up to a constant."""
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        """The picture as it is given out, where some of it was seen as it is."""
        return x


class Inpaint(Operator):
    """Seen but for a region.  mask: (B or 1, 1, H, W), 1 where nothing was seen, else 0."""

    def __init__(self, y: Tensor, mask: Tensor):
        super().__init__(y)
        self.mask = mask

    def lost(self, x):
        return normal((x - self.y) * (1 - self.mask), TOLERANCE)

    def finish(self, x):
        """What was seen, pixel for pixel. By how much the drawn part misses it where they meet is taken out of the
        drawn part too, ever less the farther inside, so that there is no seam."""
        import torch.nn.functional as F

        known, missed, inside = 1 - self.mask, (self.y - x) * (1 - self.mask), self.mask
        fade = 1.0
        while fade > FADED and bool((inside > 0).any()):  # a ring of pixels at a time
            near, count = (F.avg_pool2d(one, 3, 1, 1) for one in (missed, known))
            ring = inside * (count > 0)
            missed = missed + ring * near / count.clamp(min=1e-6)
            known, inside, fade = known + ring, inside - ring, fade * FADE
            x = x + ring * fade * missed
        return self.y * (1 - self.mask) + x * self.mask


class Upscale(Operator):
    """Seen smaller: a pixel is the mean of factor × factor of the picture's."""

    def __init__(self, y: Tensor, factor: int):
        super().__init__(y)
        self.factor = factor

    def lost(self, x):
        import torch.nn.functional as F

        return normal(F.avg_pool2d(x, self.factor) - self.y, TOLERANCE / self.factor)


class Denoise(Operator):
    """Seen under noise that is normal before it is cut off at black and white, as a picture file must.  noise: its
    standard deviation, of pixels in [0, 1]; None = the one that explains y best, anew for every picture it is asked of.
    """

    def __init__(self, y: Tensor, noise: float | None):
        super().__init__(y)
        self.noise = noise

    def lost(self, x):
        from torch.special import log_ndtr

        s = self.level(x)
        beyond = log_ndtr(-x / s) * (self.y <= 0) + log_ndtr((x - 1) / s) * (self.y >= 1)  # Tobin, 1958
        within = (-0.5 * ((x - self.y) / s) ** 2 - s.log()) * self._within
        return -(beyond + within).flatten(1).sum(1)

    def level(self, x: Tensor) -> Tensor:
        """(B, 1, 1, 1): the noise's standard deviation, given or estimated by expectation maximization."""
        import torch

        if self.noise is not None:
            return x.new_full((len(x), 1, 1, 1), max(self.noise, TOLERANCE))
        x, within = x.detach(), self._within
        s = (x - self.y).square().mean((1, 2, 3), keepdim=True).sqrt().clamp(TOLERANCE, 1)
        for _ in range(EXPECTATIONS):
            # The mean of n² over n < -x, or over n > 1 - x, where the cut hides it.
            cut = torch.where(self.y <= 0, -x, x - 1) / s
            hidden = 1 - cut * (-0.5 * cut.square() - torch.special.log_ndtr(cut)).exp() / (2 * torch.pi) ** 0.5
            n = torch.where(within, (x - self.y).square(), s.square() * hidden)
            s = n.mean((1, 2, 3), keepdim=True).sqrt().clamp(TOLERANCE, 1)
        return s

    @property
    def _within(self) -> Tensor:
        return (self.y > 0) & (self.y < 1)


def normal(residual: Tensor, deviation: float) -> Tensor:
    """(B, …) -> (B,): -log of a normal density, up to a constant."""
    return 0.5 * (residual / deviation).square().flatten(1).sum(1)


def operator_of(asked: Damaged, device: torch.device | str = "cpu") -> Operator:
    y = images.image_bytes(asked.image)[None].to(device).float() / 255
    if asked.task == "inpaint":
        return Inpaint(y, images.image_bytes(asked.mask)[None].to(device).float() / 255)
    return Upscale(y, asked.factor) if asked.task == "upscale" else Denoise(y, asked.noise)


def informed(x0: Tensor, x_t: Tensor, a: Tensor, s: Tensor, agree: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A prediction x0 of x_t, changed by what was seen of the picture: (B, d, h, w), without gradient.

    agree: (x0, variance) -> x0 as what was seen would have it if all latents varied alike, each by itself. What that
    change means for the rest follows by their covariance given x_t, which is s² / a times the Jacobian of the
    prediction (arXiv:2405.13712): the guidance of pseudoinverse-guided diffusion (Song et al., ICLR 2023;
    on the straight path arXiv:2310.04432, section 3). Then what was seen is made to hold again.
    """
    import torch

    most = s * s / (a * a + s * s)  # if latents were independent and normal
    if a < 0.02 * s:  # of pure noise a prediction depends on nothing
        return agree(x0.detach(), most.expand(len(x0), *[1] * (x0.ndim - 1)))

    def covariance(w: Tensor) -> Tensor:
        return torch.autograd.grad(x0, x_t, w, retain_graph=True)[0] * (s * s / a)

    def mean(w: Tensor) -> Tensor:
        return w.mean(tuple(range(1, w.ndim)), keepdim=True)

    # The mean of the variances, a trace, by Hutchinson's estimate: the same signs for every picture.
    signs = torch.randint(2, x0.shape[1:], generator=torch.Generator().manual_seed(0)).to(x0) * 2 - 1
    signs = signs.expand_as(x0)
    variance = torch.minimum(mean(signs * covariance(signs)).clamp(min=1e-3 * most), most)
    seen = agree(x0.detach(), variance)
    carried = covariance(seen - x0.detach()) / variance
    reach = REACH * (variance / mean(carried.square()).clamp(min=TINY)).sqrt()
    return agree(x0.detach() + reach.clamp(max=1) * carried, variance)


def explained(pipeline: ClassPipeline, operator: Operator, x0: Tensor, variance: Tensor) -> Tensor:
    """Latents x0 (B, d, h, w), predicted up to a variance (B, 1, 1, 1), moved to where their picture explains what was
    seen: towards the minimum of -log p(y | decoder(z)) + |z - x0|² / 2 variance.

    By conjugate gradients (Polak & Ribière, 1969). A step is as long as the curvature along it says, so no rate is
    set: a latent that changes little in the picture moves little.
    """
    import torch

    from mmdemo import codec

    std = codec.latent_std(pipeline.vae)

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((1, 2, 3), keepdim=True)

    def loss(z: Tensor) -> Tensor:
        lost = operator.lost((codec.paint(pipeline.vae, z * std) + 1) / 2)
        return lost.view(-1, 1, 1, 1) + dot(z - x0, z - x0) / (2 * variance)

    z, way, before = x0, None, None
    for _ in range(ITERATIONS):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            here = loss(z)
            (slope,) = torch.autograd.grad(here.sum(), z)  # not backward(): the models' parameters are everybody's
        z, here = z.detach(), here.detach()
        if way is None:
            way = -slope
        else:
            way = (dot(slope, slope - before) / dot(before, before).clamp(min=TINY)).clamp(min=0) * way - slope
            way = torch.where(dot(slope, way) < 0, way, -slope)
        before, along, size = slope, dot(slope, way), dot(way, way)
        probe = PROBE * (variance * way[0].numel() / size.clamp(min=TINY)).sqrt()
        curvature = 2 * (loss(z + probe * way) - here - probe * along) / probe.square()
        z = z - along / torch.maximum(curvature, size / variance).clamp(min=TINY) * way  # the prior's own is sure
    return z


def steps(
    pipeline: ClassPipeline, operator: Operator, labels: Sequence, generators: Sequence[torch.Generator], **settings
) -> Iterator[Step]:
    """The pipeline's steps to B pictures that explain what was seen.  settings: as its own; None among the labels = no
    label."""
    null = pipeline.null_label
    settings = {"sampler": SAMPLER} | settings
    unlabelled = all(label is None for label in labels)
    if unlabelled and settings.get("negative_label") is None:
        settings["guidance_scale"] = 1.0  # from nothing to nothing there is nowhere to guide
    labels = [null if label is None else label for label in labels]
    return pipeline.steps(
        labels, generators, agree=partial(informed, agree=partial(explained, pipeline, operator)), **settings
    )


def picture(pipeline: ClassPipeline, operator: Operator, latents: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1]: latents as the picture that is given out."""
    return operator.finish((pipeline.decode(latents) + 1) / 2).clamp(0, 1) * 2 - 1
