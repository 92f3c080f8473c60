"""How well a pack classifies test pictures by itself, and how much of their class the tokens alone give away."""

import time

import torch
from torch import Tensor

from mmdemo import classifying, data
from mmdemo.arguments import EVALUATED
from mmdemo.classifier import accuracy_of_tokens
from mmdemo.errors import PackError
from mmdemo.judging import Evaluation, tokens_of

PART = 50  # pictures that are classified before what they gave is kept
TOKENS = 100_000  # training pictures, at most, whose class is learned from their tokens


def measure(evaluation: Evaluation, count: int) -> dict:
    """What `evaluate --classify` adds to a card's numbers.  Raises PackError and DataError.

    count: test pictures that are classified, in a random order.
    """
    pack, unfinished, report = evaluation.pack, evaluation.unfinished, evaluation.report
    count = EVALUATED["classify"].check("classify", count, None)
    if pack.problem or not pack.can_sample or len(pack.classes) < 2:
        why = pack.problem or "it draws no classes"
        raise PackError(f"{pack.name!r} cannot classify: {why}")
    train, test = evaluation.of_classes()
    train, pipeline = train.labelled(), evaluation.pipeline
    some, began = data.permuted(len(test), 0, min(count, len(test)), seed=1), time.perf_counter()
    right = 0
    for done in range(0, len(some), PART):
        pixels, labels = (one[some[done : done + PART]] for one in (test.pixels, test.labels))

        def read(pixels: Tensor = pixels, labels: Tensor = labels) -> Tensor:
            return torch.tensor(classifying.right(pipeline, pack, pixels, labels))

        right += int(unfinished.part(read, ("classified", classifying.NOISES), pixels, labels))
        report(f"classifying: {done + len(labels)}/{len(some)}")
    seconds = (time.perf_counter() - began + unfinished.seconds) / len(some)

    report("reading tokens")
    every = -(-len(train) // TOKENS)
    known = tokens_of(pipeline, train.pixels[::every]), train.labels[::every]
    return {
        "classified_right": right / len(some),
        "classified_right_of": len(some),
        "classified_seconds": round(seconds, 3),
        "accuracy_tokens": accuracy_of_tokens(*known, tokens_of(pipeline, test.pixels), test.labels),
        "classified_minutes": evaluation.minutes,
    }
