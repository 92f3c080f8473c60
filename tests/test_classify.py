"""A picture's class: how labels are held against each other, the verb, its endpoint and its command."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from browsing import launched
from conftest import TINY_CLASSES, array, flow_schedule, same, tiny_vae
from gradio_client import Client, handle_file
from PIL import Image
from running import is_one_sentence, one_line

from mmdemo import classifying, data
from mmdemo.__main__ import main
from mmdemo.errors import MmdemoError, PackError
from mmdemo.evidence import Evidence, Noises, nats, race
from mmdemo.images import to_images
from mmdemo.pipeline import ClassPipeline
from mmdemo.results import Classification, Run
from mmdemo.studio import Studio


@pytest.fixture(scope="module")
def reader(reading_weights: Path) -> Studio:
    return Studio([reading_weights], device="cpu")


@pytest.fixture(scope="module")
def told(reader: Studio, drawing: Path) -> Classification:
    return reader.classify("tiny", drawing).result()


def shapes(count: int) -> list[Image.Image]:
    return to_images(data.load("shapes", "test", image_size=16, channels=1).pixels[:count])


# -------------------------------------------------------------------------------------------- what is known in advance


class Prototypes(torch.nn.Module):
    """A transformer whose every class is one picture, and which counts what it is asked."""

    def __init__(self, pictures: torch.Tensor):
        super().__init__()
        self.pictures, self.asked = pictures, 0
        self.config = SimpleNamespace(patch_size=2, num_classes=len(pictures))

    def forward(self, x_t, timestep, class_labels):
        self.asked += len(x_t)
        s = (timestep / 1000).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(x_t - self.pictures[class_labels]) / s)  # eps - x0


@pytest.fixture
def prototypes() -> ClassPipeline:
    pictures = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pipeline = ClassPipeline(tiny_vae(), scheduler=flow_schedule())
    pipeline.transformer = Prototypes(pictures)
    return pipeline


NOISES = Noises(low=-1.0, high=0.0, levels=4, few=4, many=16, close=1.0, errors=3.0)


def test_a_label_is_behind_by_as_many_nats_as_the_bound_says(prototypes):
    """Here the integral has a closed form: |difference|² / 2 ∫ a²/s² dl, which is as large under every noise."""
    pictures = prototypes.transformer.pictures
    evidence = Evidence(prototypes, pictures[2:3], NOISES)
    found = nats(evidence, {place: (place, 0.0) for place in range(6)}, 8).mean(1)
    ratios = torch.tensor([-0.875, -0.625, -0.375, -0.125]).exp() / 4
    expected = 0.5 * (pictures - pictures[2]).square().sum((1, 2, 3)) * ratios.sum()
    assert found.allclose(expected, rtol=0.01, atol=1e-3)


def test_the_class_is_found_and_hopeless_ones_are_tried_under_few_noises(prototypes):
    x0 = prototypes.transformer.pictures[4:5] + 0.05
    evidence = Evidence(prototypes, x0, NOISES)
    shares = Run(race(evidence, {f"kind {place}": (place, 0.0) for place in range(6)})).result()
    assert max(shares, key=shares.get) == "kind 4" and sum(shares.values()) == pytest.approx(1)
    assert prototypes.transformer.asked == 6 * NOISES.few


def test_two_classes_that_cannot_be_told_apart_are_tried_under_all_noises_and_are_as_likely(prototypes):
    pictures = prototypes.transformer.pictures
    pictures[1] = pictures[0]
    evidence = Evidence(prototypes, pictures[:1], NOISES)
    shares = Run(race(evidence, {place: (place, 0.0) for place in range(6)})).result()
    assert shares[0] == pytest.approx(0.5) and shares[1] == pytest.approx(0.5)
    assert prototypes.transformer.asked == 4 * NOISES.few + 2 * NOISES.many


# ---------------------------------------------------------------------------------------------------------- the verb


def test_every_class_has_a_probability_and_the_likeliest_is_the_label(told):
    assert tuple(told.probabilities) == TINY_CLASSES and sum(told.probabilities.values()) == pytest.approx(1)
    assert told.label == max(told.probabilities, key=told.probabilities.get)
    rest = {name: share for name, share in told.probabilities.items() if name != told.label}
    assert told.other == max(rest, key=rest.get)


def test_the_label_explains_the_picture_best_of_all_classes(reader, pipelines):
    """Held against every other under all noises."""
    for picture in shapes(4):
        evidence = Evidence(pipelines["tiny"], classifying.latents_of(pipelines["tiny"], picture), classifying.NOISES)
        lost = evidence.lost(range(3), classifying.NOISES.many).sum((2, 3)).mean(1)
        assert reader.classify("tiny", picture).label == TINY_CLASSES[int(lost.argmin())]


def test_the_same_picture_has_the_same_answer_and_another_one_another(reader, told, drawing):
    again = reader.classify("tiny", drawing).result()
    assert again.probabilities == told.probabilities and same(again.map, told.map)
    others = [reader.classify("tiny", one).probabilities for one in shapes(3)]
    assert len({json.dumps(one) for one in (told.probabilities, *others)}) == 4


def test_the_evidence_map_is_as_large_as_the_picture_and_warm_somewhere(told):
    assert told.map.size == (16, 16) and told.map.mode == "RGB"
    assert (array(told.map).max(2) - array(told.map).min(2)).max() > 50  # colour, on what is otherwise grey


def test_it_can_be_watched_and_stopped(reader, drawing, told):
    guesses = list(reader.classify("tiny", drawing))
    assert [one.index for one in guesses] == sorted(one.index for one in guesses)
    assert all(one.index < one.total and sum(one.probabilities.values()) == pytest.approx(1) for one in guesses)
    assert len({*guesses[0].probabilities.values()}) == 1 and len({*guesses[1].probabilities.values()}) == 3
    run = reader.classify("tiny", drawing)
    next(run)
    run.close()
    with pytest.raises(ValueError):
        run.result()


def test_those_are_counted_that_are_read_right(reader, pipelines):
    pixels, pack = data.load("shapes", "test", image_size=16, channels=1).pixels[:4], reader.pack("tiny")
    found = [TINY_CLASSES.index(reader.classify("tiny", one, invert="no").label) for one in to_images(pixels)]
    assert classifying.right(pipelines["tiny"], pack, pixels, found) == 4
    found[0] = (found[0] + 1) % 3
    assert classifying.right(pipelines["tiny"], pack, pixels, torch.tensor(found)) == 3


@pytest.mark.parametrize(
    ("pack", "why"),
    [
        ("tiny-codec", "'tiny-codec' has no transformer, so it cannot classify; train one: "),
        ("words", "'words' reads words and knows no classes, so it cannot classify; ask it to describe"),
    ],
)
def test_a_pack_without_classes_says_so(reader, drawing, pack, why):
    with pytest.raises(PackError) as error:
        reader.classify(pack, drawing)
    assert str(error.value).startswith(why) and is_one_sentence(str(error.value))


def test_a_bad_argument_is_told_in_one_sentence_before_the_work(reader, drawing):
    for arguments in (("nope", drawing), ("tiny", "nope.png"), ("tiny", drawing, "perhaps"), ("tiny", None)):
        with pytest.raises(MmdemoError) as error:
            reader.classify(*arguments)
        assert is_one_sentence(str(error.value))


# ------------------------------------------------------------------------------------------- the command, the endpoint


def timeless(record: dict) -> dict:
    return record | {"seconds": 0}


@pytest.fixture
def command(reading_weights, capsys):
    def classify(*arguments) -> tuple[int, str, str]:
        code = main(["classify", "--pack", "tiny", *map(str, arguments), "--weights", str(reading_weights)])
        return code, *capsys.readouterr()

    return classify


def test_the_command_prints_a_line_or_a_record_an_image(command, told, drawing, tmp_path):
    shapes(1)[0].save(tmp_path / "other.png")
    code, out, error = command(drawing, tmp_path / "other.png")
    lines = out.splitlines()
    assert code == 0 and error == "" and len(lines) == 2 and lines[1].startswith("other.png: ")
    assert lines[0] == f"triangle.png: {told.label} ({told.probabilities[told.label]:.1%})"
    code, out, error = command(drawing, "--json")
    (record,) = json.loads(out)
    assert (code, error) == (0, "") and timeless(record) == {"image": str(drawing)} | timeless(told.json())


def test_the_command_refuses_before_it_classifies_anything(command, drawing):
    code, out, error = command(drawing, "nope.png")
    assert code == 1 and out == "" and "nope.png" in one_line(error)


def test_the_endpoint_answers_with_the_numbers_and_the_evidence_map(reader, told, drawing):
    with launched(reader) as url:
        numbers, evidence = Client(url, verbose=False).predict("tiny", handle_file(drawing), api_name="/classify")
    assert timeless(numbers) == timeless(told.json()) and same(evidence, told.map)
