"""The reader of attributes, on scenes of coloured squares drawn in scenes.py."""

from dataclasses import replace

import pytest
import torch
from scenes import scenes

from mmdemo import data, reader
from mmdemo.reader import Attributes

NAN = float("nan")  # json reads it


@pytest.fixture(scope="module")
def trained() -> reader.Reader:
    images = scenes(300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "MIN_STEPS", 120)
        *_, (step, steps, made) = reader.train_reader(images, Attributes.of(images.records, 32))
    assert step == steps
    return made


def read_right(made: reader.Reader, images: data.LabelledImages, pixels: torch.Tensor | None = None) -> dict:
    places = [made.attributes.places(record) for record in images.records]
    read = made.read(images.pixels if pixels is None else pixels, places)
    return reader.shares(read, made.attributes, images.records)


def test_attributes_are_few_words_that_differ_and_parts_have_windows_with_room_for_where_they_lie():
    attributes = Attributes.of(scenes(300).records, 32)
    assert attributes.own == {"ground": ("black", "grey")} and attributes.parts == "parts"
    assert attributes.of_parts == {"colour": ("blue", "red", "yellow"), "mark": ("dot", "none")}
    assert attributes.side == 16 + 8
    assert attributes.windows == {"left": (4, -4), "middle": (4, 4), "right": (4, 12)}, "top and left"

    records = [{"name": f"n{i}", "kind": "a", "size": i, "colour": "red" if i % 2 else "blue"} for i in range(300)]
    assert Attributes.of(records, 32).own == {"colour": ("blue", "red")}, "a name, a kind they all are, or a number"
    assert not Attributes.of([{}, {}], 32) and not Attributes.of([], 32)


@pytest.mark.parametrize(
    "column", [[], [3], ["left"], [{"place": "left"}], [{"x": 1, "y": 2}], [{"place": "left", "x": 0, "y": NAN}], None]
)
def test_a_column_that_lists_no_places_has_no_parts(column):
    records = [{"colour": name, "parts": column} for name in ("red", "blue")]
    attributes = Attributes.of(records, 32)
    assert attributes.parts is None and attributes.own == {"colour": ("blue", "red")}
    assert attributes.places(records[0]) == () and attributes.truth(records[0]) == {None: {"colour": "red"}}


def test_a_scene_is_read_from_the_places_of_its_parts_alone(trained):
    images = scenes(150, seed=1)
    assert min(read_right(trained, images).values()) > 0.97
    assert min(read_right(trained, images, images.pixels.roll(2, 2)).values()) > 0.97, "drawn a little lower"
    assert read_right(trained, images, images.pixels[torch.randperm(150)])["colour"] < 0.6, "other pictures"


def test_parts_that_changed_places_are_read_where_they_are_now(trained):
    images = scenes(100, seed=2, places=("left", "right"))
    read = trained.read(images.pixels.roll(16, 3), [("left", "right")] * 100)
    seen = [(one["right"]["colour"], one["left"]["colour"]) for one in read]
    asked = [tuple(part["colour"] for part in record["parts"]) for record in images.records]
    assert sum(one == other for one, other in zip(seen, asked, strict=True)) > 95


def test_features_are_of_the_whole_and_the_mean_of_parts(trained):
    images = scenes(20, seed=3, places=("left", "right"))
    both, left, right = (
        trained.features(images.pixels, [places] * 20) for places in (("left", "right"), ("left",), ("right",))
    )
    assert both.shape == (20, trained.num_features) and trained.num_features == 512
    assert torch.allclose(both[:, 256:], (left[:, 256:] + right[:, 256:]) / 2, atol=1e-5)
    assert torch.equal(both[:, :256], left[:, :256])


def test_what_comes_together_in_training_is_told_in_advance():
    """Else the reader learns that what never came together cannot."""
    first, second = torch.randint(3, (2, 3000), generator=torch.Generator().manual_seed(0))
    second[(first == 0) & (second == 0)] = 1
    likelier = reader._likelier(torch.stack([first, second], 1), [3, 3])
    assert (likelier[first == 0, 3] < -4).all(), "the second is never 0 where the first is"
    assert (likelier[first == 0, 4] > 0.3).all() and (likelier[first == 1, 4:].abs() < 0.3).all()
    unknown = reader._likelier(torch.full((10, 2), -1), [3, 3])
    assert torch.equal(unknown, torch.zeros(10, 6))


def test_a_reader_is_kept_and_known_by_pictures_records_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MIN_STEPS", 3)
    monkeypatch.setattr(reader, "MAX_STEPS", 3)
    images, told = scenes(30), []
    first = reader.load_reader(images, tmp_path, told.append)
    trainings = len(told)
    again = reader.load_reader(images, tmp_path, told.append)
    assert trainings > 0 and len(told) == trainings, "trained twice"
    places = [first.attributes.places(record) for record in images.records]
    assert torch.allclose(first.features(images.pixels, places), again.features(images.pixels, places), atol=1e-5)

    pixels = images.pixels.clone()
    pixels[0, 0, 0, 0] += 1
    others = replace(images, pixels=pixels), replace(images, records=(images.records[1], *images.records[1:]))
    for count, other in enumerate(others, 2):
        reader.load_reader(other, tmp_path, told.append)
        assert len(list(tmp_path.iterdir())) == count
    reader.load_reader(images, tmp_path, told.append, seed=1)
    assert len(list(tmp_path.iterdir())) == 4
    assert reader.load_reader(replace(images, records=({},) * 30), tmp_path, told.append) is None
