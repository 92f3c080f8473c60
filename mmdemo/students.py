"""How well a student draws in few steps: by the labels, the seeds and the test pictures of its pack in evaluate.py."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from mmdemo import card, data, packs
from mmdemo.classifier import load_classifier
from mmdemo.errors import PackError
from mmdemo.evaluate import CaptionJudge, columns_of, generate, judged_by_class, minutes_since, sheet
from mmdemo.pipeline import ClassPipeline, Label
from mmdemo.reader import load_reader
from mmdemo.samplers import FAST, USUAL_JUMPS

JUMPS = (USUAL_JUMPS, 2, 1)  # in how many it draws
TIMED = 64  # pictures that are drawn in the pack's own way too, to be compared and timed


def measure(
    pack: Path,
    runs: Path,
    data_dir: str | Path | None = None,
    report: Callable[[str], None] = lambda line: None,
    show: Callable[[str, Image.Image], None] = lambda file, picture: None,
) -> dict:
    """What `evaluate --student` adds to a card's numbers: of every number of steps what `evaluate` has of the pack's
    own drawing, of as many drawings, and how many times as fast it is.  Raises PackError and DataError.
    """
    started, described = time.perf_counter(), packs.read(pack)
    if described.problem or FAST not in described.samplers:
        why = described.problem or f"it has none; first: python -m mmdemo train student --pack {pack.name}"
        raise PackError(f"{pack.name!r} has no student to be measured: {why}")
    samples = card.read(pack)["generated"]  # of more drawings the Fréchet distance is smaller
    training = packs.read_training(pack)["vqvae"]
    train, test = (
        data.load(training["dataset"], split, data_dir, training["image_size"], described.channels)
        for split in ("train", "test")
    )
    if described.words:
        reader = load_reader(train, runs / "classifiers", report)
        judge = CaptionJudge(reader, packs.read_words(described).lexicon)
        asked = judge.asked(test, samples)
        labels, judged = [one.caption for one in asked], partial(judge.judged, test, asked)
    else:
        labels = [n % len(described.classes) for n in range(samples)]
        judged = partial(judged_by_class, load_classifier(train, runs / "classifiers", report), test, labels)

    pipeline, rows = packs.load(described), []
    own, seconds = _timed(pipeline, labels)
    shown = [own]
    for jumps in JUMPS:
        fast = {"sampler": FAST, "num_inference_steps": jumps}
        drawn, taken = _timed(pipeline, labels, **fast)
        shown.append(drawn)
        numbers = judged(generate(pipeline, labels, report, **fast))
        rows.append({"steps": jumps, "times_as_fast": round(seconds / taken, 1), **numbers})
    columns = columns_of(own, len(shown))
    show("student.png", sheet([one[:columns] for one in shown]))
    return {"student": rows, "student_minutes": minutes_since(started)}


def _timed(pipeline: ClassPipeline, labels: Sequence[Label], **settings) -> tuple[Tensor, float]:
    """The first pictures, and the seconds in which they are drawn, the lesser of two."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        drawn = generate(pipeline, labels[:TIMED], **settings)
        seconds.append(time.perf_counter() - started)
    return drawn, min(seconds)
