"""Masks: the evidence for words and colours alone, held against true ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import RECORDS

from mmdemo import data, loading, packs, segmenting
from mmdemo.errors import DataError
from mmdemo.images import to_images


def test_overlap_is_that_of_the_others_by_the_threshold_that_suits_the_first_third_and_fifth():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    right, half = mask * 0.5 + 0.2, mask.clone() * 0.5 + 0.2
    half[2] = 0.7  # four pixels too many
    assert segmenting.overlap([right] * 4, [mask] * 4) == 1
    assert segmenting.overlap([right, half, right, half], [mask] * 4) == pytest.approx(8 / 12)
    assert segmenting.overlap([right * 0.3, right], [mask] * 2) == pytest.approx(0.5), "over its threshold all are"


@pytest.fixture(scope="module")
def words(reading_weights) -> packs.Pack:
    return packs.read(reading_weights / "words")


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    """Pictures in grey whose bright half is the mask of both attributes; the first one's are empty."""
    folder = tmp_path_factory.mktemp("masked") / "segments"
    folder.mkdir()
    rows = []
    for i, picture in enumerate(to_images(data.load("shapes", "test", image_size=16, channels=1).pixels[:6])):
        picture = picture.point(lambda value: value // 2)
        picture.paste(255, (0, 0, 16, 8 * (i > 0)))
        picture.point(lambda value: 255 * (value > 254)).save(folder / f"{i}-colour.png")
        picture.save(folder / f"{i}.png")
        row = {"file_name": f"{i}.png", "text": "a circle"} | RECORDS[i % 3]
        rows.append(row | {"masks": {"colour": f"{i}-colour.png", "shape": f"{i}-colour.png"}})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def loaded(folder: Path) -> data.LabelledImages:
    return data.load(str(folder), "train", image_size=16, channels=1)


def test_every_attribute_with_masks_has_its_overlaps(words, masked):
    lexicon, lines = packs.read_words(words).lexicon, []
    found = segmenting.overlaps(loading.load(words, "cpu"), lexicon, loaded(masked), masked, lines.append)
    assert list(found) == ["colour", "shape"] and len(lines) == 6
    for told in found.values():
        assert told["of"] == 5 and set(told) == {"of", "evidence", "learned"}, "in grey no colour has a name"
        assert 0 <= told["evidence"] <= 1 and told["learned"] > 0.95, "nothing else is as bright"


def test_colours_are_known_by_their_names_or_by_what_was_under_other_masks():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 3:5] = True

    def picture(value: str, rgb: tuple[int, int, int]):
        colours = torch.full((3, 8, 8), 128.0)
        colours[:, mask] = torch.tensor(rgb).float()[:, None]
        return value, colours, torch.zeros(8, 8), mask

    red = [picture("red", (255, 0, 0)), picture("a hat", (0, 0, 255))] * 3
    told = segmenting._compared([one for one in red for _ in range(2)])
    assert told["named"] == told["learned"] == 1, "what has no name is left out of the first"
    assert "named" not in segmenting._compared([picture("a hat", (0, 0, 255))] * 4)


def test_a_folder_without_masks_is_refused(words, masked):
    bare = replace(loaded(masked), records=({},) * 6)
    with pytest.raises(DataError, match="has no masks of anything"):
        segmenting.overlaps(loading.load(words, "cpu"), packs.read_words(words).lexicon, bare, masked)
