"""Blends: a picture at a place in a square between four labels and four seeds."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import TINY_CLASSES, alike

from mmdemo.cores import cores
from mmdemo.errors import ArgumentError
from mmdemo.samplers import FAST, USUAL_JUMPS
from mmdemo.sampling import corner_shares
from mmdemo.studio import Studio
from mmdemo.ui.live import painter
from mmdemo.ui.turns import FOLLOWING, TURNS

CORNERS = {(0, 0): 0, (1, 0): 1, (0, 1): 2, (1, 1): 3}  # by x and y
LABELS = [*TINY_CLASSES, "circle"]


@pytest.fixture(scope="module")
def studio(fast_weights) -> Studio:
    return Studio([fast_weights], device="cpu")


@pytest.mark.parametrize("sampler", [FAST, "euler", "ddpm"])
def test_the_corners_of_a_square_are_what_sample_draws(studio, sampler):
    for (x, y), corner in CORNERS.items():
        made = studio.blend("fast", LABELS, x, y, [3, 8, 3, 5], sampler=sampler).result()
        seed = [3, 8, 3, 5][corner]
        alone = studio.sample("fast", LABELS[corner], 1, seed, sampler=sampler).result()
        assert made.image.tobytes() == alone.images[0].tobytes()
        assert made.shares[corner] == 1


def test_between_the_corners_every_label_and_every_seed_has_its_part(studio):
    middle = studio.blend("fast", LABELS, seed=3).result()
    assert middle.shares == corner_shares(0.5, 0.5) == [0.25] * 4 and middle.seeds == [3] * 4
    assert (middle.recipe.sampler, middle.recipe.steps) == (FAST, USUAL_JUMPS)
    for (x, y), corner in CORNERS.items():  # another label, or another seed, at a corner is another picture near it
        near, others, seeds = (0.1 + 0.8 * x, 0.1 + 0.8 * y), [*LABELS], [3] * 4
        others[corner] = "square" if LABELS[corner] != "square" else "circle"
        seeds[corner] = 4
        picture = studio.blend("fast", LABELS, *near, seed=3).image
        assert studio.blend("fast", others, *near, seed=3).image.tobytes() != picture.tobytes()
        assert studio.blend("fast", LABELS, *near, seeds).image.tobytes() != picture.tobytes()


def test_along_an_edge_a_blend_is_the_strip_between_its_ends(studio):
    strip = studio.morph("fast", "circle", "square", 3, 8, 5, sampler=FAST)
    for share, picture in zip(strip.shares, strip.images, strict=True):
        assert alike(studio.blend("fast", ["circle", "square"] * 2, share, 0.7, [3, 8, 3, 8]).image, picture)


@pytest.mark.parametrize(("pack", "labels"), [("fast", LABELS), ("words", ["a red circle", "a blue square"] * 2)])
def test_a_blend_of_four_costs_no_more_evaluations_than_one_label(studio, pack, labels):
    studio.load(pack)
    student, asked = studio._pipelines[pack][1].student, []
    hook = student.register_forward_hook(lambda _, given, __: asked.append(len(given[0])))
    studio.blend(pack, labels, 0.4, 0.5, steps=2).result()
    hook.remove()
    assert asked == [1, 1]


def test_a_picture_that_follows_a_hand_goes_first_takes_one_core_and_leaves_other_threads_theirs(studio):
    studio.load("fast")
    student, seen, before = studio._pipelines["fast"][1].student, [], torch.get_num_threads()
    kinds = []
    with ThreadPoolExecutor(1) as others:

        def look(*_):
            kinds.extend(run.kind for run in TURNS._runs)
            seen.append((torch.get_num_threads(), others.submit(torch.get_num_threads).result()))

        hook = student.register_forward_hook(look)
        try:
            torch.set_num_threads(3)
            assert "png" in painter(studio)(["fast", LABELS, [0] * 4, 1, 0.4, 0.5])
            for wanted in (0, 2, 50):  # of what is worth no core, two, or fifty
                with cores(wanted):
                    look()
            assert seen == [(1, 3), (1, 3), (2, 3), (3, 3)] and torch.get_num_threads() == 3
            assert kinds == [FOLLOWING]
        finally:
            hook.remove()
            torch.set_num_threads(before)


def test_texts_are_blended_and_what_was_not_understood_is_said(studio):
    made = studio.blend("words", ["a red circle", "", "a zebra", "a blue square"], 0.3, 0.6, seed=3).result()
    assert made.notice.startswith("“zebra” was never seen") and made.recipe.sampler == FAST


def test_a_pack_without_a_student_blends_by_its_own_sampler_and_the_file_says_how(studio):
    made = studio.blend("tiny", LABELS, 0.3, 0.6, seed=3).result()
    assert made.recipe.sampler == studio.pack("tiny").defaults.sampler != FAST
    told = made.json()
    assert (told["labels"], told["seeds"], told["x"], told["y"]) == (LABELS, [3] * 4, 0.3, 0.6)
    assert json.dumps(told).encode() in made.png_bytes()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"labels": ["circle", "square"]}, "^labels is .*; it must be one for all corners, or four: top left, top"),
        ({"labels": []}, "^labels is .*; it must be one for all corners, or four"),
        ({"labels": ["circle", "square", "triangle", "oval"]}, "^labels is 'oval'; it must be one of circle, sq"),
        ({"x": 1.5}, "^x is 1.5; it must be a number from 0 to 1$"),
        ({"y": "low"}, "^y is 'low'; it must be a number from 0 to 1$"),
        ({"seeds": [1, 2, 3]}, "^seeds is .*; it must be one for all corners, or four"),
        ({"seeds": [1, 2, 3, -4]}, "^seeds is -4; it must be a whole number"),
        ({"steps": 9}, "^steps is 9; it must be a whole number from 1 to 8"),
        ({"guidance": 7}, "^guidance is 7.*fast has learned to draw with"),
    ],
)
def test_what_is_no_place_or_no_corner_is_refused_in_one_sentence(studio, given, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        studio.blend(**{"pack": "fast", "labels": LABELS} | given)
