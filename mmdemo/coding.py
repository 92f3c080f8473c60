"""A picture as tokens: the checks of what may be asked of a pack's codec, and the work, once its model is there.

The other half of what the studio can do, next to drawing.py; packs and models are handed in.
"""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images, packs
from mmdemo.arguments import choice, shown, whole
from mmdemo.errors import ArgumentError
from mmdemo.views import Interpolation, Reconstruction, Replacement

if TYPE_CHECKING:
    from torch import nn

MIN_SIDE, MAX_SIDE = 8, 256  # pixels: SSIM has a window to fill, and 1024 would take a minute and 4 GB


def seen(found: packs.Pack, image, invert, size: int | None = None, name: str = "image") -> tuple[Image.Image, bool]:
    """A picture as the pack's codec sees it, and whether it was inverted.  name: of the argument."""
    invert = {True: "yes", False: "no"}[invert] if isinstance(invert, bool) else invert
    choice("invert", invert, ("auto", "yes", "no"))
    side = found.image_size if size is None else _side(size, found.stride)
    if image is None:
        raise ArgumentError(f"{name} is missing; give a picture file")
    original = images.fit_square(images.open_image(image, name), side, found.channels)
    lighter = invert == "auto" and images.border_is_lighter(original)
    if found.channels > 1 or not (invert == "yes" or lighter):
        return original, False
    return original.point(lambda value: 255 - value), True


def grid(found: packs.Pack, tokens) -> list[list[int]]:
    """A grid of ids, checked."""
    side, most = found.image_size // found.stride, max(MAX_SIDE, found.image_size) // found.stride
    form = f"a grid such as {side} rows of {side} ids from 0 to {found.codes - 1}"
    if not isinstance(tokens, list) or not tokens or not all(isinstance(row, list) and row for row in tokens):
        raise ArgumentError(f"tokens is {shown(tokens)}; it must be {form}")
    if len({len(row) for row in tokens}) > 1:
        raise ArgumentError(f"tokens has rows of different lengths; it must be {form}")
    if max(len(tokens), len(tokens[0])) > most:
        raise ArgumentError(f"tokens is {len(tokens)}×{len(tokens[0])}; at most {most}×{most} are allowed")
    return [[whole("tokens holds an id that", id, 0, found.codes - 1) for id in row] for row in tokens]


def _side(size: int, stride: int) -> int:
    side = whole("size", size, max(MIN_SIDE, stride), MAX_SIDE)
    if side % stride:
        raise ArgumentError(
            f"size is {side}; it must be a multiple of the pack's stride, {stride}, and at most {MAX_SIDE}"
        )
    return side


def reconstruct(found: packs.Pack, vae: nn.Module, original: Image.Image, inverted: bool) -> Reconstruction:
    """A picture, as `seen`, turned into tokens and back."""
    from mmdemo import codec

    ids = codec.encode_ids(vae, images.to_tensor(original)[None])  # (1, h, w)
    rebuilt = images.to_images(codec.decode_ids(vae, ids))[0]
    psnr, ssim = codec.quality(images.image_bytes(rebuilt)[None], images.image_bytes(original)[None])
    arranged = (found.path / "codebook").is_dir()  # a pack from elsewhere may have none
    order = packs.read_codebook(found)["order"] if arranged else list(range(found.codes))
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
