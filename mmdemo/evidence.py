"""How well labels explain a picture: as well as the model that draws denoises the picture under them.

Diffusion Classifier (Li et al., arXiv:2303.16203): a label explains a picture as well as the diffusion bound on the
picture's likelihood says, up to a constant -1/2 ∫ E|eps - eps_hat|² dl over l = log(a²/s²) (arXiv:2303.00848),
in nats. All labels are held against each other under the same noises, which come in pairs eps and -eps: what the
noise alone does to a prediction is mostly odd in it, and so leaves the mean of a pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images

if TYPE_CHECKING:
    from torch import Tensor

    from mmdemo.pipeline import ClassPipeline, Label

# Patches predicted at a time: a CPU is no faster with more, and who watches sees more of it; a GPU is.
PATCHES, PATCHES_OF_GPU = 512, 8192


@dataclass(frozen=True)
class Noises:
    """The noises under which labels are held against each other.  few, many: even."""

    low: float  # log(a²/s²), from much noise
    high: float  # to little
    levels: int  # noise levels between them, a power of two
    few: int  # noises that every label is tried under
    many: int  # and those that are close
    close: float  # nats behind the best from which a label is tried no further
    errors: float  # and by how many standard errors it must be behind that


class Evidence:
    """How badly labels explain one picture, in nats. What was computed once is kept: a search comes back to it."""

    def __init__(self, pipeline: ClassPipeline, x0: Tensor, noises: Noises):
        """x0: (1, d, h, w) latents, in the units in which they are denoised."""
        import torch

        from mmdemo.schedules import noise_level

        self.noises = noises
        self._pipeline, self._x0 = pipeline, x0
        every = torch.arange(1, 1000)
        a, s = noise_level(pipeline.scheduler, every)
        ratios, width = 2 * (a / s).log(), (noises.high - noises.low) / noises.levels
        middles = [noises.low + (i + 0.5) * width for i in range(noises.levels)]
        self._times = every[[int((ratios - middle).abs().argmin()) for middle in middles]]
        self._lost: defaultdict[Label, list[Tensor]] = defaultdict(list)  # (h, w), under the first noises

    def lost(self, labels: Sequence[Label], count: int) -> Tensor:
        """(L, count, h, w): each latent cell's part in every label's badness under each of the first noises."""
        import torch

        for _ in self.look(labels, count):
            pass
        return torch.stack([torch.stack(self._lost[label][:count]) for label in labels])

    def look(self, labels: Sequence[Label], count: int) -> Iterator[None]:
        """Computes what is not known yet of `lost`, a batch at a time."""
        labels = list(dict.fromkeys(labels))
        asked = [(place, n) for n in range(count) for place, one in enumerate(labels) if n >= len(self._lost[one])]
        if not asked:
            return
        side = self._x0.shape[-1] // self._pipeline.transformer.config.patch_size
        size = max(1, (PATCHES if self._x0.device.type == "cpu" else PATCHES_OF_GPU) // side**2)
        meaning = self._read(labels)
        for start in range(0, len(asked), size):
            places, numbers = zip(*asked[start : start + size], strict=True)
            for place, lost in zip(places, self._predict(meaning, places, numbers), strict=True):
                self._lost[labels[place]].append(lost)
            yield

    def _read(self, labels: Sequence[Label]):
        """What the transformer takes for labels: class ids; of texts, which are read but once, what they mean to it."""
        import torch

        with torch.inference_mode():
            ids = self._pipeline.label_ids(labels).to(self._x0.device)
            return ids if self._pipeline.words is None else self._pipeline.transformer.read(ids)

    def _predict(self, meaning, places: Sequence[int], numbers: Sequence[int]) -> Tensor:
        """(B, h, w) for the places of labels in what was read of them, and the numbers of noises."""
        import torch

        from mmdemo.schedules import noise_level, prediction_type, x0_from_prediction

        pipeline, x0 = self._pipeline, self._x0
        with torch.inference_mode():
            t = self._times[[self._level(n) for n in numbers]].to(x0.device)
            drawn = {n: self._noise(n) for n in set(numbers)}
            eps = torch.stack([drawn[n] for n in numbers]).to(x0.device)
            a, s = (level.view(-1, 1, 1, 1) for level in noise_level(pipeline.scheduler, t))
            x_t = a * x0 + s * eps
            which = torch.tensor(places, device=x0.device)
            labels = meaning[which] if pipeline.words is None else meaning.of_texts(which)
            prediction = pipeline.transformer(x_t, timestep=t, class_labels=labels).sample[:, : x_t.shape[1]]
            guess = x0_from_prediction(prediction_type(pipeline.scheduler), prediction.float(), x_t, a, s)
            lost = (a / s * (guess - x0)).square().sum(1).cpu()  # eps - eps_hat = a/s (x0_hat - x0)
        return 0.5 * (self.noises.high - self.noises.low) * lost

    def _level(self, n: int) -> int:
        """Pairs take the levels in an order in which the first few are far apart: of eight 0, 4, 2, 6, 1 …"""
        bits = self.noises.levels.bit_length() - 1
        return int(f"{n // 2 % self.noises.levels:0{bits}b}"[::-1], 2)

    def _noise(self, n: int) -> Tensor:
        import torch

        rng = torch.Generator().manual_seed(n // 2)
        return torch.randn(self._x0.shape[1:], generator=rng) * (1 - n % 2 * 2)


def warm(original: Image.Image, gains: Tensor) -> list[Image.Image]:
    """The picture, warm where a grid of gains in nats (n, h, w) is positive; the largest of each is the warmest."""
    shares = gains.clamp(min=0)
    shares = shares / shares.amax((1, 2), keepdim=True).clamp(min=1e-9)
    return [images.heat(original, one) for one in shares.tolist()]


Candidates = Mapping[Hashable, "tuple[Label, float]"]  # what may be so -> the label that says it, and nats against it
Shares = dict[Hashable, float]  # probabilities


def race(evidence: Evidence, candidates: Candidates) -> Generator[tuple[int, Shares], None, Shares]:
    """The probability of every candidate; those close to the best are tried under more noises.

    Yields, after every batch of predictions, how many noises all that are left were tried under, and what the
    probabilities are so far: all alike until each was tried.
    """
    noises, behind, alive = evidence.noises, dict.fromkeys(candidates, 0.0), candidates
    for count in range(2, noises.many + 1, 2):
        for _ in evidence.look([label for label, _ in alive.values()], count):
            yield count - 2, _shares(behind)
        lost = nats(evidence, alive, count)
        more = lost - lost[lost.mean(1).argmin()]  # (candidates, count)
        behind |= dict(zip(alive, more.mean(1).tolist(), strict=True))
        if count < noises.few:
            continue
        pairs = more.view(len(more), -1, 2).mean(2)
        error = pairs.std(1) / pairs.shape[1] ** 0.5
        stay = (more.mean(1) <= noises.close + noises.errors * error).tolist()
        alive = {one: alive[one] for one, stays in zip(alive, stay, strict=True) if stays}
        if len(set(alive.values())) == 1:
            break
    return _shares(behind)


def nats(evidence: Evidence, candidates: Candidates, count: int) -> Tensor:
    """(candidates, count): how badly each does under the first noises, with what counts against it."""
    import torch

    labels, handicaps = zip(*candidates.values(), strict=True)
    return evidence.lost(labels, count).sum((2, 3)) + torch.tensor(handicaps)[:, None]


def _shares(behind: Mapping[Hashable, float]) -> Shares:
    """Nats behind the best -> probabilities: they are the bound's, so no temperature is chosen."""
    import torch

    shares = torch.softmax(-torch.tensor([*behind.values()], dtype=torch.float64), 0)
    return dict(zip(behind, shares.tolist(), strict=True))
