"""What all tabs that draw have in common, and what the page's scripts ask, without a browser."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import gradio as gr
import pytest

from mmdemo.arguments import SETTINGS
from mmdemo.errors import ArgumentError
from mmdemo.packs import Pack
from mmdemo.studio import Studio
from mmdemo.ui.surgery import answers
from mmdemo.ui.workbench import RecipeControls, once_a_pack


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


def test_controls_hand_over_every_setting_and_refuse_an_empty_seed():
    with gr.Blocks():
        controls = RecipeControls(3)
    (steps,), (negative,), (upper, lower) = (controls[name] for name in ("steps", "negative", "interval"))
    values = {one: None for one in controls.components}
    values |= {controls.seed: 5, controls.randomize: False, steps: 20, negative: "", upper: 0.8, lower: 0.2}
    settings = controls.read(values)
    assert list(settings) == list(SETTINGS)
    assert [settings[name] for name in ("seed", "steps", "interval", "negative")] == [5, 20, (0.2, 0.8), None]
    assert controls.show(settings).items() >= {upper: 0.8, lower: 0.2, negative: ""}.items()
    with pytest.raises(ArgumentError, match="seed is empty"):
        controls.read(values | {controls.seed: None})
    assert controls.read(values | {controls.seed: None, controls.randomize: True})["seed"] >= 0


def test_a_script_that_asks_for_what_there_is_not_gets_one_sentence(tiny_weights):
    decode_tokens, second_picture, between = answers(Studio([tiny_weights], device="cpu"))
    assert second_picture(["tiny", 7, 16, "auto"]) == {
        "error": "example is 7; it must be a whole number from 0 to 0"  # another pack's number
    }
    text = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    assert "did not arrive whole" in between(["tiny", text, text, 16])["error"]
    assert "tokens is" in decode_tokens(["tiny", "[[1]]"])["error"]
