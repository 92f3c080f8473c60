"""Reads the attributes of pictures, for `evaluate`: trained once on a training split's records, and kept in a folder.

A scene's parts are read each from a window around where parts of its place lie in training pictures, so that what is
read of a picture depends on which places have a part, and not on where exactly it was drawn.
It knows pictures and their records; no packs, codecs or transformers.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdemo import data
from mmdemo.classifier import Judge, descend, kept
from mmdemo.data import LabelledImages
from mmdemo.files import digest
from mmdemo.images import from_bytes
from mmdemo.training.lexicon import MAX_VALUES
from mmdemo.training.loop import learning_rate_factor

VERSION = 1  # to be raised when the same pictures would make another reader: those kept are no longer read
EPOCHS, MIN_STEPS, MAX_STEPS = 4, 200, 750
SHIFT = 3  # pixels by which training pictures are moved about
BATCH = 250

Read = dict[str | None, dict[str, str]]  # place (None: the picture's own) -> attribute -> value


@dataclass(frozen=True)
class Attributes:
    """What the records of a training split say of pictures, and where their parts lie."""

    own: dict[str, tuple[str, ...]]  # of the whole picture: attribute -> its values
    of_parts: dict[str, tuple[str, ...]]  # of a part of it; {} where pictures have no parts
    parts: str | None = None  # the column that lists the parts
    windows: dict[str, tuple[int, int]] = field(default_factory=dict)  # place -> its window's top and left, in pixels
    side: int = 0  # of a window, in pixels

    @classmethod
    def of(cls, records: Sequence[dict], image_size: int) -> "Attributes":
        """A part is half as large as the picture. Its window has room for wherever the place's parts lie."""
        parts = next((name for record in records for name in record if _are_parts(record[name])), None)
        listed = [part for record in records for part in _parts(record, parts)]
        half, where = image_size // 2, {}
        for part in listed:
            where.setdefault(part["place"], []).append((part["y"], part["x"]))
        ends = {place: [(min(axis), max(axis)) for axis in zip(*at, strict=True)] for place, at in where.items()}
        reach = max((high - low for axes in ends.values() for low, high in axes), default=0)
        side = min(image_size, half + round(reach))
        windows = {
            place: tuple(round((low + high + half - side) / 2) for low, high in axes)
            for place, axes in sorted(ends.items())
        }
        return cls(_values(records), _values(listed), parts, windows, side)

    def __bool__(self) -> bool:
        return bool(self.own or self.of_parts)

    def places(self, record: dict) -> tuple[str, ...]:
        """Where the picture of a record has parts, of the places that there are."""
        return tuple(self._told(record))

    def truth(self, record: dict) -> Read:
        """A record as it would be read."""
        parts = {
            place: {name: part[name] for name in self.of_parts if name in part}
            for place, part in self._told(record).items()
        }
        return {None: {name: record[name] for name in self.own if name in record}} | parts

    def _told(self, record: dict) -> dict[str, dict]:
        return {part["place"]: part for part in _parts(record, self.parts) if part["place"] in self.windows}

    def whole(self, pixels: Tensor) -> Tensor:
        """Pictures (N, C, H, W) for what is theirs as a whole: where details are those of parts, half as large."""
        return pixels[:, :, ::2, ::2] if self.of_parts else pixels

    def window(self, pixels: Tensor, place: str, down: int = 0, right: int = 0) -> Tensor:
        """A place's part of pictures (N, C, H, W) and what is around it; beyond the edge, the edge again."""
        top, left = self.windows[place]
        return _cut(pixels, top + down, left + right, self.side)


class Eye(Judge):
    """Reads several attributes at once. Its first layers are as fine as the picture: a mouth is a few pixels."""

    num_features = 256

    def __init__(self, channels: int, num_values: int, width: int = 32):
        super().__init__()
        self.body = nn.Sequential(
            *_layer(channels, width), nn.MaxPool2d(2),
            *_layer(width, 2 * width), *_layer(2 * width, 2 * width), nn.MaxPool2d(2),
            *_layer(2 * width, 4 * width), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(64 * width, self.num_features), nn.BatchNorm1d(self.num_features), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(self.num_features, num_values))


class Reader(nn.Module):
    """Reads pictures: the whole one, and every part from its window."""

    def __init__(self, channels: int, attributes: Attributes):
        super().__init__()
        self.attributes = attributes
        self.own, self.of_parts = (
            Eye(channels, sum(map(len, values.values()))).to(memory_format=torch.channels_last)
            if values else None
            for values in (attributes.own, attributes.of_parts)
        )  # fmt: skip

    @property
    def num_features(self) -> int:
        return sum(one.num_features for one in (self.own, self.of_parts) if one)

    @torch.inference_mode()
    def read(self, pixels: Tensor, places: Sequence[Sequence[str]]) -> list[Read]:
        """What uint8 pictures (N, C, H, W) show.  places: of each, where it has parts."""
        read: list[Read] = [{None: {}} for _ in places]
        for place, chosen, x in self._views(pixels, places):
            values = self.attributes.own if place is None else self.attributes.of_parts
            logits = (self.own if place is None else self.of_parts)(x).split([len(some) for some in values.values()], 1)
            for (name, some), scores in zip(values.items(), logits, strict=True):
                for i, best in zip(chosen, scores.argmax(1).tolist(), strict=True):
                    read[i].setdefault(place, {})[name] = some[best]
        return read

    @torch.inference_mode()
    def features(self, pixels: Tensor, places: Sequence[Sequence[str]]) -> Tensor:
        """(N, num_features): a picture's own, and the mean of its parts'."""
        own = torch.zeros(len(pixels), self.own.num_features if self.own else 0)
        parts = torch.zeros(len(pixels), self.of_parts.num_features if self.of_parts else 0)
        for place, chosen, x in self._views(pixels, places):
            if place is None:
                own[chosen] = self.own.features(x)
            else:
                parts.index_add_(0, torch.tensor(chosen), self.of_parts.features(x))
        count = torch.tensor([max(1, len(some)) for some in places])
        return torch.cat([own, parts / count[:, None]], 1)

    def _views(self, pixels: Tensor, places: Sequence[Sequence[str]]) -> Iterator[tuple[str | None, list[int], Tensor]]:
        """(place, which pictures, what is there of them), not too many at a time."""
        if self.own:
            for chosen in torch.arange(len(pixels)).split(BATCH):
                yield None, chosen.tolist(), from_bytes(self.attributes.whole(pixels[chosen]))
        for place in self.attributes.windows if self.of_parts else ():
            there = [i for i, some in enumerate(places) if place in some]
            for start in range(0, len(there), BATCH):
                chosen = there[start : start + BATCH]
                yield place, chosen, from_bytes(self.attributes.window(pixels[chosen], place))


def shares(read: Sequence[Read], attributes: Attributes, records: Sequence[dict]) -> dict[str, float]:
    """Attribute -> the share of the values in the records that were read, in [0, 1]."""
    right, told = Counter(), Counter()
    for seen, record in zip(read, records, strict=True):
        for place, values in attributes.truth(record).items():
            for name, value in values.items():
                told[name] += 1
                right[name] += seen[place].get(name) == value
    return {name: right[name] / told[name] for name in {**attributes.own, **attributes.of_parts} if told[name]}


def train_reader(images: LabelledImages, attributes: Attributes, seed: int = 0) -> Iterator[tuple[int, int, Reader]]:
    """Yields (step, steps, reader) after every step."""
    torch.manual_seed(seed)
    reader = Reader(images.pixels.shape[1], attributes)
    jobs = []
    if reader.own:
        truth = [attributes.truth(record)[None] for record in images.records]
        pictures = attributes.whole(images.pixels)
        jobs.append((reader.own, attributes.own, pictures.__getitem__, pictures.shape[-1], truth, 0))
    if reader.of_parts:
        wide, parts, truth = replace(attributes, side=attributes.side + 2 * SHIFT), [], []
        for place in attributes.windows:
            there = [i for i, record in enumerate(images.records) if place in attributes.places(record)]
            parts += [(i, place) for i in there]
            truth += [attributes.truth(images.records[i])[place] for i in there]

        def crops(chosen: Tensor) -> Tensor:
            some = [parts[n] for n in chosen.tolist()]
            return torch.cat([wide.window(images.pixels[i : i + 1], place, -SHIFT, -SHIFT) for i, place in some])

        jobs.append((reader.of_parts, attributes.of_parts, crops, attributes.side, truth, SHIFT))
    counts = [_steps(len(truth)) for *_, truth, _ in jobs]
    done = 0
    for (net, values, read, side, truth, margin), count in zip(jobs, counts, strict=True):
        targets = torch.tensor([[_place(some, one.get(name)) for name, some in values.items()] for one in truth])
        for _ in _descent(net, [len(some) for some in values.values()], read, side, targets, margin, count, seed):
            done += 1
            yield done, sum(counts), reader.eval()


def load_reader(
    images: LabelledImages,  # the training split
    folder: Path,
    report: Callable[[str], None],
    seed: int = 0,
) -> Reader | None:
    """The reader of these pictures: read from `folder`, or trained and put there. None where records say nothing."""
    attributes = Attributes.of(images.records, images.pixels.shape[-1])
    if not attributes:
        return None
    truth = [attributes.truth(record) for record in images.records]
    name = digest(repr((VERSION, seed, attributes, tuple(images.pixels.shape), truth)), images.pixels)
    file = folder / f"{name}.safetensors"
    return kept(
        file,
        lambda: Reader(images.pixels.shape[1], attributes),
        lambda checkpoint: train_reader(images, attributes, seed),  # takes a minute or two: nothing is kept of it
        "reader",
        report,
    )


def _layer(before: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()


def _steps(count: int) -> int:
    """For that many pictures."""
    return min(MAX_STEPS, max(MIN_STEPS, EPOCHS * count // _batch_size(count)))


def _batch_size(count: int) -> int:
    return min(128, max(16, count // 16))


def _descent(
    net: Eye,
    sizes: list[int],  # of every attribute, its values
    read: Callable[[Tensor], Tensor],  # uint8 pictures, of their places among N
    side: int,  # pixels of a picture that are shown
    targets: Tensor,  # (N, attributes); -1 = not known
    margin: int,  # pixels that the pictures have to spare on each side
    steps: int,
    seed: int,
    rate: float = 2e-3,
) -> Iterator[None]:
    batch_size = _batch_size(len(targets))
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    likelier = _likelier(targets, sizes)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_factor(step, steps, max(1, steps // 10))
        places = data.permuted(len(targets), step * batch_size, (step + 1) * batch_size, seed)
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
        x, y = from_bytes(_cut(read(places), margin + down, margin + right, side)), targets[places]
        logits = (net.train()(x) + likelier[places]).split(sizes, 1)
        losses = [F.cross_entropy(one, y[:, i], ignore_index=-1, reduction="sum") for i, one in enumerate(logits)]
        descend(optimizer, sum(losses) / len(places))
        yield


def _likelier(targets: Tensor, sizes: list[int]) -> Tensor:
    """How much likelier each value is by what a picture's other attributes are, as logits (N, sum(sizes)).

    Added in training (logit adjustment, Menon et al., arXiv:2007.07314), so that the net need not learn it: where no
    sad person has pink hair, a sad mouth would else be read as a sign of other hair, in drawn pictures too.
    """
    hot = torch.cat([F.one_hot(t + 1, n + 1)[:, 1:] for t, n in zip(targets.T, sizes, strict=True)], 1).float()
    expected = hot.sum(0) * hot.sum(0)[:, None] / len(hot)
    others = 1 - torch.block_diag(*(torch.ones(n, n) for n in sizes))
    return hot @ (((hot.T @ hot + 1) / (expected + 1)).log() * others)


def _cut(pixels: Tensor, top: int, left: int, side: int) -> Tensor:
    """A square of pictures (N, C, H, W); beyond the edge, the edge again."""
    rows, columns = ((torch.arange(side) + first).clamp(0, pixels.shape[-1] - 1) for first in (top, left))
    return pixels[:, :, rows][..., columns]


def _values(records: Sequence[dict]) -> dict[str, tuple[str, ...]]:
    """Attribute -> its values, of those that tell pictures apart and are few."""
    seen: dict[str, Counter] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, str) and name != "place":
                seen.setdefault(name, Counter())[value] += 1
    return {name: tuple(sorted(values)) for name, values in seen.items() if 2 <= len(values) <= MAX_VALUES}


def _parts(record: dict, column: str | None) -> list[dict]:
    listed = record.get(column)
    return listed if _are_parts(listed) else []


def _are_parts(column) -> bool:
    """Whether it lists parts: each has a place, and its corner in pixels."""
    return isinstance(column, list) and bool(column) and all(map(_is_part, column))


def _is_part(part) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("place"), str):
        return False
    return all(isinstance(part.get(axis), (int, float)) and 0 <= part[axis] < inf for axis in "xy")


def _place(values: tuple[str, ...], value: str | None) -> int:
    return values.index(value) if value in values else -1
