"""How well a pack classifies test pictures by itself, and how much of their class the tokens alone give away."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmdemo import classifying, data, packs
from mmdemo.arguments import EVALUATED
from mmdemo.classifier import accuracy_of_tokens
from mmdemo.errors import DataError, PackError
from mmdemo.evaluate import minutes_since, splits, tokens_of
from mmdemo.unfinished import AT_ONCE, Unfinished

PART = 50  # pictures that are classified before what they gave is kept
TOKENS = 100_000  # training pictures, at most, whose class is learned from their tokens


def measure(
    pack: Path,
    data_dir: str | Path | None,
    count: int,
    report: Callable[[str], None] = lambda line: None,
    unfinished: Unfinished = AT_ONCE,
) -> dict:
    """What `evaluate --classify` adds to a card's numbers.  Raises PackError and DataError.

    count: test pictures that are classified, in a random order.
    """
    started, described = time.perf_counter(), packs.read(pack)
    count = EVALUATED["classify"].check("classify", count, None)
    if described.problem or not described.can_sample or len(described.classes) < 2:
        why = described.problem or "it draws no classes"
        raise PackError(f"{pack.name!r} cannot classify: {why}")
    dataset, split = splits(described, data_dir)
    train, test = split("train").labelled(), split("test")
    if len(test.classes) != len(described.classes) or bool((test.labels < 0).any()):
        raise DataError(f"{dataset} has not the {len(described.classes)} classes of pack {pack.name!r}")
    pipeline = packs.load(described)
    some, began = data.permuted(len(test), 0, min(count, len(test)), seed=1), time.perf_counter()
    right = 0
    for done in range(0, len(some), PART):
        pixels, labels = (one[some[done : done + PART]] for one in (test.pixels, test.labels))

        def read(pixels: Tensor = pixels, labels: Tensor = labels) -> Tensor:
            return torch.tensor(classifying.right(pipeline, described, pixels, labels))

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
        "classified_minutes": minutes_since(started - unfinished.seconds),
    }
