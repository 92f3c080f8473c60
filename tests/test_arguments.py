"""Every argument of every verb: what is allowed, and the sentence that refuses the rest before a model is loaded."""

import re

import pytest
from conftest import digit, noise
from PIL import Image
from running import is_one_sentence

from mmdemo import loading
from mmdemo.arguments import (
    AXES,
    MAX_AXIS,
    MAX_CANDIDATES,
    MAX_COUNT,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_SET,
    MAX_STEPS,
    MAX_STRIP,
)
from mmdemo.errors import ArgumentError, ImageError, MmdemoError
from mmdemo.kinds import MAX_SIDE, MIN_SIDE
from mmdemo.results import Run
from mmdemo.sampling import BUDGET
from mmdemo.studio import VERBS, Studio

NAN, INF = float("nan"), float("inf")
NO_NUMBER = [NAN, INF, -INF, True, False, "x", "3", [1], {}, b"1", 1j]
NO_WHOLE_NUMBER = [*NO_NUMBER, 1.5, -1, 10**30, 10**400, 1e308, -0.5]
NO_CLASS = ["oval", "", 1, {}]
NO_INTERVAL = [(0.5,), [], [0, 0.5, 1], "01", 0.5, [0.8, 0.2], [-0.1, 1], [0, 1.1], [None, 1], [NAN, 1], {}]
NO_PICTURE = [3, True, NAN, [], "nowhere.png", "two\nlines.png", b"x", ""]
NO_AXIS = ["colour", "", 1, True, ["steps"], {}]
NO_LIST_OF_VALUES = [[], "12", 3, {}, list(range(1, MAX_AXIS + 2))]
WIDE = MAX_SIDE // 4 + 1  # tokens
NEEDED = ("other_label", "mask")  # may be left out, but not of the good arguments
SEVERAL = ("sample", "denoise", "synthesize")  # verbs whose label may be several, or all


def half(picture: Image.Image) -> Image.Image:
    """A mask of a picture, white in its lower half."""
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, picture.height // 2, *picture.size))
    return mask


GOOD = {
    "pack": "tiny", "label": "circle", "other_label": "square", "negative": "square", "count": 3, "augment": True,
    "seed": 0, "other_seed": 1, "steps": 2, "guidance": 1.0, "sampler": "euler", "interval": [0, 1], "image": digit(),
    "other": digit(), "invert": "auto", "size": 16, "strength": 0.5, "tokens": [[0]], "code": 0, "by": 1,
    "x": "steps", "xs": [1, 2], "y": "guidance", "ys": [1, 2],
    "labels": ["circle"], "seeds": [0, 1, 2, 3],
    "task": "inpaint", "mask": half(digit()), "factor": None, "noise": None,
}  # fmt: skip
# By argument: what is no value of it, and what the sentence says of those that are.
BAD = {
    "pack": [(["nope", "", 3, ["tiny"], {}, "../tiny", "x" * 999], "tiny"), (["broken"], "vae")],
    "label": [([*NO_CLASS, "Circle", True, NAN, [], ["circle", "oval"], ["circle", None], [["circle"]]], "square")],
    "other_label": [([*NO_CLASS, "all", ["square"]], "square")],
    "negative": [([*NO_CLASS, "all", ["square"]], "square")],
    "labels": [(["oval", ["circle"] * 3 + [None], {}, NAN], "square"), ([["circle"] * 2, [], ["circle"] * 5], "four")],
    "seeds": [([[1, 2], []], "or four"), ([[1, 2, 3, -1], "1", [MAX_SEED + 1]], str(MAX_SEED))],
    "seed": [([*NO_WHOLE_NUMBER, MAX_SEED + 1], str(MAX_SEED))],
    "other_seed": [([*NO_WHOLE_NUMBER, MAX_SEED + 1], str(MAX_SEED))],
    "steps": [([*NO_WHOLE_NUMBER, 0, MAX_STEPS + 1], str(MAX_STEPS))],
    "guidance": [([*NO_NUMBER, -0.01, MAX_GUIDANCE + 0.01, 10**400], f"{MAX_GUIDANCE:g}")],
    "sampler": [(["plms", "", "Euler", 1, True, NAN, ["euler"], {}], "euler")],
    "interval": [(NO_INTERVAL, "two noise levels")],
    "image": [(NO_PICTURE, "")],
    "other": [(NO_PICTURE, "")],
    "mask": [(NO_PICTURE, "")],
    "task": [(["", "Inpaint", 1, NAN, ["inpaint"], {}], "inpaint, upscale, denoise")],
    "factor": [([*NO_NUMBER, 0, 1, 3, 8, 2.5, 10**400], "2 or 4")],
    "noise": [([*NO_NUMBER, -0.01, 1.01, 10**400], "from 0.05 to 1")],
    "invert": [(["maybe", "", 1, NAN, ["yes"], {}], "auto")],
    "size": [
        ([*NO_WHOLE_NUMBER, 0, 4, MIN_SIDE - 1, MAX_SIDE + 1, MAX_SIDE + 4], f"{MIN_SIDE} to {MAX_SIDE}"),
        ([9, 10, 30.0, MAX_SIDE - 1], "stride, 4, and at most 256"),
    ],
    "strength": [([*NO_NUMBER, 0, 0.0, -0.1, 1.01, 10**400], "1")],
    "tokens": [
        ([3, "[[0]]", {}, [], [[]], [0, 1], [[0], []], [[0], 1], [[0, 1], [0]], NAN, True], "0 to 15"),
        ([[[0, id]] for id in (16, -1, 1.5, NAN, INF, True, None, "1", [0], 10**400)], "0 to 15"),
        ([[[0] * WIDE], [[0]] * WIDE], str(WIDE - 1)),
    ],
    "code": [([*NO_WHOLE_NUMBER, 16], "15")],
    "by": [([*NO_WHOLE_NUMBER, 16], "15")],
    "augment": [(["yes", "", 1, 0, NAN, [True], {}], "true or false")],
    "x": [(NO_AXIS, "seed")],
    "y": [([*NO_AXIS, "steps"], "seed")],
    "xs": [(NO_LIST_OF_VALUES, f"1 to {MAX_AXIS}"), ([[1, 1], [1, 2, 1.0]], "twice")],
    "ys": [(NO_LIST_OF_VALUES, f"1 to {MAX_AXIS}"), ([[1, 1], [1, 2, 1.0]], "twice")],
}  # fmt: skip


def good(verb: str) -> dict:
    places = {"x": 0.5, "y": 0.5} if verb == "blend" else {}
    return {name: GOOD[name] for name in VERBS[verb].arguments} | places


def default(verb: str, name: str):
    return VERBS[verb].__signature__.parameters[name].default


def refused() -> list[tuple]:
    cases = []
    for verb, name in [(verb, name) for verb, one in VERBS.items() for name in one.arguments]:
        bad = list(BAD.get(name, []))
        if name == "count":
            of = {"sample": (1, MAX_COUNT), "synthesize": (1, MAX_SET), "restore": (1, MAX_CANDIDATES)}
            low, high = of.get(verb, (2, MAX_STRIP))
            bad = [([*NO_WHOLE_NUMBER, 0, low - 1, high + 1], f"{low} to {high}")]
        if verb == "blend" and name in ("x", "y"):
            bad = [([*NO_NUMBER, -0.01, 1.01], "from 0 to 1")]
        if name == "label" and verb not in SEVERAL:
            bad += [(["all", ["circle"], ["circle", "square"]], "one of circle, square, triangle")]
        if name == "pack" and "sampler" in VERBS[verb].arguments:
            bad += [(["tiny-codec"], f"cannot {verb}; train one: python -m mmdemo train dit --pack tiny-codec")]
        if default(verb, name) is not None:
            bad += [([None], bad[0][1])]
        cases += [(verb, name, value, allowed) for values, allowed in bad for value in values]
    return cases


@pytest.fixture
def unloadable(tiny_weights, monkeypatch) -> Studio:
    """A studio that must not come to load a model."""

    def load(pack, device):
        raise AssertionError(f"{pack.name} is being loaded")

    monkeypatch.setattr(loading, "load", load)
    return Studio(weights=[tiny_weights], device="cpu")


@pytest.mark.parametrize(("verb", "name", "value", "allowed"), refused(), ids=lambda value: ascii(value)[:25])
def test_a_bad_argument_is_named_in_one_sentence_when_called_and_before_any_model_is_loaded(
    unloadable, verb, name, value, allowed
):
    with pytest.raises(MmdemoError) as error:
        getattr(unloadable, verb)(**(good(verb) | {name: value}))
    text = str(error.value)
    assert is_one_sentence(text) and allowed in text
    assert name in text or isinstance(value, str) and value and value in text


@pytest.mark.parametrize("verb", VERBS)
def test_arguments_are_checked_in_the_order_in_which_they_are_given(unloadable, verb):
    names = list(VERBS[verb].arguments)
    for i, name in enumerate(names):
        bad = dict.fromkeys(names[i:], {})
        with pytest.raises(MmdemoError, match=f"^{name} "):
            getattr(unloadable, verb)(*(good(verb) | bad).values())


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "describe"])  # which needs a pack that reads
def test_the_good_arguments_are_good_and_those_that_may_be_left_out_may_be_none(studio, verb):
    left_out = {name: None for name in good(verb) if default(verb, name) is None and name not in NEEDED}
    for changed in ({}, left_out):
        made = getattr(studio, verb)(**(good(verb) | changed))
        assert made is not None and (not isinstance(made, Run) or made.result() is not None)


@pytest.mark.parametrize(
    "value",
    ["nope.png", "cut.png", "letter.png", "huge.png", "empty.png", ".", Image.new("1", (5000, 4000))],
    ids=lambda value: str(value)[:10],
)
def test_a_bad_picture_is_refused_in_one_sentence_before_any_model_is_loaded(unloadable, tmp_path, value):
    noise(64).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "letter.png").write_text("Dear reader")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (4001, 4000)).save(tmp_path / "huge.png")
    picture = tmp_path / value if isinstance(value, str) else value
    for name, given in (("image", (picture, digit())), ("other", (digit(), picture))):
        with pytest.raises(ImageError, match=rf"^{name} [^\n]+$"):
            unloadable.interpolate("tiny", *given)


def test_what_is_too_large_to_be_shown_is_refused_all_the_same(unloadable):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for bad in ({"seed": 10**5000}, {"interval": nested}):
        with pytest.raises(MmdemoError) as error:
            unloadable.sample("tiny", "circle", **bad)
        assert next(iter(bad)) in str(error.value) and "too large to be shown" in str(error.value)


@pytest.mark.parametrize(
    ("axis", "value", "allowed"),
    [
        *[("steps", value, str(MAX_STEPS)) for value in (0, 1.5, "3", True, MAX_STEPS + 1)],
        *[("guidance", value, f"{MAX_GUIDANCE:g}") for value in ("3", -1, NAN)],
        *[("seed", value, str(MAX_SEED)) for value in (-1, "x", 2**31)],
        *[("sampler", value, "euler") for value in ("plms", 3, ["euler"])],
        *[("label", value, "square") for value in ("oval", "all", 3, ["circle", "square"])],
        *[(axis, None, "must be given") for axis in AXES],
    ],
)
def test_a_bad_value_along_an_axis_is_named_by_the_axis_before_any_model_is_loaded(unloadable, axis, value, allowed):
    other = "seed" if axis != "seed" else "steps"
    for values in (
        {"x": axis, "xs": [value], "y": other, "ys": [1]},
        {"x": other, "xs": [1], "y": axis, "ys": [value]},
    ):
        with pytest.raises(MmdemoError, match=rf"^{axis}[^\n]*{allowed}[^\n]*$"):
            unloadable.compare("tiny", **values)


def test_more_work_than_the_budget_is_refused_with_the_budget(unloadable):
    steps = BUDGET // MAX_COUNT
    with pytest.raises(ArgumentError, match=rf"^steps × count is {steps + 1} × {MAX_COUNT} = \d+; at most {BUDGET} "):
        unloadable.sample("tiny", "circle", count=MAX_COUNT, steps=steps + 1)
    unloadable.sample("tiny", "circle", count=MAX_COUNT, steps=steps)
    with pytest.raises(ArgumentError, match=f"all cells together take 16000 steps.*{BUDGET}"):
        unloadable.compare("tiny", "seed", list(range(8)), "guidance", list(range(8)), steps=250)


def test_a_strip_from_a_picture_to_itself_is_refused(unloadable):
    for same in ({}, {"other_label": "circle"}, {"seed": 3, "other_seed": 3}):
        with pytest.raises(MmdemoError, match="other_label or other_seed"):
            unloadable.morph("tiny", "circle", **same)


def test_errors_are_sentences_a_person_can_act_on(unloadable):
    """Each names the argument, its value and what is allowed."""
    with pytest.raises(ArgumentError) as error:
        unloadable.sample("tiny", "circle", count=99)
    assert re.fullmatch(rf"count is 99; .* 1 to {MAX_COUNT}", str(error.value))


def test_whole_numbers_may_come_as_floats_as_json_gives_them(studio):
    made = studio.sample("tiny", "circle", count=2.0, seed=3.0, steps=2.0, guidance=1).result()
    assert (made.recipe.seed, made.recipe.steps, len(made.images)) == (3, 2, 2)
    assert isinstance(made.seeds[1], int) and isinstance(made.recipe.guidance, float)


def test_bounds_themselves_are_allowed(studio):
    for arguments in (
        {"seed": MAX_SEED, "count": 2, "steps": 1},
        {"steps": MAX_STEPS},
        {"guidance": 0},
        {"guidance": MAX_GUIDANCE, "steps": 1},
        {"count": MAX_COUNT, "steps": 1},
    ):
        made = studio.sample("tiny", "circle", **({"seed": 1} | arguments))
        assert len(made.images) == arguments.get("count", 1)


def test_after_a_bad_argument_the_studio_goes_on(studio):
    for _ in range(2):
        with pytest.raises(MmdemoError):
            studio.sample("tiny", "oval")
        assert len(studio.sample("tiny", "circle", steps=1).images) == 1


def test_an_unknown_device_is_refused():
    with pytest.raises(ArgumentError, match="device is 'tpu'.*cuda"):
        Studio(device="tpu")


@pytest.mark.parametrize("memory", [NAN, -1, True, "2", None, [2]])
def test_an_amount_of_memory_that_is_none_is_refused(memory):
    with pytest.raises(ArgumentError, match="memory is .* it must be a number from 0"):
        Studio(memory=memory)
