"""What drawn pictures teach: a classifier trained on them alone, and beside some real ones, tested on real pictures.

How they are drawn is chosen by what a classifier learns of them about pictures held out of the training split: what
teaches best need not look best, because guidance makes pictures clearer and more alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmdemo import data
from mmdemo.arguments import EVALUATED, SYNTHETIC, Recipe
from mmdemo.augmentation import augmented
from mmdemo.classifier import are_photographs, train_classifier
from mmdemo.data import LabelledImages
from mmdemo.errors import PackError
from mmdemo.judging import Evaluation
from mmdemo.metrics import accuracy

HELD_OUT = 10_000  # training pictures that settings are chosen on, at most a third
TRIED = 3000  # pictures drawn by each settings that are tried
REAL = (100, 1000, 10_000)  # real pictures that drawn ones are put beside
CHOOSING, TEACHING = 1_000_000, 2_000_000  # first seeds of what is drawn to choose by, and of what is measured
STEPS = {False: 1000, True: 160}  # of every classifier, whatever it learns from; by whether they are photographs
# Of those that read photographs. A picture takes two sevenths of the usual work: there are eight of them, or eleven.
WIDTHS = (32, 128, 128)


def measure(
    evaluation: Evaluation,
    count: int = SYNTHETIC,
    asked: Mapping[str, Any] = {},  # settings of a drawing, by name; if there are none they are chosen
) -> dict:
    """What `evaluate` adds to a card of a pack that draws classes, shares of test pictures read right, in [0, 1].

    Raises PackError and DataError where there are no classes to learn.
    """
    pack, report, count = evaluation.pack, evaluation.report, EVALUATED["count"].check("count", count, None)
    if not pack.can_sample or pack.words:
        raise PackError(f"{pack.name!r} draws no classes, so there is nothing that a classifier could learn of it")
    own, splits = evaluation.recipe(asked), evaluation.of_classes()
    device = evaluation.pipeline.device
    train, test = (_moved(images, device) for images in splits)
    places = data.permuted(len(train), 0, len(train), seed=2)
    held = min(HELD_OUT, len(train) // 3)
    held_out, rest = _some(train, places[:held]), places[held:]
    photographs = are_photographs(train)

    def drawn_by(recipe: Recipe, count: int, seed: int) -> LabelledImages:
        labels = torch.arange(count) % len(test.classes)
        pixels = evaluation.drawn(labels, seed, **recipe.to_store())
        return _moved(LabelledImages(pixels, labels, test.classes), device)

    def right(judged: LabelledImages, *taught: LabelledImages) -> float:
        every, steps = _together(taught), STEPS[photographs]

        def share() -> Tensor:
            for step, _, trained in train_classifier(every, photographs=photographs, steps=steps, widths=WIDTHS):
                classifier = trained
                if step % max(1, steps // 4) == 0:
                    report(f"training a classifier on {len(every)} pictures: {step}/{steps}")
            return torch.tensor(accuracy(classifier, judged.pixels, judged.labels), dtype=torch.float64)

        key = "taught", photographs, steps, WIDTHS
        tensors = every.pixels, every.labels, judged.pixels, judged.labels
        read = evaluation.unfinished.part(share, key, *tensors).item()
        report(f"a classifier that learnt {len(every)} pictures reads {read:.2%} right")
        return read

    tried = {}
    for recipe in () if asked else _candidates(own):
        report(f"trying {_words(recipe)}")
        tried[recipe] = right(held_out, drawn_by(recipe, min(TRIED, count), CHOOSING))
    chosen = _cheapest(tried, held) if tried else own
    report(f"drawing by {_words(chosen)}")
    drawn = drawn_by(chosen, count, TEACHING)
    varied = replace(drawn, pixels=_variants(drawn))
    alone = {"count": count, "accuracy": right(test, drawn), "accuracy_augmented": right(test, drawn, varied)}
    real, both = {}, {}
    for some in (n for n in REAL if n <= len(rest)):
        few = _some(train, rest[:some])
        real[str(some)], both[str(some)] = right(test, few), right(test, few, drawn)
    return {
        "synthetic": alone | {"minutes": evaluation.minutes},
        "synthetic_settings": chosen.to_store(),
        "synthetic_tried": {_words(recipe): share for recipe, share in tried.items()} | {"pictures": held},
        "synthetic_real": real,
        "synthetic_both": both,
    }


def _candidates(own: Recipe) -> list[Recipe]:
    """The pack's own settings; without guidance, at about half the cost; and that in half the steps: ever cheaper."""
    free = replace(own, guidance=1.0, interval=(0.0, 1.0))
    return list(dict.fromkeys([own, free, replace(free, steps=max(1, own.steps // 2))]))


def _cheapest(tried: Mapping[Recipe, float], pictures: int) -> Recipe:
    """The last, and so the cheapest, of those within one standard error of the best (Breiman et al., 1984)."""
    best = max(tried.values())
    error = (best * (1 - best) / pictures) ** 0.5
    return [recipe for recipe, share in tried.items() if share >= best - error][-1]


def _words(recipe: Recipe) -> str:
    return recipe.words(without=["seed"])


def _variants(drawn: LabelledImages) -> Tensor:
    return augmented(drawn.pixels.cpu(), range(TEACHING, TEACHING + len(drawn))).to(drawn.pixels.device)


def _moved(images: LabelledImages, device: torch.device) -> LabelledImages:
    return replace(images, pixels=images.pixels.to(device), labels=images.labels.to(device))


def _together(images: Sequence[LabelledImages]) -> LabelledImages:
    pixels, labels = (torch.cat([getattr(one, name) for one in images]) for name in ("pixels", "labels"))
    return LabelledImages(pixels, labels, images[0].classes)


def _some(images: LabelledImages, places: Tensor) -> LabelledImages:
    return LabelledImages(images.pixels[places], images.labels[places], images.classes)
