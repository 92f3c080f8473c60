"""What captions ask for, and how it is counted whether it was drawn."""

import pytest
import torch

from mmdemo.asked import Asked, Named, copies, named_right, nearest, script, variety
from mmdemo.captions import Lexicon
from mmdemo.reader import Attributes

LEXICON = Lexicon(
    phrases={
        "ground": {"black": ("black",), "grey": ("grey",)},
        "colour": {"red": ("red", "红"), "blue": ("blue", "蓝")},
        "mark": {"dot": ("dot",)},
    },
    places={"left": ("left",), "right": ("right",), "middle": ()},
    values={"ground": ("black", "grey"), "colour": ("red", "blue"), "mark": ("dot", "none")},
    shared=("ground",),
    parts="parts",
)
ATTRIBUTES = Attributes(
    own={"ground": ("black", "grey")},
    of_parts={"colour": ("red", "blue"), "mark": ("dot", "none")},
    parts="parts",
    windows={"left": (0, 0), "right": (0, 16), "middle": (8, 8)},
    side=16,
)


def record(*places: str) -> dict:
    return {"parts": [{"place": place, "x": 0, "y": 0} for place in places]}


def asked(caption: str, *places: str) -> Asked:
    return Asked.of(caption, record(*places), LEXICON, ATTRIBUTES)


def seen(ground: str, **parts: str) -> dict:
    return {None: {"ground": ground}} | {place: {"colour": colour, "mark": "none"} for place, colour in parts.items()}


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_a_caption_asks_for_what_it_names_of_the_part_of_which_it_says_it():
    both = asked("left a red one, right a blue one with a dot, on black", "left", "right")
    assert set(both.named) == {
        Named("left", "colour", "red"),
        Named("right", "colour", "blue"),
        Named("right", "mark", "dot"),
        Named(None, "ground", "black"),
    }
    assert both.places == ("left", "right")
    assert asked("a red one", "middle").named == (Named("middle", "colour", "red"),), "the only part"
    assert asked("a red one", "left", "right").named == (), "which of them?"
    assert asked("right a red one", "middle").named == (), "there is none"
    assert asked("red, red", "middle").named == (Named("middle", "colour", "red"),)
    blind = Attributes(own={}, of_parts={"colour": ("blue", "green")}, parts="parts", windows=ATTRIBUTES.windows)
    assert Asked.of("a red one on black", record("middle"), LEXICON, blind).named == (), "the reader knows no red"


def test_what_is_as_asked_is_counted_by_attribute_and_by_script():
    captions = [asked("left red, right red, on black", "left", "right"), asked("红", "middle"), asked("蓝", "middle")]
    drawn = [seen("grey", left="red", right="red"), seen("grey", middle="red"), seen("grey", middle="red")]
    assert named_right(captions, drawn, "test") == {
        "named_right_test": 3 / 5,
        "named_right_test_of": 5,
        "named_right_test_by_attribute": {"colour": 3 / 4, "ground": 0},
        "named_right_test_by_script": {"latin": 2 / 3, "han": 1 / 2},
    }
    assert named_right([asked("nothing", "middle")], [seen("grey", middle="red")], "test") == {}


@pytest.mark.parametrize(
    ("left", "right", "swaps"),
    [("red", "blue", 0), ("blue", "red", 1), ("red", "red", 0), ("blue", "blue", 0)],
)
def test_a_swap_is_missing_at_its_own_part_and_shown_by_the_other(left, right, swaps):
    """Where both are red, blue is missing, but nowhere to be seen."""
    numbers = named_right(
        [asked("left red, right blue", "left", "right")], [seen("grey", left=left, right=right)], "test"
    )
    assert numbers["swaps_test"] == swaps and numbers["swaps_test_of"] == 2


def test_there_are_swaps_only_where_different_values_are_named():
    for caption in ("left red, right red", "left red, right with a dot", "left red"):
        assert "swaps_test" not in named_right([asked(caption, "left", "right")], [seen("grey")], "test")


def test_a_picture_fits_that_has_the_same_places_and_all_that_is_named():
    one = asked("left red, on black", "left", "right")
    assert one.fits(seen("black", left="red", right="blue"))
    assert not one.fits(seen("black", left="red")) and not one.fits(seen("black", left="blue", right="red"))
    assert not one.fits(seen("grey", left="red", right="red"))


def test_the_script_of_a_caption_is_that_of_most_of_its_letters():
    assert script("a red hat") == "latin" and script("красная шляпа") == "cyrillic" and script("12!") == "?"
    assert script("戴红帽子") == script("戴红帽子, ok") == "han"


def test_variety_is_1_for_pictures_as_different_as_real_ones_and_0_for_one_again_and_again():
    real = [pictures(8, seed) for seed in range(5)]
    assert variety([pictures(4, seed) for seed in range(5, 10)], real) == pytest.approx(1, abs=0.05)
    assert variety([one[:1].repeat(4, 1, 1, 1) for one in real], real) == 0
    halves = [(one.float() / 2).to(torch.uint8) for one in real]
    assert variety(halves, real) == pytest.approx(0.5, abs=0.01)


def test_the_nearest_of_many_is_found_in_parts():
    ours, theirs = pictures(7, 1), pictures(2500, 2)
    expected = torch.cdist(ours.flatten(1).double(), theirs.flatten(1).double()).min(1).values / 48**0.5
    assert torch.allclose(nearest(ours, theirs).double(), expected, atol=1e-2)


def test_copies_are_all_that_repeat_training_pictures_and_one_in_twenty_of_new_ones():
    train, test = pictures(300, 1), pictures(400, 2)
    repeated = (train.int() + 1).clamp(max=255).to(torch.uint8)
    assert copies(repeated, test, train) == 1
    assert copies(pictures(400, 3), test, train) == pytest.approx(0.05, abs=0.04)
    assert copies(torch.cat([repeated[:50], pictures(50, 4)]), test, train) == pytest.approx(0.525, abs=0.04)
