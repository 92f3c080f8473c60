"""What captions ask for, and whether drawn pictures show it: named values, swaps, variety and copies.

It counts what was read (reader.py) and measures pixels; it knows no models.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from mmdemo.captions import Lexicon
from mmdemo.reader import Attributes, Read

CLOSE = 0.05  # the share of test pictures that count as close to a training picture
CHUNK = 1000  # pictures whose distances are taken at a time


class Named(NamedTuple):
    """A value that a caption names.  place: of the part that shall show it; None = the whole picture."""

    place: str | None
    attribute: str
    value: str


@dataclass(frozen=True)
class Asked:
    """A caption, where the picture that it is of has parts, and what it names of them."""

    caption: str
    places: tuple[str, ...] = ()
    named: tuple[Named, ...] = ()

    @classmethod
    def of(cls, caption: str, record: dict, lexicon: Lexicon, attributes: Attributes) -> "Asked":
        """What is said of no place is said of the only part. Passed over is what cannot be told: of which of several
        parts it is said, or a value that the attributes lack."""
        places, named = attributes.places(record), []
        for place, attribute, value, *_ in lexicon.named(caption):
            if value in attributes.own.get(attribute, ()):
                named.append(Named(None, attribute, value))
            elif value in attributes.of_parts.get(attribute, ()) and (
                place in places or not place and len(places) == 1
            ):
                named.append(Named(place or places[0], attribute, value))
        return cls(caption, places, tuple(dict.fromkeys(named)))

    def fits(self, truth: Read) -> bool:
        """Whether a picture that is so has parts at these places, and shows all that is named."""
        return truth.keys() == {None, *self.places} and all(shown(truth, one) for one in self.named)

    def elsewhere(self, named: Named) -> list[Named]:
        """The same value at other places of which another value of the attribute is named."""
        return [
            Named(one.place, named.attribute, named.value)
            for one in self.named
            if one.attribute == named.attribute and one.place != named.place and one.value != named.value
        ]


def shown(read: Read, named: Named) -> bool:
    return read.get(named.place, {}).get(named.attribute) == named.value


def named_right(asked: Sequence[Asked], read: Sequence[Read], split: str) -> dict:
    """The shares of named values that pictures show where they were asked for: of all, by attribute, and by script.

    Swaps: of the values of an attribute that has different ones named at two places, the share that is missing where it
    was asked for and shown at the other.
    """
    total, swaps = Counter(), Counter()
    attributes, scripts = Counter(), Counter()
    for one, seen in zip(asked, read, strict=True):
        written = script(one.caption)
        for named in one.named:
            right = shown(seen, named)
            for counter, key in ((total, "all"), (attributes, named.attribute), (scripts, written)):
                counter[key, right] += 1
            if elsewhere := one.elsewhere(named):
                swaps["all", not right and any(shown(seen, other) for other in elsewhere)] += 1
    numbers = {}
    if total:
        numbers |= {
            f"named_right_{split}": _share(total)["all"],
            f"named_right_{split}_of": total.total(),
            f"named_right_{split}_by_attribute": _share(attributes),
            f"named_right_{split}_by_script": _share(scripts),
        }
    if swaps:
        numbers |= {f"swaps_{split}": _share(swaps)["all"], f"swaps_{split}_of": swaps.total()}
    return numbers


def _share(counts: Counter) -> dict[str, float]:
    """Of (key, whether) how often it is so, key by key, in [0, 1]."""
    keys = dict.fromkeys(key for key, _ in counts)
    return {key: counts[key, True] / (counts[key, True] + counts[key, False]) for key in keys}


def script(text: str) -> str:
    """That of most of its letters: "latin", "han", "cyrillic" …"""
    names = Counter(unicodedata.name(one, "?").split()[0].lower() for one in text if one.isalpha())
    (most, _), *_ = names.most_common(1) or [("?", 0)]
    return "han" if most == "cjk" else most


def variety(drawn: Sequence[Tensor], real: Sequence[Tensor]) -> float:
    """How much drawings of one caption differ from each other, as a ratio to how much real pictures do that it fits.

    Of each caption, some uint8 pictures (n, C, H, W), at least two; the mean over captions of the mean RMS difference.
    """
    ours, theirs = (sum(map(_difference, sets)) for sets in (drawn, real))
    return ours / max(theirs, 1e-9)


def _difference(pixels: Tensor) -> float:
    pairs = list(combinations(pixels.float(), 2))
    return sum(float((a - b).square().mean().sqrt()) for a, b in pairs) / len(pairs)


def copies(drawn: Tensor, rebuilt: Tensor, train: Tensor) -> float:
    """The share of drawn pictures that are nearer to a training picture than all but CLOSE of the test pictures'
    reconstructions are: CLOSE where they are as new as test pictures.  All uint8 (n, C, H, W)."""
    ours, theirs = (nearest(pixels, train) for pixels in (drawn, rebuilt))
    return float((ours < theirs.quantile(CLOSE)).double().mean())


def nearest(pixels: Tensor, others: Tensor) -> Tensor:
    """The RMS distance, in grey levels, of every uint8 picture to the nearest of others: (n,)."""
    best = torch.full((len(pixels),), float("inf"))
    ours = pixels.flatten(1).float() - 128
    for part in others.split(CHUNK):
        theirs = part.flatten(1).float() - 128
        squares = ours.square().sum(1, keepdim=True) + theirs.square().sum(1) - 2 * ours @ theirs.T
        best = torch.minimum(best, squares.min(1).values)
    return (best.clamp(min=0) / ours.shape[1]).sqrt()
