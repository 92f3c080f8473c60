"""Named data sets and image folders -> uint8 tensors in memory, and the order in which training sees them.

It knows nothing of models. `shapes` is drawn here and needs no download.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import pi
from pathlib import Path

import torch
from torch import Tensor

from mmdemo.datasets import NAMED, NamedSet
from mmdemo.errors import DataError, ImageError
from mmdemo.images import fit_square, image_bytes, open_image

SHAPES = NAMED["shapes"].classes
FOLDER_SIZE = 64  # pixels of a folder's pictures, if nothing is said
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class LabelledImages:
    """A split of a data set, whole, in memory."""

    pixels: Tensor  # (N, C, H, W) uint8, H = W
    labels: Tensor  # (N,) int64; -1 where the set has no classes
    classes: tuple[str, ...]  # label names; () where the set has none

    def __len__(self) -> int:
        return len(self.pixels)


def load(
    dataset: str,
    split: str,  # "train" or "test"
    data_dir: str | Path | None = None,  # None = the user's cache, downloaded there once; for a folder, the folder
    image_size: int | None = None,  # None = the set's own (MNIST's 28 padded to 32; folders 64)
    channels: int | None = None,  # None = the set's own (folders 3)
) -> LabelledImages:
    """A named data set or a folder of pictures.

    A folder holds FOLDER/<class>/*.png, or FOLDER/train and FOLDER/test with that inside; without test/, every tenth
    picture is held out. A named set without padding may lie in `data_dir` as torchvision left it or as such a folder of
    pictures. Raises DataError if it cannot be found or holds no picture.
    """
    known = NAMED.get(dataset)
    if known is None:
        return _folder(Path(data_dir or dataset), split, image_size or FOLDER_SIZE, channels or 3)
    if known.source is None:
        return _shapes(6000 if split == "train" else 1000, split, image_size or known.size, channels or 3)
    if known.padding == 0 and data_dir and (Path(data_dir) / "train").is_dir():
        return _folder(Path(data_dir), split, image_size or known.size, channels or 3)
    images = _torchvision(dataset, known, split == "train", data_dir)
    return images if image_size is None else _resized(images, image_size)


def permuted(count: int, start: int, stop: int, seed: int) -> Tensor:
    """Places start … stop of an endless sequence of shuffles of range(count): (stop - start,) int64.

    A pure function, so that a resumed training sees exactly what the uninterrupted one would have seen.
    """
    parts = []
    while start < stop:
        epoch, offset = divmod(start, count)
        taken = min(count - offset, stop - start)
        parts.append(_shuffle(count, epoch, seed)[offset : offset + taken])
        start += taken
    return torch.cat(parts)


def _torchvision(dataset: str, known: NamedSet, train: bool, data_dir: str | Path | None) -> LabelledImages:
    from torchvision import datasets  # 2 s to import, and the app never needs it

    root = Path(data_dir or Path.home() / ".cache" / "mmdemo" / "data")
    try:
        loaded = getattr(datasets, known.source)(root, train=train, download=data_dir is None)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"data set {dataset!r} is not in {root} and could not be downloaded: {reason}") from None
    pixels = torch.as_tensor(loaded.data)
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)  # grey or colour
    pixels = torch.nn.functional.pad(pixels, (known.padding,) * 4).contiguous()
    return LabelledImages(pixels, torch.as_tensor(loaded.targets), known.classes or tuple(loaded.classes))


def _resized(images: LabelledImages, size: int) -> LabelledImages:
    if images.pixels.shape[-1] == size:
        return images
    parts = [
        torch.nn.functional.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        .round().clamp(0, 255).to(torch.uint8)
        for part in images.pixels.split(1000)
    ]  # fmt: skip
    return LabelledImages(torch.cat(parts), images.labels, images.classes)


def _folder(folder: Path, split: str, size: int, channels: int) -> LabelledImages:
    if not folder.is_dir():
        raise DataError(
            f"data set {str(folder)!r} is neither a folder nor one of {', '.join(NAMED)}; "
            f"if it is a folder elsewhere, give its place with --data-dir"
        )
    root = folder / "train" if (folder / "train").is_dir() else folder
    classes = tuple(sorted(child.name for child in root.iterdir() if child.is_dir() and _pictures(child)))
    held_out = not (folder / "test").is_dir()
    if not held_out:
        root = folder / split
        if not root.is_dir():
            raise DataError(f"folder {str(folder)!r} has a test/ but no train/; put the training pictures there")
    places = {name: label for label, name in enumerate(classes)}
    listed = [(path, -1) for path in _pictures(root)]
    for name in sorted({*places, *(child.name for child in root.iterdir() if child.is_dir())}):
        listed += [(path, places.get(name, -1)) for path in _pictures(root / name)]  # test/ may hold unknown classes
    if held_out:
        listed = [entry for i, entry in enumerate(listed) if (i % 10 == 9) == (split == "test")]
    if not listed:
        raise DataError(
            f"folder {str(root)!r} holds no pictures in its {split} split; put them in FOLDER/<class>/*.png"
        )
    pixels = torch.empty(len(listed), channels, size, size, dtype=torch.uint8)
    for i, (path, _) in enumerate(listed):
        try:
            pixels[i] = image_bytes(fit_square(open_image(path), size, channels))
        except ImageError as error:
            raise DataError(f"{path}: {error}; remove the file or mend it") from None
    return LabelledImages(pixels, torch.tensor([label for _, label in listed]), classes)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


@lru_cache(maxsize=4)
def _shuffle(count: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def _shapes(count: int, split: str, size: int, channels: int) -> LabelledImages:
    """One shape a picture, of random colour, place, size and turn, drawn from its signed distance, on a dark ground."""
    rng = torch.Generator().manual_seed(0 if split == "train" else 1)
    labels = torch.arange(count) % len(SHAPES)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=rng) * (high - low) + low

    axis = (torch.arange(size) + 0.5) / size * 2 - 1  # pixel middles in [-1, 1]
    centre, radius, turn = uniform(-0.3, 0.3, 2, 1, 1), uniform(0.35, 0.6, 1, 1), uniform(0, 2 * pi, 1, 1)
    x, y = axis[None, None, :] - centre[:, 0], axis[None, :, None] - centre[:, 1]
    x, y = (turn.cos() * x - turn.sin() * y) / radius, (turn.sin() * x + turn.cos() * y) / radius  # unit shape at 0
    r = (x * x + y * y).sqrt()
    distances = {
        "circle": r - 1,
        "ring": (r - 0.75).abs() - 0.25,
        "square": torch.maximum(x.abs(), y.abs()) - 0.8,
        "triangle": torch.maximum(-y - 0.5, x.abs() * 0.866 + y * 0.5 - 0.5),
        "cross": torch.maximum(torch.minimum(x.abs(), y.abs()) - 0.3, torch.maximum(x.abs(), y.abs()) - 0.95),
    }
    distance = torch.stack([distances[name] for name in SHAPES])[labels, torch.arange(count)] * radius
    coverage = (0.5 - distance * size / 2).clamp(0, 1)[:, None]  # one pixel of antialiasing
    colour, ground = uniform(0.45, 1, channels, 1, 1), uniform(0, 0.15, 1, 1, 1)
    pixels = (ground + coverage * (colour - ground)).mul(255).round().to(torch.uint8)
    return LabelledImages(pixels, labels, SHAPES)
