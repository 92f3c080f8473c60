"""A picture to its class, by the model that draws: the class under which it denoises the picture best (evidence.py).

Not to be taken for classifier.py, which is trained to read pictures, and judges what is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo import images
from mmdemo.evidence import Candidates, Evidence, Noises, race, warm
from mmdemo.packs import Pack
from mmdemo.results import Classification, Guess, Run
from mmdemo.sampling import latents_of

if TYPE_CHECKING:
    from torch import Tensor

    from mmdemo.pipeline import ClassPipeline

# Of digits the levels under 0 tell classes apart, of photographs those from -1 to 3. Every level counts alike: weights
# fitted to 250 digits and 300 photographs of the training splits read no more of others right than the bound's own.
# Turning the picture by ±8 degrees under two noises of three mends 5 of 12 errors of 1000 training digits, which the
# transformer has seen, and adds 5 to the 7 of 800 others.
# Of 1000 training digits 48 noises at most read 984 right, and 96 read 986, for half as much time again.
NOISES = Noises(low=-3.0, high=2.0, levels=8, few=8, many=48, close=1.0, errors=2.0)
MAPPED = 16  # noises that a map is the mean of


def classify(pipeline: ClassPipeline, pack: Pack, original: Image.Image) -> Generator[Guess, None, Classification]:
    """How likely every class is, and where in the picture the likeliest explains it better than the next one does."""
    started = time.perf_counter()
    evidence = Evidence(pipeline, latents_of(pipeline, original), NOISES)
    reading = Run(race(evidence, _candidates(pack)))
    for tried, probabilities in reading:
        yield Guess(tried, NOISES.many, probabilities)
    probabilities = reading.result()
    label, *others = sorted(probabilities, key=probabilities.get, reverse=True)
    other = others[0] if others else None
    against = pipeline.null_label if other is None else pack.classes.index(other)
    lost = evidence.lost([pack.classes.index(label), against], MAPPED).mean(1)  # (2, h, w)
    return Classification(
        label=label,
        probabilities=probabilities,
        map=warm(original, lost[1:] - lost[:1])[0],
        other=other,
        seconds=time.perf_counter() - started,
    )


def right(pipeline: ClassPipeline, pack: Pack, pixels: Tensor, labels: Sequence[int]) -> int:
    """Of how many uint8 pictures (N, C, H, W) the likeliest class is their label."""
    right = 0
    for picture, label in zip(images.to_images(pixels), labels, strict=True):
        evidence = Evidence(pipeline, latents_of(pipeline, picture), NOISES)
        probabilities = Run(race(evidence, _candidates(pack))).result()
        right += max(probabilities, key=probabilities.get) == pack.classes[int(label)]
    return right


def _candidates(pack: Pack) -> Candidates:
    return {name: (place, 0.0) for place, name in enumerate(pack.classes)}
