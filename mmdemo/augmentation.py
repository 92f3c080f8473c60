"""Variants of pictures to train on: each is rotated, scaled, shifted and noised, by its seed alone.

Knows tensors of pixels and torchvision; no packs and no labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ANGLE = 10.0  # degrees, to either side
SCALE = 0.1  # share by which it grows or shrinks
SHIFT = 0.08  # share of a side, in each direction
NOISE = 0.04  # standard deviation, of the range of a pixel, at most
APART = 2**31  # beyond the seeds that draw: what is drawn and how it is varied have no number in common


def augmented(pixels: Tensor, seeds: Sequence[int]) -> Tensor:
    """A variant of each picture, the same for the same seed.  pixels: (N, C, H, W) uint8, and so is what it returns.

    What comes in from beyond the edge is the picture mirrored: of a digit its ground, of a photograph more of the same.
    """
    return torch.stack([_varied(one, seed) for one, seed in zip(pixels, seeds, strict=True)])


def _varied(picture: Tensor, seed: int) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode  # seconds to import
    from torchvision.transforms.v2 import functional as F

    rng = torch.Generator().manual_seed(APART + seed)  # v2's own classes draw from the generator that all share
    angle, scale, right, down = (2 * torch.rand(4, generator=rng) - 1).tolist()
    strength = NOISE * float(torch.rand((), generator=rng))
    height, width = picture.shape[-2:]
    edge = min(height, width) // 4
    moved = F.affine(
        F.pad(picture.float(), [edge], padding_mode="reflect"),
        angle=ANGLE * angle,
        translate=[SHIFT * width * right, SHIFT * height * down],
        scale=1 + SCALE * scale,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    noisy = F.center_crop(moved, [height, width]) + 255 * strength * torch.randn(picture.shape, generator=rng)
    return noisy.round().clamp(0, 255).to(torch.uint8)
