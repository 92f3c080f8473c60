"""A picture to words, by the model that draws: the words under which it denoises the picture best.

Diffusion Classifier (Li et al., arXiv:2303.16203): a prompt explains a picture as well as the diffusion bound on the
picture's likelihood says, up to a constant -1/2 ∫ E|eps - eps_hat|² dl over l = log(a²/s²) (arXiv:2303.00848),
in nats. All prompts are held against each other under the same noises, which come in pairs eps and -eps.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images
from mmdemo.errors import PackError
from mmdemo.packs import Pack, read_words, usual_psnr
from mmdemo.results import Description, Reading, Run
from mmdemo.sampling import latents_of
from mmdemo.tokens import reconstruct

if TYPE_CHECKING:
    from torch import Tensor

    from mmdemo.captions import Lexicon
    from mmdemo.pipeline import ClassPipeline

RANGE = (-4.0, 4.0)  # log(a²/s²), from much noise to little
LEVELS = 8  # noise levels in that range
BATCH = 256  # predictions at a time
FEW, MANY = 8, 32  # noises that every candidate is tried under, and those that are close
MAPPED = 16  # noises that a map is the mean of
CLOSE = 10.0  # nats behind the best from which, errors of measurement aside, a candidate is tried no further
ROUNDS = 2  # times that every attribute is looked at, all others being said
TEMPERATURE = 1.0  # of the probabilities: the bound is in nats, so that one needs no other
# "none" has no words, and is held against them by their absence. Captions leave out what is there, too: a picture with
# glasses is explained by a caption without them but a little worse, by -log of how often one leaves them out.
UNSAID = 4.0  # nats
# dB below a pack's usual PSNR from which a picture is none of its kind: some words explain any picture better than the
# others do. Of 1000 unseen pictures each of the packs `faces` and `pairs` the worst is 7.8 below, the best of fourteen
# photographs and pictures of CIFAR-10 13.
UNLIKE = 10.0


class Evidence:
    """How badly prompts explain one picture, in nats. What was computed once is kept: a search comes back to it."""

    def __init__(self, pipeline: ClassPipeline, x0: Tensor):
        """x0: (1, d, h, w) latents, in the units in which they are denoised."""
        import torch

        from mmdemo.pipeline import noise_level

        self._pipeline, self._x0 = pipeline, x0
        every = torch.arange(1, 1000)
        a, s = noise_level(pipeline.scheduler, every)
        ratios = 2 * (a / s).log()
        low, high = RANGE
        middles = [low + (i + 0.5) / LEVELS * (high - low) for i in range(LEVELS)]
        places = [int((ratios - middle).abs().argmin()) for middle in middles]
        self._times = every[places]
        self._lost: dict[str, Tensor] = {}  # prompt -> (n, h, w), under the first n noises

    def lost(self, prompts: Sequence[str], noises: int) -> Tensor:
        """(P, noises, h, w): each latent cell's part in every prompt's badness under each of the first noises."""
        import torch

        none = torch.zeros(0, *self._x0.shape[2:])
        known = {prompt: self._lost.get(prompt, none) for prompt in prompts}
        fresh = [(prompt, n) for prompt, lost in known.items() for n in range(len(lost), noises)]
        if fresh:
            lost = self._predict(fresh)
            counts = [max(0, noises - len(one)) for one in known.values()]
            for (prompt, before), more in zip(known.items(), lost.split(counts), strict=True):
                self._lost[prompt] = torch.cat([before, more])
        return torch.stack([self._lost[prompt][:noises] for prompt in prompts])

    def _predict(self, asked: Sequence[tuple[str, int]]) -> Tensor:
        """(B, h, w) for prompts and the numbers of noises."""
        import torch

        from mmdemo.pipeline import noise_level, prediction_type, x0_from_prediction

        pipeline, x0, device = self._pipeline, self._x0, self._x0.device
        numbers = torch.tensor([n for _, n in asked])
        noises = torch.stack([self._noise(n) for n in range(int(numbers.max()) + 1)])
        times = self._times[[self._level(n) for n in range(len(noises))]]
        texts = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in asked))}
        places = torch.tensor([texts[prompt] for prompt, _ in asked])
        wrong = []
        with torch.inference_mode():
            label = pipeline.transformer.read(pipeline.label_ids(list(texts)).to(device))
            for rows, which in zip(numbers.split(BATCH), places.split(BATCH), strict=True):
                t, eps = times[rows].to(device), noises[rows].to(device)
                a, s = (level.view(-1, 1, 1, 1) for level in noise_level(pipeline.scheduler, t))
                x_t = a * x0 + s * eps
                asked_of = label.of_texts(which.to(device))
                prediction = pipeline.transformer(x_t, timestep=t, class_labels=asked_of).sample[:, : x_t.shape[1]]
                guess = x0_from_prediction(prediction_type(pipeline.scheduler), prediction.float(), x_t, a, s)
                wrong.append((a / s * (guess - x0)).square().sum(1).cpu())  # eps - eps_hat = a/s (x0_hat - x0)
        return 0.5 * (RANGE[1] - RANGE[0]) * torch.cat(wrong)

    def _level(self, n: int) -> int:
        """Pairs take the levels in an order in which the first few are far apart: 0, 4, 2, 6, 1 …"""
        bits = LEVELS.bit_length() - 1
        return int(f"{n // 2 % LEVELS:0{bits}b}"[::-1], 2)

    def _noise(self, n: int) -> Tensor:
        import torch

        rng = torch.Generator().manual_seed(n // 2)
        return torch.randn(self._x0.shape[1:], generator=rng) * (1 - n % 2 * 2)


Slot = tuple[str | None, str]  # what can be said: an attribute of the part at a place, or (None) of the whole picture
Found = dict[Slot, str]
Candidates = dict[Hashable, tuple[str, float]]  # what may be so -> the prompt that says it, and nats against it


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
    evidence = Evidence(pipeline, latents_of(pipeline, original))
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
        sure[slot] = race(evidence, _candidates(lexicon, found, slot))
        found[slot] = max(sure[slot], key=sure[slot].get)
        yield Reading(index, len(slots) * ROUNDS, wording(lexicon, found))
    return found, sure


def race(evidence: Evidence, candidates: Candidates) -> dict:
    """The probability of every candidate. Those close to the best are tried under ever more noises."""
    import torch

    behind, alive, noises = {}, candidates, FEW
    while True:
        lost = _lost(evidence, alive, noises)
        more = lost - lost[lost.mean(1).argmin()]  # (P, noises)
        pairs = more.view(len(more), -1, 2).mean(2)
        error = pairs.std(1) / pairs.shape[1] ** 0.5
        behind |= dict(zip(alive, more.mean(1).tolist(), strict=True))
        close = more.mean(1) < CLOSE + 2 * error
        alive = {one: alive[one] for one, stays in zip(alive, close.tolist(), strict=True) if stays}
        if len(set(alive.values())) == 1 or noises == MANY:
            break
        noises *= 2
    shares = torch.softmax(-torch.tensor([behind[one] for one in candidates]) / TEMPERATURE, 0)
    return dict(zip(candidates, shares.tolist(), strict=True))


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
    """Every word that was found, and where it lets the picture be denoised better than all others do alone."""
    said = defaultdict(list)
    for slot, value in found.items():
        said[wording(lexicon, {slot: value})].append(slot)  # one word may say two things
    said.pop("", None)
    without = [{one: value for one, value in found.items() if one not in slots} for slots in said.values()]
    lost = evidence.lost([wording(lexicon, one) for one in (found, *without)], MAPPED).mean(1)  # (1 + words, h, w)
    gains = (lost[1:] - lost[0]).clamp(min=0)
    shares = gains / gains.amax((1, 2), keepdim=True).clamp(min=1e-9)
    return [(word, images.heat(original, one)) for word, one in zip(said, shares.tolist(), strict=True)]


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
        found, _ = Run(search(Evidence(pipeline, latents_of(pipeline, picture)), lexicon)).result()
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


def _lost(evidence: Evidence, candidates: Candidates, noises: int) -> Tensor:
    """(P, noises): nats, with what counts against each."""
    import torch

    prompts, handicaps = zip(*candidates.values(), strict=True)
    return evidence.lost(prompts, noises).sum((2, 3)) + torch.tensor(handicaps)[:, None]


def _first(evidence: Evidence, candidates: Candidates) -> str:
    """The best under few noises."""
    return list(candidates)[int(_lost(evidence, candidates, FEW // 2).mean(1).argmin())]


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
    sure = race(evidence, {scene: (prompt, 0.0) for scene, prompt in told.items()})
    return max(sure, key=sure.get)
