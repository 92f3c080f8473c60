"""Named data sets and folders of pictures -> uint8 tensors, and the order in which training sees them.

It knows nothing of models. `shapes` is drawn here and needs no download. Named sets are in memory, a folder's pictures
in a file.
"""

import os
import random
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import pi
from pathlib import Path

import torch
from torch import Tensor

from mmdemo import folders
from mmdemo.datasets import NAMED, NamedSet
from mmdemo.errors import DataError

SHAPES = NAMED["shapes"].classes
COLOURS = {  # of a shape; bright in grey too
    "red": (1, 0.3, 0.3),
    "orange": (1, 0.6, 0.15),
    "yellow": (1, 0.95, 0.3),
    "green": (0.25, 0.9, 0.35),
    "blue": (0.35, 0.5, 1),
    "purple": (0.75, 0.35, 1),
    "white": (0.96, 0.96, 0.96),
}
GROUNDS = {"black": (0.02, 0.02, 0.02), "navy": (0.03, 0.05, 0.3), "brown": (0.26, 0.13, 0.04), "grey": (0.15,) * 3}
SIZES = {"small": (0.34, 0.42), "large": (0.52, 0.62)}  # radius, of half a picture; apart, to be told from each other
IN_CHINESE = {
    "circle": "圆形", "ring": "圆环", "square": "正方形", "triangle": "三角形", "cross": "十字形",
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色", "purple": "紫色",
    "white": "白色", "black": "黑色", "navy": "藏青色", "brown": "棕色", "grey": "灰色",
    "small": "小", "large": "大",
}  # fmt: skip
FOLDER_SIZE = 64  # pixels of a folder's pictures, if nothing is said


@dataclass(frozen=True)
class LabelledImages:
    """A split of a data set."""

    pixels: Tensor  # (N, C, H, W) uint8, H = W; of a folder's pictures mapped from a file: take some of them at a time
    labels: Tensor  # (N,) int64; -1 where the set has no classes
    classes: tuple[str, ...]  # label names; () where the set has none
    captions: tuple[tuple[str, ...], ...] = ()  # one or more a picture; () where the set has none
    records: tuple[dict, ...] = ()  # what else is known of a picture, attribute -> value; () where the set has none
    digest: str = ""  # of all this, where they are a folder's

    def __len__(self) -> int:
        return len(self.pixels)

    def labelled(self) -> "LabelledImages":
        """Those that have a class."""
        rows = where(self.labels >= 0)
        return LabelledImages(self.pixels[rows], self.labels[rows], self.classes)


def where(which: Tensor) -> slice | Tensor:
    """The places where (N,) is True, as a slice where they lie together: what a slice takes is not copied."""
    places = which.nonzero().flatten()
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def load(
    dataset: str,
    split: str,  # "train", "test", or another that the set has
    data_dir: str | Path | None = None,  # None = the user's cache, downloaded there once; for a folder, the folder
    image_size: int | None = None,  # None = the set's own (MNIST's 28 padded to 32; folders 64)
    channels: int | None = None,  # None = the set's own (of a folder, by its pictures)
    strict: bool = False,  # pass over no picture of a folder that cannot be read
) -> LabelledImages:
    """A named data set or a folder of pictures.

    A folder holds FOLDER/<class>/*.png, or FOLDER/train and FOLDER/test with that inside; without test/, every tenth
    picture is held out. Or the pictures lie beside a metadata.jsonl, one row a picture: `file_name`, `text` (a caption
    or a list of them), and attributes; such a set has no classes. Another folder beside train/ is a split by its name.
    A named set without padding may lie in `data_dir` as torchvision left it or as a folder of pictures. Pictures that
    cannot be read are passed over, and a warning names them. Raises DataError if they are more than one in a hundred,
    or the set cannot be found, holds no picture, or has a row that cannot be used.
    """
    known, folder = NAMED.get(dataset), folder_of(dataset, data_dir)
    if folder is not None:
        return _folder(folder, split, image_size or (known.size if known else FOLDER_SIZE), channels, strict)
    if known.source is None:
        return _shapes(split, image_size or known.size, channels or 3)
    if split not in ("train", "test"):
        raise DataError(f"data set {dataset!r} has no split {split!r}; it has train and test")
    images = _torchvision(dataset, known, split == "train", data_dir)
    return images if image_size is None else _resized(images, image_size)


def folder_of(dataset: str, data_dir: str | Path | None = None) -> Path | None:
    """The folder of pictures that a data set is, there or not; None if it is none."""
    known = NAMED.get(dataset)
    if known is None:
        return Path(data_dir or dataset)
    pictures = known.source and known.padding == 0 and data_dir and (Path(data_dir) / "train").is_dir()
    return Path(data_dir) if pictures else None


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


def _cache() -> Path:
    """The user's, where XDG's base directories have it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmdemo"


def _folder(folder: Path, split: str, size: int, channels: int | None, strict: bool) -> LabelledImages:
    listing = folders.listed(folder, split)
    channels = channels or folders.channels(listing)
    pixels, entries, digest = folders.decoded(listing, size, channels, strict, _cache() / "pictures")
    labels = torch.tensor([entry.label for entry in entries])
    captions = records = ()
    if listing.captioned:
        captions, records = tuple(entry.captions for entry in entries), tuple(entry.record for entry in entries)
    told = sha256(repr((digest, listing.classes)).encode("utf-8", "surrogateescape"))
    for entry in entries:
        told.update(repr((entry.label, entry.captions, entry.record)).encode())
    return LabelledImages(pixels, labels, listing.classes, captions, records, told.hexdigest())


def _torchvision(dataset: str, known: NamedSet, train: bool, data_dir: str | Path | None) -> LabelledImages:
    from torchvision import datasets  # 2 s to import, and the app never needs it

    root = Path(data_dir or _cache() / "data")
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


@lru_cache(maxsize=4)
def _shuffle(count: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def _shapes(split: str, size: int, channels: int) -> LabelledImages:
    """One shape a picture, of random colour, place, size and turn, drawn from its signed distance, on a dark ground.

    No red cross and no large blue ring is in train or test; the split "novel" holds nothing else.
    """
    counts = {"train": 6000, "test": 1000, "novel": 1000}
    if split not in counts:
        raise DataError(f"data set 'shapes' has no split {split!r}; it has {', '.join(counts)}")
    count, seed = counts[split], list(counts).index(split)
    rng = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=rng) * (high - low) + low

    def chosen(names: dict) -> Tensor:
        return torch.randint(len(names), (count,), generator=rng)

    labels, colours, sizes, grounds = torch.arange(count) % len(SHAPES), chosen(COLOURS), chosen(SIZES), chosen(GROUNDS)
    cross, ring = SHAPES.index("cross"), SHAPES.index("ring")
    red, blue, large = list(COLOURS).index("red"), list(COLOURS).index("blue"), list(SIZES).index("large")
    if split == "novel":
        labels = torch.tensor([cross, ring]).repeat(count // 2)
        colours = torch.tensor([red, blue]).repeat(count // 2)
        sizes[labels == ring] = large
    else:
        others = torch.randint(1, len(COLOURS), (count,), generator=rng)
        colours = torch.where((labels == cross) & (colours == red), (red + others) % len(COLOURS), colours)
        sizes[(labels == ring) & (colours == blue) & (sizes == large)] = 1 - large

    axis = (torch.arange(size) + 0.5) / size * 2 - 1  # pixel middles in [-1, 1]
    low, high = torch.tensor(list(SIZES.values()))[sizes].view(count, 2, 1, 1).unbind(1)
    centre, radius, turn = (
        uniform(-0.3, 0.3, 2, 1, 1),
        low + uniform(0, 1, 1, 1) * (high - low),
        uniform(0, 2 * pi, 1, 1),
    )
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
    colour, ground = (
        (torch.tensor(list(named.values()))[which] + uniform(-spread, spread, 3)).clamp(0, 1)
        for named, which, spread in ((COLOURS, colours, 0.06), (GROUNDS, grounds, 0.02))
    )
    if channels == 1:
        colour, ground = (rgb @ torch.tensor([[0.299], [0.587], [0.114]]) for rgb in (colour, ground))
    colour, ground = colour[..., None, None], ground[..., None, None]
    pixels = (ground + coverage * (colour - ground)).mul(255).round().to(torch.uint8)

    records = tuple(
        {"shape": SHAPES[a], "colour": list(COLOURS)[b], "size": list(SIZES)[c], "ground": list(GROUNDS)[d]}
        for a, b, c, d in zip(labels.tolist(), colours.tolist(), sizes.tolist(), grounds.tolist(), strict=True)
    )
    chance = random.Random(seed)
    return LabelledImages(pixels, labels, SHAPES, tuple(_described(one, chance) for one in records), records)


def _described(record: dict[str, str], chance: random.Random) -> tuple[str, ...]:
    """Captions of a shape: a sentence with all its attributes, one with some, tags; a sentence and tags in Chinese."""

    def some() -> dict[str, str]:
        kept = [name for name in record if chance.random() < 0.6]
        return {name: record[name] for name in kept or [chance.choice(list(record))]}

    tags = [f"{value} ground" if name == "ground" else value for name, value in some().items()]
    chance.shuffle(tags)
    chinese = [IN_CHINESE[value] + ("背景" if name == "ground" else "") for name, value in some().items()]
    chance.shuffle(chinese)
    return _english(record, chance), _english(some(), chance), ", ".join(tags), _chinese(record), "，".join(chinese)


def _english(known: dict[str, str], chance: random.Random) -> str:
    words = [known[name] for name in ("size", "colour") if name in known] + [known.get("shape", "shape")]
    sentence = f"{'an' if words[0][0] == 'o' else 'a'} {' '.join(words)}"
    if "ground" not in known:
        return sentence
    return sentence + chance.choice((f" on {known['ground']}", f" on a {known['ground']} ground"))


def _chinese(record: dict[str, str]) -> str:
    shape, colour, size, ground = (IN_CHINESE[record[name]] for name in ("shape", "colour", "size", "ground"))
    return f"{ground}背景上的{size}{colour}{shape}"
