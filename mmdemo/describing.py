"""A picture to words, by the model that draws: the words under which it denoises the picture best (evidence.py)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images
from mmdemo.errors import PackError
from mmdemo.evidence import Candidates, Evidence, Noises, nats, race, warm
from mmdemo.packs import Pack, read_words, usual_psnr
from mmdemo.results import Description, Reading, Run
from mmdemo.sampling import latents_of
from mmdemo.tokens import reconstruct

if TYPE_CHECKING:
    from torch import Tensor

    from mmdemo.captions import Lexicon
    from mmdemo.pipeline import ClassPipeline

# Every value of an attribute is tried under 8 noises, and those within 10 nats of the best under 32.
NOISES = Noises(low=-4.0, high=4.0, levels=8, few=8, many=32, close=10.0, errors=2.0)
ROUNDS = 2  # times that every attribute is looked at, all others being said
# "none" has no words, and is held against them by their absence. Captions leave out what is there, too: a picture with
# glasses is explained by a caption without them but a little worse, by -log of how often one leaves them out.
UNSAID = 4.0  # nats
# dB below a pack's usual PSNR from which a picture is none of its kind: some words explain any picture better than the
# others do. Of 1000 unseen pictures each of the packs `faces` and `pairs` the worst is 7.8 below, the best of fourteen
# photographs and pictures of CIFAR-10 13.
UNLIKE = 10.0


Slot = tuple[str | None, str]  # what can be said: an attribute of the part at a place, or (None) of the whole picture
Found = dict[Slot, str]


def describe(pipeline: ClassPipeline, pack: Pack, original: Image.Image) -> Generator[Reading, None, Description]:
    """The words that explain a picture best, how sure each is, and where in the picture it tells.

    Raises PackError where words tell no values apart.
    """
    started, lexicon = time.perf_counter(), read_words(pack).lexicon
    if not _slots(lexicon, tuple(lexicon.places)):
        raise PackError(
            f"{pack.name!r} cannot describe: its captions name no value of an attribute; "
            f"choose a pack whose captions do"
        )
    evidence = Evidence(pipeline, latents_of(pipeline, original), NOISES)
    found, sure = yield from search(evidence, lexicon)
    return Description(
        text=wording(lexicon, found),
        attributes={spoken(slot): by_value for slot, by_value in sure.items()},
        maps=maps(evidence, lexicon, found, original),
        seconds=time.perf_counter() - started,
        notice=unlike(pack, pipeline, original),
    )


def unlike(pack: Pack, pipeline: ClassPipeline, original: Image.Image) -> str:
    """One sentence on a picture that is not of the kind that the pack was made for; "" of one that is."""
    usual = usual_psnr(pack)
    psnr = reconstruct(pack, pipeline.vae, original, inverted=False).psnr
    if usual is None or psnr > usual - UNLIKE:
        return ""
    measured = f"its tokens give it back at {psnr:.1f} dB, where {usual:.1f} dB are usual"
    return f"This picture is unlike those that {pack.name} knows ({measured}), so the words are a mere guess."


def search(
    evidence: Evidence, lexicon: Lexicon
) -> Generator[Reading, None, tuple[Found, dict[Slot, dict[str, float]]]]:
    """The best value of everything that can be said of the picture, and the probabilities of all its values.

    Every attribute is first looked for by itself, then again with all others being said.
    """
    slots = _slots(lexicon, _places(evidence, lexicon))
    found = {slot: _first(evidence, _candidates(lexicon, {}, slot)) for slot in slots}
    sure = {}
    for index, slot in enumerate(slots * ROUNDS):
        sure[slot] = Run(race(evidence, _candidates(lexicon, found, slot))).result()
        found[slot] = max(sure[slot], key=sure[slot].get)
        yield Reading(index, len(slots) * ROUNDS, wording(lexicon, found))
    return found, sure


def wording(lexicon: Lexicon, found: Found) -> str:
    """What has been found, as a caption of tags."""
    whole, parts = {}, {}  # apart: an attribute may have the name of a place
    for (place, attribute), value in found.items():
        told = whole if place is None else parts.setdefault(place, {})
        told[attribute] = value
    return "; ".join(filter(None, map(lexicon.prompt, (parts, whole))))


def spoken(slot: Slot) -> str:
    """ "hair", or of a scene's part "left hair"."""
    return " ".join(filter(None, slot))


def maps(evidence: Evidence, lexicon: Lexicon, found: Found, original: Image.Image) -> list[tuple[str, Image.Image]]:
    """Every word that was found, and where in the picture it tells."""
    import torch

    said = defaultdict(list)
    for slot, value in found.items():
        said[wording(lexicon, {slot: value})].append(
            gain(evidence, lexicon, found, slot)
        )  # one word may say two things
    said.pop("", None)
    if not said:
        return []
    gains = torch.stack([torch.stack(some).mean(0) for some in said.values()])
    return list(zip(said, warm(original, gains), strict=True))


def gain(evidence: Evidence, lexicon: Lexicon, found: Found, slot: Slot) -> Tensor:
    """(h, w): nats by which the picture is denoised better with all that was found than with another value of one slot,
    on average over these."""
    others = [found | {slot: value} for value in lexicon.values[slot[1]] if value != found[slot]]
    others = others or [{one: value for one, value in found.items() if one != slot}]
    lost = evidence.lost([wording(lexicon, one) for one in (found, *others)], NOISES.few).mean(1)
    return lost[1:].mean(0) - lost[0]


def accuracy(
    pipeline: ClassPipeline,
    pack: Pack,
    pixels: Tensor,
    records: Sequence[Mapping],
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Share of uint8 pictures (N, C, H, W) of which each attribute is read as their records say, in [0, 1].

    In scenes it is the share of their parts; one at whose place none was found is read wrong. A picture whose record
    does not say where its parts are is left out.
    """
    lexicon, right = read_words(pack).lexicon, defaultdict(list)
    if not _slots(lexicon, tuple(lexicon.places)):
        return {}
    for i, (picture, record) in enumerate(zip(images.to_images(pixels), records, strict=True)):
        if not _are_placed(record.get(lexicon.parts, [])):
            continue
        found, _ = Run(search(Evidence(pipeline, latents_of(pipeline, picture), NOISES), lexicon)).result()
        for place, part in [(None, record), *((part["place"], part) for part in record.get(lexicon.parts, ()))]:
            for name in lexicon.values:
                if name in part:
                    right[name].append(found.get((place, name)) == part[name])
        report(f"describing: {i + 1}/{len(records)}")
    return {name: sum(found) / len(found) for name, found in right.items()}


def _are_placed(parts: object) -> bool:
    """Whether it lists parts, each with its place."""
    return isinstance(parts, Sequence) and all(
        isinstance(part, Mapping) and isinstance(part.get("place"), str) for part in parts
    )


def _slots(lexicon: Lexicon, places: Sequence[str]) -> list[Slot]:
    """Everything that can be said of a picture with parts at these places; of one without parts, of the whole."""
    said = [attribute for attribute in lexicon.values if lexicon.phrases.get(attribute)]
    of_parts = [attribute for attribute in said if lexicon.parts and attribute not in lexicon.shared]
    return [(place, one) for place in places for one in of_parts] + [(None, one) for one in said if one not in of_parts]


def _candidates(lexicon: Lexicon, found: Found, slot: Slot) -> Candidates:
    """Every value, said beside what has been found."""
    named = lexicon.phrases[slot[1]]
    return {
        value: (wording(lexicon, found | {slot: value}), 0.0 if named.get(value) else UNSAID)
        for value in lexicon.values[slot[1]]
    }


def _first(evidence: Evidence, candidates: Candidates) -> str:
    """The best under few noises."""
    return list(candidates)[int(nats(evidence, candidates, NOISES.few // 2).mean(1).argmin())]


def _places(evidence: Evidence, lexicon: Lexicon) -> tuple[str, ...]:
    """Where the parts are: one, at a place that needs no name, or two.

    Each place is tried with the attribute that words tell best apart, all others being left out.
    """
    named = [place for place, phrases in lexicon.places.items() if phrases]
    scenes = [(place,) for place in lexicon.places if place not in named] + list(combinations(named, 2)) or [
        tuple(named)
    ]
    said = [one for one, by_value in lexicon.phrases.items() if by_value and one not in lexicon.shared]
    if not (lexicon.parts and said):
        return ()
    telling = max(
        said, key=lambda one: (len(lexicon.phrases[one]) == len(lexicon.values[one]), len(lexicon.values[one]))
    )
    best = {place: _first(evidence, _candidates(lexicon, {}, (place, telling))) for place in lexicon.places}
    told = {scene: wording(lexicon, {(place, telling): best[place] for place in scene}) for scene in scenes}
    sure = Run(race(evidence, {scene: (prompt, 0.0) for scene, prompt in told.items()})).result()
    return max(sure, key=sure.get)
