"""JPEG at a given number of bits per pixel, which a codec is held against. It knows pictures; no models.

The file of a tiny picture is mostly headers and tables, so there are two ways to count it: the whole file, or its
entropy-coded scan alone, which spares JPEG even the Huffman tables that are fitted to every picture here.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import log10

import torch
from PIL import Image
from torch import Tensor

from mmdemo.images import image_bytes, to_images

MAX_QUALITY = 95  # beyond it, says Pillow, files grow and pictures hardly gain
SUBSAMPLINGS = ("4:4:4", "4:2:0")  # of the chroma
START_OF_SCAN = 0xDA


@dataclass(frozen=True)
class Compressed:
    """Pictures after JPEG, all at one quality."""

    pixels: Tensor  # (N, 3, H, W) uint8
    quality: int
    subsampling: str
    bits_per_pixel: float  # the mean


def at_bits(pixels: Tensor, bits_per_pixel: float) -> tuple[Compressed, Compressed]:
    """JPEG at the lowest quality that spends at least these bits per pixel, so that it never has less to work with.

    pixels: (N, 3, H, W) uint8.  Returns it twice: counted by scans alone, and by whole files, which even at quality 1
    may spend far more (and at MAX_QUALITY less, where the bits are very many). The chroma subsampling is the better.
    """
    pictures = to_images(pixels)

    @cache
    def bits(quality: int, subsampling: str) -> tuple[float, float]:
        files = [encode(picture, quality, subsampling) for picture in pictures]
        each = 8 / (len(pictures) * pixels.shape[-2] * pixels.shape[-1])
        return each * sum(map(scan_bytes, files)), each * sum(map(len, files))

    def best(way: int) -> Compressed:
        found = []
        for subsampling in SUBSAMPLINGS:
            quality = _lowest(lambda quality, s=subsampling: bits(quality, s)[way] >= bits_per_pixel)
            decoded = torch.stack([decode(encode(picture, quality, subsampling)) for picture in pictures])
            found.append(Compressed(decoded, quality, subsampling, bits(quality, subsampling)[way]))
        # At quality 1 the bits may be far too many, so it counts only where there is no other.
        return max(found, key=lambda one: (one.quality > 1, _psnr(one.pixels, pixels)))

    return best(0), best(1)


def encode(picture: Image.Image, quality: int, subsampling: str) -> bytes:
    """A file as small as Pillow makes it: Huffman tables fitted to the picture, nothing added."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
    return file.getvalue()


def decode(file: bytes) -> Tensor:
    """(3, H, W) uint8."""
    return image_bytes(Image.open(io.BytesIO(file)))


def scan_bytes(file: bytes) -> int:
    """Bytes of a baseline file's entropy-coded data: from the header of its one scan to the marker that ends it."""
    place = 2  # after the marker that starts it, the only one before the scan that has no length
    while True:
        marker, length = file[place + 1], int.from_bytes(file[place + 2 : place + 4], "big")
        place += 2 + length
        if marker == START_OF_SCAN:
            return len(file) - 2 - place


def _lowest(enough: Callable[[int], bool]) -> int:
    """The lowest quality that is enough, MAX_QUALITY if none is: bits grow with quality."""
    low, high = 1, MAX_QUALITY
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _psnr(a: Tensor, b: Tensor) -> float:
    """In dB, the mean over pictures, at most 100 for each."""
    errors = [float((x.float() - y.float()).square().mean()) for x, y in zip(a, b, strict=True)]
    return sum(min(100.0, 10 * log10(255**2 / max(error, 1e-9))) for error in errors) / len(errors)
