"""What drawn pictures teach a classifier: how it is measured, and what the card says of it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from running import one_line, quietly

from mmdemo import card, classifier, provenance, teaching
from mmdemo.__main__ import main
from mmdemo.arguments import Recipe
from mmdemo.data import LabelledImages
from mmdemo.errors import ArgumentError, DataError, PackError
from mmdemo.judging import Evaluation
from mmdemo.pipeline import ClassPipeline

NUMBERS = {
    "synthetic": {"count": 30_000, "accuracy": 0.9876, "accuracy_augmented": 0.9789, "minutes": 12.3},
    "synthetic_settings": {
        "num_inference_steps": 20, "guidance_scale": 1.0, "sampler": "euler", "guidance_interval": [0.0, 1.0],
    },
    "synthetic_tried": {"20 steps, guidance 1": 0.97, "20 steps, guidance 3": 0.96, "pictures": 10_000},
    "synthetic_real": {"100": 0.7, "1000": 0.91},
    "synthetic_both": {"100": 0.981, "1000": 0.982},
}  # fmt: skip


@pytest.fixture
def small(monkeypatch) -> None:
    """A measurement of seconds."""
    monkeypatch.setattr(teaching, "STEPS", {False: 2, True: 2})
    monkeypatch.setattr(teaching, "TRIED", 12)
    monkeypatch.setattr(teaching, "REAL", (3, 6, 10**6))


def measured(sampling: Path, *options) -> int:
    where = ["--weights", sampling.parent, "--runs", sampling.parent.parent / "runs"]
    return quietly("evaluate", "--pack", sampling.name, *where, *options)


@pytest.fixture
def whole(sampling) -> Path:
    """A pack whose card can be written."""
    training = provenance.read_training(sampling)
    trained = {"steps": 0, "batch_size": 1, "minutes": 0.0, "machine": "none"}
    training = {"vqvae": training["vqvae"] | trained, "dit": training["dit"] | trained}
    (sampling / "training.json").write_text(json.dumps(training), encoding="utf-8")
    return sampling


def test_how_they_are_drawn_is_chosen_on_training_pictures_whatever_the_test_pictures_are(
    sampling, pictures, tmp_path, small
):
    other = shutil.copytree(pictures, tmp_path / "pictures")
    shutil.move(other / "test" / "circle", other / "test" / "x")
    shutil.move(other / "test" / "square", other / "test" / "circle")
    shutil.move(other / "test" / "x", other / "test" / "square")
    one, two = (teaching.measure(Evaluation(sampling, tmp_path, folder), 100) for folder in (pictures, other))
    tried = one["synthetic_tried"]
    assert tried == two["synthetic_tried"] and one["synthetic_settings"] == two["synthetic_settings"]
    assert one["synthetic"]["accuracy"] != two["synthetic"]["accuracy"] and tried.pop("pictures") == 10
    settings = one["synthetic_settings"]
    words = f"{settings['num_inference_steps']} steps of euler, guidance {settings['guidance_scale']:g}"
    best = max(tried.values())
    assert len(tried) == 3 and tried[words] >= best - (best * (1 - best) / 10) ** 0.5
    assert list(one["synthetic_real"]) == list(one["synthetic_both"]) == ["3", "6"]


def test_the_cheapest_is_taken_of_what_is_as_good_as_the_best():
    dear, middle, cheap = (Recipe(steps=steps) for steps in (20, 10, 5))
    for shares, chosen in (((0.98, 0.979, 0.97), middle), ((0.98, 0.97, 0.979), cheap), ((0.98, 0.97, 0.97), dear)):
        assert teaching._cheapest(dict(zip((dear, middle, cheap), shares, strict=True)), 10_000) == chosen


def test_evaluate_synthetic_adds_to_what_was_measured_and_settings_that_are_given_are_taken(
    whole, pictures, small, capsys
):
    where = ["--weights", whole.parent, "--data-dir", pictures]
    asked = ["evaluate", "--pack", whole.name, "--synthetic", "--count", 100, "--steps", 2, "--guidance", 1.2, *where]
    assert main([*map(str, asked)]) == 1
    assert "not measured yet" in one_line(capsys.readouterr().err)
    assert measured(whole, "--samples", 100, "--steps", 1, "--data-dir", pictures) == 0
    before = json.loads((whole / "metrics.json").read_text())
    images = {name: (whole / name).read_bytes() for name in ("comparison.png", "samples.png")}
    assert main([*map(str, asked), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert before | numbers == json.loads((whole / "metrics.json").read_text())
    assert numbers["synthetic_tried"] == {"pictures": 10}
    assert images == {name: (whole / name).read_bytes() for name in images}
    text = (whole / "README.md").read_text(encoding="utf-8")
    assert f"evaluate --pack {whole.name} --synthetic --count 100 --steps 2 --guidance 1.2 --sampler euler" in text
    assert "samples.png" in text and f"{numbers['synthetic']['accuracy']:.2%}" in text


def test_stopped_it_goes_on_where_it_was(whole, pictures, small, capsys, monkeypatch):
    where = ["--weights", whole.parent, "--data-dir", pictures, "--runs", whole.parent / "runs"]
    asked = [*map(str, ["evaluate", "--pack", whole.name, "--synthetic", "--count", 100, *where])]
    assert measured(whole, "--samples", 100, "--steps", 1, "--data-dir", pictures) == 0
    capsys.readouterr()
    train, trainings, called, drawings = teaching.train_classifier, [], ClassPipeline.__call__, []

    def stopped_at_the_fifth(images, **options):
        assert options["widths"] == teaching.WIDTHS
        trainings.append(images)
        if len(trainings) == 5:
            raise KeyboardInterrupt
        return train(images, **options)

    with monkeypatch.context() as patched:
        patched.setattr(teaching, "train_classifier", stopped_at_the_fifth)
        patched.setattr(
            ClassPipeline, "__call__", lambda *given, **more: drawings.append(given) or called(*given, **more)
        )
        assert main(asked) == 130 and capsys.readouterr().out == ""
        drawn = len(drawings)
        assert main(asked) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert len(trainings) == 1 + 3 + 2 + 4, "three to choose by, two of drawn pictures, four beside real ones"
    assert len(drawings) == drawn == 4, "what was drawn is not drawn anew"
    assert main([*asked[:-1], str(whole.parent / "others")]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again | {"synthetic": 0} == numbers | {"synthetic": 0}
    assert again["synthetic"]["accuracy_augmented"] == numbers["synthetic"]["accuracy_augmented"]


def test_the_card_says_how_they_were_chosen_and_that_the_generator_saw_every_real_picture(whole):
    numbers = json.loads(Path("weights/mnist/metrics.json").read_text())
    card.write(whole, numbers | NUMBERS)
    text = (whole / "README.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.count("|") == 4}
    assert "98.76%" in rows["no real ones"] and "97.89%" in text and "30,000 drawn" in text
    assert "| 70.00% | 98.10% |" in rows["100 real ones"] and "| 91.00% | 98.20% |" in rows["1,000 real ones"]
    assert (
        re.search(r"The generator saw all the real training pictures", text)
        and "10,000 pictures of the training split" in text
    )
    assert "guidance 3: 96.00%" in text and "--synthetic --count 30000 --data-dir" in text and "\n\n\n" not in text


def test_what_draws_no_classes_teaches_none(reading_weights, tiny_weights, tmp_path):
    for pack in (reading_weights / "words", tiny_weights / "tiny-codec"):
        with pytest.raises(PackError, match="draws no classes"):
            teaching.measure(Evaluation(pack, tmp_path), 100)
    with pytest.raises(DataError, match="shapes has not the 3 classes"):
        teaching.measure(Evaluation(tiny_weights / "tiny", tmp_path), 100)
    with pytest.raises(ArgumentError, match="count is 99"):
        teaching.measure(Evaluation(tiny_weights / "tiny", tmp_path), 99)


@pytest.mark.parametrize("photographs", [False, True])
def test_a_classifier_learns_from_a_few_pictures_too_if_it_may_take_many_steps(photographs):
    pixels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    pixels[::2, :, :8] = 200
    few = LabelledImages(pixels, torch.arange(8) % 2, ("up", "down"))
    how = {"photographs": photographs, "steps": 30, "widths": teaching.WIDTHS}
    *_, (step, steps, learnt) = classifier.train_classifier(few, **how)
    assert step == steps == 30 and learnt.num_features == 128
    assert isinstance(learnt, classifier.PhotoClassifier) == photographs
    assert teaching.accuracy(learnt, pixels, few.labels) == 1
