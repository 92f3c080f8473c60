"""A picture as tokens: what a codec makes of a picture or of token ids, once its model is there.

The other half of what the studio can do, next to sampling.py; packs, models and checked arguments are handed in.
"""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images, packs
from mmdemo.results import Interpolation, Reconstruction, Replacement

if TYPE_CHECKING:
    from torch import nn


def seen(pack: packs.Pack, image: Image.Image, invert: str, size: int | None = None) -> tuple[Image.Image, bool]:
    """A picture as the pack's codec sees it, and whether it was inverted.  size: None = the pack's own."""
    original = images.fit_square(image, size or pack.image_size, pack.channels)
    lighter = invert == "auto" and images.border_is_lighter(original)
    if pack.channels > 1 or not (invert == "yes" or lighter):
        return original, False
    return original.point(lambda value: 255 - value), True


def reconstruct(pack: packs.Pack, vae: nn.Module, original: Image.Image, inverted: bool) -> Reconstruction:
    """A picture, as `seen`, turned into tokens and back; without a codebook, into latents and back."""
    from mmdemo import codec

    z = codec.encode(vae, images.to_tensor(original)[None])  # (1, d, h, w)
    ids = codec.nearest_ids(vae, z) if pack.codes else None  # (1, h, w)
    rebuilt = images.to_images(codec.decode(vae, z) if ids is None else codec.decode_ids(vae, ids))[0]
    psnr, ssim = codec.quality(images.image_bytes(rebuilt)[None], images.image_bytes(original)[None])
    token_map = tokens = bits_per_pixel = None
    if ids is not None:
        arranged = (pack.path / "codebook").is_dir()  # a pack from elsewhere may have none
        order = packs.read_codebook(pack)["order"] if arranged else list(range(pack.codes))
        token_map, tokens = images.token_map(ids[0].cpu(), order, pack.stride), ids[0].tolist()
        bits_per_pixel = ids.numel() * log2(pack.codes) / (original.width * original.height)
    return Reconstruction(
        original=original,
        image=rebuilt,
        token_map=token_map,
        tokens=tokens,
        stride=pack.stride,
        psnr=psnr,
        ssim=ssim,
        bits_per_pixel=bits_per_pixel,
        compression_ratio=bits_per_pixel and 8 * pack.channels / bits_per_pixel,
        inverted=inverted,
    )


def decode(vae: nn.Module, ids: list[list[int]]) -> Image.Image:
    """The picture of a grid of ids."""
    import torch

    from mmdemo import codec

    return images.to_images(codec.decode_ids(vae, torch.tensor([ids])))[0]


def replace(vae: nn.Module, ids: list[list[int]], code: int, by: int) -> Replacement:
    """What changes in the picture of a grid of ids when one code stands wherever another stood."""
    import torch

    from mmdemo import codec

    places = [(y, x) for y, row in enumerate(ids) for x, id in enumerate(row) if id == code]
    replaced = [[by if id == code else id for id in row] for row in ids]
    before, after = codec.decode_ids(vae, torch.tensor([ids, replaced]))
    change = (before - after).abs().amax(0, keepdim=True) - 1  # in [-1, 1], as pixels are
    pictures = [images.to_images(x[None])[0] for x in (before, after, change)]
    return Replacement(*pictures, tokens=replaced, places=places)


def interpolate(vae: nn.Module, ends: tuple[Image.Image, Image.Image], count: int) -> Interpolation:
    """From one picture to the other, through the latents and token by token."""
    import torch

    from mmdemo import codec

    z = codec.encode(vae, torch.stack([images.to_tensor(end) for end in ends]))  # (2, d, h, w)
    ids = codec.nearest_ids(vae, z)  # (2, h, w)
    shares = [i / (count - 1) for i in range(count)]
    # Every token has its turn, the same for every share, so that none turns back.
    turn = torch.randperm(ids[0].numel(), generator=torch.Generator().manual_seed(0)).view(ids[0].shape)
    turned = [turn.to(ids.device) < round(share * turn.numel()) for share in shares]
    latent = codec.decode(vae, torch.stack([torch.lerp(*z, share) for share in shares]))
    tokens = codec.decode_ids(vae, torch.stack([torch.where(one, ids[1], ids[0]) for one in turned]))
    return Interpolation(images.to_images(latent), images.to_images(tokens), shares)
