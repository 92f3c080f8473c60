"""How well a student draws in few steps: by the labels, the seeds and the test pictures of its pack in judging.py."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from mmdemo import packs
from mmdemo.errors import PackError
from mmdemo.judging import CaptionJudge, Evaluation, columns_of, generate, judged_by_class, sheet
from mmdemo.pipeline import ClassPipeline, Label
from mmdemo.samplers import FAST, USUAL_JUMPS

JUMPS = (USUAL_JUMPS, 2, 1)  # in how many it draws
TIMED = 64  # pictures that are drawn in the pack's own way too, to be compared and timed
ROUNDS = 3


def measure(evaluation: Evaluation, samples: int) -> dict:
    """What `evaluate --student` adds to a card's numbers: of every number of steps what `evaluate` has of the pack's
    own drawing, and how many times as fast it is.  Raises PackError and DataError.

    samples: how many are drawn; as many as the pack's own, since of more the Fréchet distance is smaller.
    """
    pack = evaluation.pack
    if pack.problem or FAST not in pack.samplers:
        why = pack.problem or f"first: python -m mmdemo train student --pack {pack.name}"
        raise PackError(f"{pack.name!r} has no student to be measured; {why}")
    if not samples:
        first = f"python -m mmdemo evaluate --pack {pack.name}"
        raise PackError(f"what {pack.name!r} itself draws is not measured yet; first: {first}")
    train, test = evaluation.split("train"), evaluation.split("test")
    if pack.words:
        judge = CaptionJudge(evaluation.reader(train), packs.read_words(pack).lexicon)
        asked = judge.asked(test, samples)
        labels, judged = [one.caption for one in asked], partial(judge.judged, test, asked)
    else:
        labels = [n % len(pack.classes) for n in range(samples)]
        judged = partial(judged_by_class, evaluation.classifier(train), test, labels)

    rows = []
    ways = [{}, *({"sampler": FAST, "num_inference_steps": jumps} for jumps in JUMPS)]
    shown, (own, *seconds) = _timed(evaluation.pipeline, labels, ways)
    for fast, taken in zip(ways[1:], seconds, strict=True):
        numbers = judged(evaluation.drawn(labels, **fast))
        rows.append({"steps": fast["num_inference_steps"], "times_as_fast": round(own / taken, 1), **numbers})
    columns = columns_of(shown[0], len(shown))
    evaluation.show("student.png", sheet([one[:columns] for one in shown]))
    return {"student": rows, "student_minutes": evaluation.minutes}


def _timed(
    pipeline: ClassPipeline, labels: Sequence[Label], ways: Sequence[Mapping[str, Any]]
) -> tuple[list[Tensor], list[float]]:
    """The first pictures, drawn in each way, and the seconds that it takes, the least of all rounds. In a round the
    ways follow each other, so that what else the machine does slows them alike."""
    rounds = []
    for _ in range(ROUNDS):
        drawn, seconds = [], []
        for way in ways:
            started = time.perf_counter()
            drawn.append(generate(pipeline, labels[:TIMED], **way))
            seconds.append(time.perf_counter() - started)
        rounds.append(seconds)
    return drawn, [min(taken) for taken in zip(*rounds, strict=True)]
