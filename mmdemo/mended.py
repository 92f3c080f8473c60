"""How well a pack restores pictures, beside what a person would use instead: OpenCV's inpainting (Telea) and non-local
means, and Lanczos; as judging.py says. OpenCV is imported here alone.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmdemo import data, restoring
from mmdemo.arguments import EVALUATED
from mmdemo.errors import PackError
from mmdemo.images import image_bytes, to_bytes, to_images
from mmdemo.judging import Evaluation, columns_of, sheet
from mmdemo.metrics import accuracy, likeness

BATCH = 100
LABELLED = "the label given"
NOISES = (0.25, 0.5)  # standard deviations, of pixels in [0, 1]
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3)  # of non-local means, times the noise's standard deviation
RADIUS = 3  # pixels around each that Telea's method looks at, as in OpenCV's own example


class Mended(NamedTuple):
    """Pictures restored in one way."""

    damage: str
    way: str
    pixels: Tensor  # (N, C, H, W) uint8


def measure(evaluation: Evaluation, count: int) -> dict:
    """How well a pack restores test pictures, beside other means: what `evaluate --restore` adds to a card's numbers.

    PSNR and SSIM as in `evaluate`; read: the share that the classifier reads right, of pictures with classes.
    count: test pictures, in a random order.  Raises PackError and DataError.
    """
    pack, unpadded = evaluation.pack, evaluation.unpadded
    count = EVALUATED["restore"].check("restore", count, None)
    if not pack.can_sample:
        raise PackError(f"{pack.name!r} has no transformer, so it cannot restore; train one first")
    train, test = evaluation.split("train"), evaluation.split("test")
    some = data.permuted(len(test), 0, min(count, len(test)), seed=2)
    pixels, labels, classes = test.pixels[some], test.labels[some], bool(pack.classes and test.classes)
    judge = evaluation.classifier(train) if classes else None
    others = train.pixels[data.permuted(len(train), 0, min(100, len(train)), seed=3)]
    rows, shown, given = [], [], labels if classes else None
    for damage, way, made in mended(evaluation, pixels, given, others):
        alike = likeness(unpadded(made), unpadded(pixels))
        read = {"read": accuracy(judge, made, labels)} if judge else {}
        rows.append({"damage": damage, "way": way, "psnr": alike["psnr"], "ssim": alike["ssim"], **read})
        shown.append(made[: columns_of(pixels, len(rows))])
        evaluation.report(" ".join(f"{one:.3f}" if isinstance(one, float) else one for one in rows[-1].values()))
    columns = columns_of(pixels, len(shown) + 1)
    evaluation.show("restored.png", sheet([one[:columns] for one in (pixels, *shown)]))
    return {"restored": rows, "restored_of": len(pixels), "restored_minutes": evaluation.minutes}


def mended(
    evaluation: Evaluation,
    pixels: Tensor,  # (N, C, H, W) uint8
    labels: Tensor | None,  # (N,) class ids, to be given where a label is; None = there are none
    training: Tensor,  # some training pictures, on which the strength of non-local means is chosen
) -> Iterator[Mended]:
    """Every damage, mended in every way; picture i is drawn with seed i, once."""
    pipeline = evaluation.pipeline

    def restored(damage: str, operator: Callable[[slice], restoring.Operator], how: str = "") -> Mended:
        def draw(part: slice) -> Tensor:
            rngs = [torch.Generator().manual_seed(seed) for seed in range(part.start, part.stop)]
            asked = [int(label) for label in labels[part]] if how == LABELLED else [None] * len(rngs)
            *_, last = restoring.steps(pipeline, one := operator(part), asked, rngs)
            return to_bytes(restoring.picture(pipeline, one, last.latents)).cpu()

        parts = []
        for start in range(0, len(pixels), BATCH):
            part = slice(start, min(start + BATCH, len(pixels)))
            key = ("restored", damage, how, start)
            given = [labels[part]] if how == LABELLED else []
            parts.append(evaluation.unfinished.part(partial(draw, part), key, pixels[part], *given))
            evaluation.report(f"restoring, {damage}: {part.stop}/{len(pixels)}")
        return Mended(damage, f"restored{how and ', '}{how}", torch.cat(parts))

    def y(seen: Tensor, part: slice) -> Tensor:
        return seen[part].to(pipeline.device).float() / 255

    damage, erased = "lower half erased", torch.zeros(1, 1, *pixels.shape[-2:])
    erased[..., pixels.shape[-2] // 2 :, :] = 1
    seen = (pixels * (1 - erased)).to(torch.uint8)
    yield Mended(
        damage, "Telea", by_opencv(seen, lambda cv2, one: cv2.inpaint(one, _array(erased), RADIUS, cv2.INPAINT_TELEA))
    )
    for how in ("", LABELLED)[: 1 if labels is None else 2]:
        yield restored(
            damage, lambda part, seen=seen: restoring.Inpaint(y(seen, part), erased.to(pipeline.device)), how
        )

    for factor in (2, 4):
        damage, seen = f"shrunk by {factor}", shrunk(pixels, factor)
        yield Mended(damage, "Lanczos", torch.stack([_lanczos(one, pixels.shape[-2:]) for one in to_images(seen)]))
        yield restored(damage, lambda part, seen=seen, factor=factor: restoring.Upscale(y(seen, part), factor))

    for noise in NOISES:
        damage, seen = f"noise of {noise:g}", noised(pixels, noise, seed=0)
        strength = best_strength(training, noise)
        yield Mended(damage, f"non-local means, h = {strength:.0f}", non_local_means(seen, strength))
        for level, how in ((noise, ""), (None, "the noise estimated")):
            yield restored(damage, lambda part, seen=seen, level=level: restoring.Denoise(y(seen, part), level), how)


def shrunk(pixels: Tensor, factor: int) -> Tensor:
    """Every pixel the mean of factor × factor: (N, C, H, W) uint8 -> (N, C, H/factor, W/factor) uint8."""
    return F.avg_pool2d(pixels.float(), factor).round().to(torch.uint8)


def noised(pixels: Tensor, noise: float, seed: int) -> Tensor:
    """Under normal noise, cut off at black and white as a picture file must: uint8."""
    rng = torch.Generator().manual_seed(seed)
    return to_bytes(2 * (pixels / 255 + noise * torch.randn(pixels.shape, generator=rng)) - 1)


def best_strength(pixels: Tensor, noise: float) -> float:
    """The h of non-local means with the least error on these pictures."""
    seen = noised(pixels, noise, seed=1)
    return min(
        (255 * noise * share for share in STRENGTHS),
        key=lambda h: float((non_local_means(seen, h).float() - pixels.float()).square().mean()),
    )


def non_local_means(pixels: Tensor, h: float) -> Tensor:
    def clean(cv2, one):
        if one.ndim == 2:
            return cv2.fastNlMeansDenoising(one, None, h)
        # It looks at lightness and colour apart, and takes blue for the first.
        return cv2.fastNlMeansDenoisingColored(one[..., ::-1].copy(), None, h, h)[..., ::-1].copy()

    return by_opencv(pixels, clean)


def by_opencv(pixels: Tensor, work: Callable) -> Tensor:
    """work(cv2, picture) for every picture, an array (H, W) or (H, W, 3) of uint8; likewise back."""
    import cv2

    pictures = [work(cv2, _array(one[None])) for one in pixels]
    return torch.stack([torch.from_numpy(one).view(*one.shape[:2], -1).permute(2, 0, 1) for one in pictures])


def _array(picture: Tensor):
    """(1, C, H, W) -> an array (H, W) or (H, W, C) of uint8."""
    one = picture[0].permute(1, 2, 0).contiguous().to(torch.uint8).numpy()
    return one[..., 0] if one.shape[-1] == 1 else one


def _lanczos(small: Image.Image, size: tuple[int, int]) -> Tensor:
    return image_bytes(small.resize(size[::-1], Image.Resampling.LANCZOS))
