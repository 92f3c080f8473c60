"""The pixel border: picture files and PIL images <-> tensors, and pictures made of pictures. It knows no model.

Tensors of pixels are (B, C, H, W) float32 in [-1, 1]; C is 1 (grey) or 3 (RGB). torch is imported where it is needed:
a page shows stored pictures before that import is through.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from colorsys import hls_to_rgb
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import ExifTags, Image, ImageOps, ImageStat, UnidentifiedImageError

from mmdemo.errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor

DRAFT = 1024  # pixels that a large picture's shorter side keeps at least: 4 times the most that a codec is shown
LARGE = (2 * DRAFT) ** 2  # pixels up to which a picture stays as it is
STRIP = 256  # rows of a large picture that are RGB at a time
MAX_PIXELS = 16_000_000  # a 20 KB file can claim far more and take all memory
MAX_SCANS = 100  # of a progressive JPEG, which has a dozen: each takes 20 ms, and 36 bytes
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, AttributeError, EOFError, Image.DecompressionBombError)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # Pillow would also run Ghostscript on an EPS

# One picture at a time, as a file of 2 KB may take 64 MB until it is small; and in one thread, because malloc keeps for
# each thread much of what it had.
DECODER = ThreadPoolExecutor(1, "decoder")

# libjpeg holds all of a JPEG of several scans, whatever its draft: this is its own limit on that.
os.environ.setdefault("JPEGMEM", "100M")

# Pillow warns from 89 megapixels on; ours is an error, and earlier.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(source: str | Path | BinaryIO | Image.Image, name: str = "image", paper: str = "white") -> Image.Image:
    """A picture file or PIL image as an upright RGB image; transparency becomes the colour of the paper.

    Of a large picture it is the middle square, which is all that a codec is shown, at least DRAFT pixels a side.
    `size_given` tells how large it was. Raises ImageError if it is no picture, is cut short, or has more than
    MAX_PIXELS pixels.  name: what it calls it.
    """
    return DECODER.submit(open_here, source, name, paper).result()


def size_given(image: Image.Image) -> tuple[int, int]:
    """Width and height that a picture had, upright, before `open_image` made a large one smaller."""
    return image.info.get("size_given", image.size)


def open_here(source: str | Path | BinaryIO | Image.Image, name: str = "image", paper: str = "white") -> Image.Image:
    """The same in the thread that asks: for many pictures, which are to be read at once."""
    try:
        return _decoded(source, name, paper)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name} is larger than the allowed {MAX_PIXELS // 1_000_000} megapixels") from None
    except FileNotFoundError:
        raise ImageError(f"{name} {str(source)!r} does not exist; give the path of a picture file") from None
    except UNREADABLE as error:
        file = f" {Path(source).name or str(source)!r}" if isinstance(source, (str, Path)) else ""
        told = getattr(error, "strerror", None) or str(error)  # of a folder: "Is a directory", and no number
        reason = "no known format" if isinstance(error, UnidentifiedImageError) or not told else told.splitlines()[0]
        raise ImageError(f"{name}{file} cannot be read as a picture (PNG, JPEG, WebP, GIF …): {reason}") from None


def is_grey(file: str | Path) -> bool:
    """Whether a picture file says that it has no colours; one that cannot be read has none."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            return opened.mode.startswith(("1", "L", "I", "F")) and opened.mode != "LAB"
    except UNREADABLE:
        return True


def _decoded(source: str | Path | BinaryIO | Image.Image, name: str, paper: str) -> Image.Image:
    image, given = (source, source.size) if isinstance(source, Image.Image) else _opened(source, name)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} is {width}×{height} pixels; at most {MAX_PIXELS // 1_000_000} megapixels are allowed")
    try:
        image.load()
    except OSError as error:
        if image.info.get("progressive") and "broken" in str(error):  # all that is said of a JPEG beyond JPEGMEM
            raise OSError("it is broken, or large and progressive; save it as one that is not progressive") from None
        raise
    seen = _small(image, paper) if width * height > LARGE else _on(paper, image, _depth(image))
    seen.info = dict(image.info)  # some of what says how it is to be turned is known only once it is decoded
    with suppress(struct.error):  # an EXIF block too broken to be turned with the picture: the picture is whole
        turned = seen.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        seen = ImageOps.exif_transpose(seen)
        given = given[::-1] if turned else given
    seen.info = {"size_given": given}
    return seen


def _opened(file: str | Path | BinaryIO, name: str) -> tuple[Image.Image, tuple[int, int]]:
    """A picture that is not read yet, and its size; it may be read smaller."""
    image = Image.open(file, formats=FORMATS)
    given = image.size
    image.draft(None, (DRAFT, DRAFT))  # a telephone's JPEG is read at a half to an eighth of its size
    if image.info.get("progressive"):
        image.fp.seek(0)
        if image.fp.read().count(b"\xff\xda") > MAX_SCANS:
            raise ImageError(f"{name} is a JPEG of more than {MAX_SCANS} scans; save it as one that is not progressive")
    return image, given


def _small(image: Image.Image, paper: str) -> Image.Image:
    """A large picture's middle square, a whole number of times smaller. As RGB at its full size there is never more
    than a strip of it, which would take several times what it takes as it is."""
    side, depth = min(image.size), _depth(image)
    times = max(1, side // DRAFT)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    small = Image.new("RGB", (ceil(side / times), ceil(side / times)))
    for row in range(0, small.height, STRIP // times):
        bottom = min(side, (row + STRIP // times) * times)
        strip = image.crop((left, top + row * times, left + side, top + bottom))
        small.paste(_on(paper, strip, depth).reduce(times), (0, row))
    return small


def _depth(image: Image.Image) -> float:
    """The value that stands for white, where it is not 255: 16-bit PNGs would saturate there."""
    if not image.mode.startswith(("I", "F")):
        return 255
    _, high = image.getextrema()
    return 65535 if image.mode.startswith("I") and high > 255 else max(high, 1)


def _on(paper: str, image: Image.Image, depth: float) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = image.convert("F").point(lambda value: value * (255 / depth) + 0).convert("L")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, paper), image.convert("RGBA"))
    return image.convert("RGB")


def fit_square(image: Image.Image, size: int, channels: int) -> Image.Image:
    """The picture's middle square at size × size, grey ("L") for one channel, RGB for three."""
    fitted = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return fitted.convert("L" if channels == 1 else "RGB")


def border_is_lighter(image: Image.Image) -> bool:
    """Whether the outermost eighth is lighter than the rest on average: dark ink on white paper."""
    small = image.convert("L").resize((16, 16), Image.Resampling.BOX)
    border = Image.new("L", small.size, 255)
    border.paste(0, (2, 2, 14, 14))
    middle = ImageOps.invert(border)
    return ImageStat.Stat(small, border).mean[0] > ImageStat.Stat(small, middle).mean[0]


def to_tensor(image: Image.Image) -> Tensor:
    """An "L" or "RGB" image -> (C, H, W) float32 in [-1, 1]."""
    return from_bytes(image_bytes(image))


def image_bytes(image: Image.Image) -> Tensor:
    """An "L" or "RGB" image -> (C, H, W) uint8."""
    import torch

    channels = len(image.getbands())
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def from_bytes(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return pixels.float().div(127.5).sub(1)


def to_bytes(x: Tensor) -> Tensor:
    """Float in [-1, 1] (beyond it is clamped) -> uint8 in [0, 255]."""
    import torch

    return x.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_images(x: Tensor) -> list[Image.Image]:
    """(B, C, H, W), float in [-1, 1] or uint8 -> B PIL images."""
    pixels = to_bytes(x) if x.is_floating_point() else x
    arrays = pixels.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def png(image: Image.Image) -> bytes:
    """A PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def grid(images: list[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Pictures of one size in rows of `columns`, `gap` pixels apart; without gaps, in their own mode."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white") if gap else Image.new(images[0].mode, size)
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def cell(sheet: Image.Image, column: int, row: int, size: int) -> Image.Image:
    """One picture out of a sheet without gaps."""
    return sheet.crop((column * size, row * size, (column + 1) * size, (row + 1) * size))


def enlarge(image: Image.Image, side: int) -> Image.Image:
    """The whole number of times that brings the longer side nearest to `side`, pixels kept as squares."""
    times = max(1, round(side / max(image.size)))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def heat(image: Image.Image, shares: list[list[float]]) -> Image.Image:
    """A picture in grey, warm where a grid over it has high shares.  shares: rows of numbers in [0, 1]."""
    grey = image.convert("L")
    weights = Image.new("L", (len(shares[0]), len(shares)))
    weights.putdata([round(255 * share) for row in shares for share in row])
    warm = ImageOps.colorize(grey, "#402000", "#ffe080", "#ff6000")
    return Image.composite(warm, grey.convert("RGB"), weights.resize(image.size, Image.Resampling.BICUBIC))


def token_map(ids: Tensor, order: list[int], stride: int) -> Image.Image:
    """A grid of ids as colours, at the size of the picture it stands for. Every code has a colour of its own.

    ids: (h, w) int64.  order: the codebook's arrangement, a permutation of range(K); hue is a code's column there,
    lightness its row, so that codes alike get colours alike.  stride: pixels a token covers.
    """
    columns = ceil(sqrt(len(order)))
    colours = {}
    for place, code in enumerate(order):
        row, column = divmod(place, columns)
        rgb = hls_to_rgb(column / columns, 0.3 + 0.55 * row / columns, 0.6)
        colours[code] = tuple(round(255 * part) for part in rgb)
    height, width = ids.shape
    coloured = Image.new("RGB", (width, height))
    coloured.putdata([colours[id] for id in ids.flatten().tolist()])
    return coloured.resize((width * stride, height * stride), Image.Resampling.NEAREST)
