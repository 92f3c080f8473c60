"""What all tabs that draw have in common, and what the page's scripts ask, without a browser."""

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from mmdemo.arguments import ARGUMENTS, LABELS, SETTINGS
from mmdemo.errors import ArgumentError, PackError
from mmdemo.packs import Pack
from mmdemo.studio import Studio
from mmdemo.ui import build_demo, turns
from mmdemo.ui.controls import LabelControl, RecipeControls, Values, near
from mmdemo.ui.denoise import Denoise
from mmdemo.ui.film import film, word_scale
from mmdemo.ui.grid import Grid
from mmdemo.ui.restore import Restore
from mmdemo.ui.surgery import answers
from mmdemo.ui.workbench import Form, once_a_pack


def test_what_is_made_once_a_pack_is_made_anew_for_a_new_one_and_holds_up_no_other_pack(tiny_weights):
    tiny, other = (Studio([tiny_weights]).pack(name) for name in ("tiny", "tiny-v"))
    made, begun, held = [], threading.Event(), threading.Event()

    @once_a_pack
    def make(pack: Pack) -> str:
        made.append(pack.name)
        if pack == tiny:
            begun.set()
            assert held.wait(10)
        return f"{pack.name} {len(made)}"

    with ThreadPoolExecutor() as pool:
        slow = [pool.submit(make, tiny) for _ in range(3)]
        assert begun.wait(10)
        assert make(other) == "tiny-v 2"  # while the first is being made
        held.set()
        assert {one.result() for one in slow} == {"tiny 2"}
    assert make(tiny) == "tiny 2" and made == ["tiny", "tiny-v"]
    assert make(replace(tiny, stamp=tiny.stamp + 1)) == "tiny 3"  # trained anew


def test_first_pictures_and_what_is_read_of_them_take_turns_as_what_nobody_asked_for(tiny_weights, monkeypatch):
    taken, run = [], turns.TURNS.run
    monkeypatch.setattr(turns.TURNS, "run", lambda *given: taken.append(given[-1]) or run(*given))
    studio = Studio([tiny_weights], device="cpu")
    pack = studio.pack("tiny")
    for tab, runs in ((Denoise, 1), (Restore, 6)):  # four candidates and the truth are read besides
        with gr.Blocks():
            form = tab(studio, gr.State("tiny"))
        form._first(pack)
        assert taken == [turns.UNASKED] * runs
        taken.clear()


def test_controls_hand_over_every_setting_and_refuse_an_empty_seed(reading_weights):
    tiny, words = (Studio([reading_weights]).pack(name) for name in ("tiny", "words"))
    with gr.Blocks():
        controls = RecipeControls(3, True)
    (steps,), (negative, text, _), (upper, lower) = (controls[name] for name in ("steps", "negative", "interval"))
    values = {one: None for one in controls.components}
    values |= {controls.seed: 5, controls.randomize: False, steps: 20, negative: "", upper: 0.8, lower: 0.2}
    settings = controls.read(values)
    assert list(settings) == list(SETTINGS)
    assert [settings[name] for name in ("seed", "steps", "interval", "negative")] == [5, 20, (0.2, 0.8), None]
    assert controls.show(tiny, settings).items() >= {upper: 0.8, lower: 0.2, negative: ""}.items()
    settings = controls.read(values | {negative: None, text: "a red circle"})
    assert settings["negative"] == "a red circle"
    assert controls.show(words, settings)[text] == "a red circle" and negative not in controls.show(words, settings)
    with pytest.raises(ArgumentError, match="seed is empty"):
        controls.read(values | {controls.seed: None})
    assert controls.read(values | {controls.seed: None, controls.randomize: True})["seed"] >= 0


def seen(update: dict) -> bool:
    return update["visible"] is True


def fitted(control: LabelControl, pack: Pack, chosen=None, typed="", put="") -> list[dict]:
    """The updates of its list, its text and its examples, which hold this much."""
    values = dict(zip(control.components, (chosen, typed, put), strict=True))
    return [control.fit(pack, values)[one] for one in control.components]


def test_a_prompt_stands_where_a_class_does_and_what_was_typed_stays_while_packs_read(reading_weights):
    studio = Studio([reading_weights])
    tiny, words, codec = (studio.pack(name) for name in ("tiny", "words", "tiny-codec"))
    other = replace(words, name="other", prompts=("a blue square",))
    with gr.Blocks():
        control = LabelControl(ARGUMENTS["label"])

    classes, text, examples = fitted(control, words, chosen="square")
    assert [seen(one) for one in (classes, text, examples)] == [False, True, True]
    assert (classes["value"], text["value"], examples["value"]) == (None, "a red circle", "a red circle")
    assert [one["text"] for one in json.loads(examples["chips"])["chips"]] == list(words.prompts)

    typed = "a circle of my own"
    assert fitted(control, other, typed=typed, put="a red circle")[1]["value"] == typed
    assert fitted(control, other, typed="a red circle", put="a red circle")[1]["value"] == "a blue square"

    classes, text, examples = fitted(control, tiny, chosen="square", typed=typed, put="a red circle")
    assert [seen(one) for one in (classes, text, examples)] == [True, False, False]
    assert (classes["value"], text["value"]) == ("square", "")
    assert [seen(one) for one in fitted(control, codec)] == [True, False, False]


def test_a_text_of_several_lines_is_a_label_each_and_else_one(reading_weights):
    words = Studio([reading_weights]).pack("words")
    with gr.Blocks():
        one, some = LabelControl(ARGUMENTS["label"]), LabelControl(LABELS, lambda pack: list(pack.prompts))
    typed = " a red circle \n\n 蓝色 方\n"
    assert some.read({some.prompt: typed}) == ["a red circle", "蓝色 方"]
    assert one.read({one.prompt: typed}) == typed  # which the studio takes for a single line
    assert one.read({one.classes: "square", one.prompt: ""}) == "square"
    put = fitted(some, words)[1]["value"]
    assert some.read({some.prompt: put}) == list(words.prompts)


def test_the_two_examples_of_a_strip_differ_in_few_of_their_words(reading_weights):
    words = Studio([reading_weights]).pack("words")
    prompts = ("a red circle", "a large blue square on black", "a small red square on black", "a red circle", "三角")
    assert near(replace(words, prompts=prompts)) == ("a large blue square on black", "a small red square on black")
    assert near(replace(words, prompts=("a red circle",))) == ("a red circle",)
    assert near(replace(words, prompts=())) == ("",)


def test_what_was_not_understood_is_said_after_the_drawing_once(reading_weights):
    studio = Studio([reading_weights], device="cpu")
    words = studio.pack("words")
    with gr.Blocks():
        pack = gr.Textbox()
        denoise, grid = Denoise(studio, pack), Grid(studio, pack)
    values = {pack: "words"} | denoise.label.show(words, "a <b>zebra</b> circle")
    *_, last = denoise.watch(values, {"seed": 1}, "me")
    said, notice = json.loads(last[denoise.status])["text"].split("\n")
    assert said.startswith("“a <b>zebra</b> circle”, seed 1, 6 steps") and "“b”" in notice
    *_, last = denoise.watch(values | denoise.label.show(words, ""), {"seed": 1}, "me")
    assert json.loads(last[denoise.status])["text"].startswith("anything, seed 1")

    field = grid.fields["label"]
    values = {pack: "words", grid.x: "steps", grid.y: "label", grid.fields["steps"]: "1, 2"}
    values |= field.show(words, ["a zebra", "a lion", "a circle"])
    *_, last = grid.watch(values, {"seed": 1}, "me")
    said = json.loads(last[grid.status])["text"]
    assert said.count("“zebra”, “lion” were never seen") == 1
    table = json.loads(last[grid.table])
    assert (table["down"], table["rows"]) == ("Prompt", ["a zebra", "a lion", "a circle"])
    with pytest.raises(ArgumentError, match="across and down are the same"):  # chosen just now, and not swapped yet
        next(grid.watch(values | {grid.x: "label"}, {"seed": 1}, "me"))


def test_a_script_is_told_how_much_words_pull_at_a_step_of_a_run(reading_weights):
    studio = Studio([reading_weights], device="cpu")
    *_, last = studio.denoise("words", "a red circle", 4)
    again = film([last]).again
    told = word_scale(studio)(["words", again, 5])["words"]
    assert [(one["start"], one["end"]) for one in told] == [(0, 1), (2, 5), (6, 12)]
    for one, pull in zip(told, last.pulls, strict=True):
        assert one["mean"] == pytest.approx(pull.mean, abs=1e-4)
        assert sum(one["map"], []) == pytest.approx(sum(pull.map, []), abs=1e-3)
    assert "step is 6; it must be a whole number from 0 to 5" in word_scale(studio)(["words", again, 6])["error"]
    assert film(list(studio.denoise("tiny", "circle", 4))).again is None


def test_a_script_that_asks_for_what_there_is_not_gets_one_sentence(tiny_weights):
    decode_tokens, second_picture, between = answers(Studio([tiny_weights], device="cpu"))
    assert second_picture(["tiny", 7, 16, "auto"]) == {
        "error": "example is 7; it must be a whole number from 0 to 0"  # another pack's number
    }
    for content in (b"no picture", b"\x89PNG\r\n\x1a\n\0\0\0\0IHDR" + bytes(50)):
        uri = "data:image/png;base64," + base64.b64encode(content).decode()
        assert "image cannot be read as a picture" in between(["tiny", uri, uri, 16])["error"]
    assert "tokens is" in decode_tokens(["tiny", "[[1]]"])["error"]


def started(kind: type[Form], weights: Path) -> tuple[Form, Iterator[Values]]:
    """A form of the page, and somebody's run of what it begins with."""
    studio = Studio([weights], device="cpu")
    with gr.Blocks():
        form = kind(studio, gr.State("tiny"))
    values, settings = form.start(studio.pack("tiny"))
    return form, form.watch(values | {form.pack: "tiny"}, settings, "somebody")


def test_a_run_that_is_let_go_as_it_begins_leaves_no_word_that_it_does(tiny_weights):
    form, run = started(Denoise, tiny_weights)
    assert "Starting…" in json.loads(next(run)[form.status])["text"]
    form.let_go(form.studio.pack("tiny"), SimpleNamespace(session_hash="somebody"))
    *_, last = run
    assert json.loads(last[form.status]) | {"text": "Stopped.", "ends": True} == json.loads(last[form.status])
    assert last[form.go]["interactive"] and not last[form.stop]["interactive"]


def test_restored_pictures_are_seen_while_they_are_still_being_read(tiny_weights):
    form, run = started(Restore, tiny_weights)
    *_, reading, last = run
    assert "Reading what they are…" in json.loads(reading[form.status])["text"]
    assert len(json.loads(reading[form.pictures])["candidates"]) == 4
    assert "read as" in json.loads(last[form.pictures])["notes"][0]


def test_a_run_that_ends_while_another_pack_opens_says_nothing_over_that(tiny_weights):
    studio = Studio([tiny_weights], device="cpu")
    with gr.Blocks():
        form = Denoise(studio, gr.State("tiny"))
    values, somebody = {form.pack: "tiny"}, SimpleNamespace(session_hash="somebody")
    opening = form._open(values, somebody)
    assert json.loads(next(opening)[form.status])["text"].endswith("…")
    ended = form._failed(values, somebody)
    assert ended[form.status] == gr.skip() and ended[form.go]["interactive"]
    list(opening)
    assert json.loads(form._failed(values, somebody)[form.status])["text"] == "Stopped."


def test_a_first_picture_does_not_take_the_place_of_what_was_asked_for_meanwhile(tiny_weights):
    studio = Studio([tiny_weights], device="cpu")
    studio.load("tiny")
    with gr.Blocks():
        form = Denoise(studio, gr.State("tiny"))
    pack, somebody = {form.pack: "tiny"}, SimpleNamespace(session_hash="somebody")
    openings = [form._open(pack, somebody) for _ in range(3)]
    assert [json.loads(next(one)[form.status])["text"] for one in openings] == [form.opening] * 3
    assert len(list(openings[0])) == 1, "the picture; gradio may drop what the others say"
    values, settings = form.start(studio.pack("tiny"))
    next(run := form.watch(values | pack, settings, "somebody"))
    assert list(openings[1]) == list(form._open(pack, somebody)) == [], "nor one that begins later"
    *_, last = run
    assert list(openings[2]) == [] and last[form.go]["interactive"], "nor once it is done"
    assert len(list(form._open(pack, somebody))) == 1 and not form._opening

    def fails(pack, values):
        yield form.opening, {}
        raise PackError("it is damaged")

    form.open = fails
    assert "it is damaged" in json.loads(list(form._open(pack, somebody))[-1][form.status])["text"]
    next(opening := form._open(pack, somebody))
    next(form.watch(values | pack, settings, "somebody"))
    assert list(opening) == []


def test_choosing_a_pack_reads_few_controls_and_the_endpoints_stand_last(tiny_weights):
    """gradio searches the page, from its start, for all that events have read, each time that one begins, goes on or
    ends: with 121 of them, and the endpoints first, a choice cost the browser three times as much."""
    page = build_demo(Studio([tiny_weights])).get_config_file()
    known = {one["id"]: one["props"] for one in page["components"]}
    (pack,) = (id for id, props in known.items() if props.get("elem_id") == "pack")
    events, following = page["dependencies"], set()
    for one in events:  # each after what it follows
        if [pack, "change"] in map(list, one["targets"]) or one["trigger_after"] in following:
            following.add(one["id"])
    read = {control for one in events if one["id"] in following for control in one["inputs"]}
    assert len(following) > 20 and pack in read and len(read) < 90
    assert known[page["layout"]["children"][-1]["id"]]["visible"] is False
    endpoints = [max(one["inputs"] + one["outputs"]) for one in events if one["api_visibility"] == "public"]
    assert max(endpoints) < min(read)  # made first, or a handler would take an endpoint's name
