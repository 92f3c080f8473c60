"""The other half of the Compare tab: pictures between two classes, two seeds, or both.

Knows the strip's controls and what the studio answers; static/between.js draws it.
"""

from collections.abc import Callable, Iterator

import gradio as gr

from mmdemo.errors import ArgumentError
from mmdemo.studio import MAX_STRIP
from mmdemo.ui.browser import (
    FITTING,
    MODELS,
    OPENING,
    PRIVATE,
    data_uri,
    picture,
    said_plainly,
    sparingly,
    speaker,
    widget,
)
from mmdemo.ui.labelled import png_bytes, table
from mmdemo.ui.settings import BUSY, IDLE, Settings, can_be_stopped, first_shown, recipe, to_draw, waiting
from mmdemo.views import PackInfo, SamplingProgress, Strip

FIRST_COUNT = 8
FIRST_SEED = 0


def build(studio, pack: gr.components.Component, opened: Callable) -> None:
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            view = widget("between", elem_id="strip-view")
        with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
            with gr.Row():
                label = gr.Dropdown([], label="From class", min_width=100)
                other_label = gr.Dropdown([], label="To class", min_width=100)
            count = gr.Slider(2, MAX_STRIP, FIRST_COUNT, step=1, label="How many", info="Pictures, with both ends.")
            with gr.Row():
                other_seed = gr.Number(FIRST_SEED + 1, label="To seed", precision=0, info="The noise at the other end.")
                same_noise = gr.Checkbox(True, label="Same noise", info="Stay with the seed below.")
            settings = Settings()
            with gr.Row():
                go = gr.Button("Draw strip", variant="primary", interactive=False, min_width=100)
                stop = gr.Button("Stop", interactive=False, min_width=100)

    def first_strip(info: PackInfo) -> tuple[str, dict]:
        label, other_label, other_seed = ends(info)
        made = studio.morph(info.name, label, other_label, FIRST_SEED, other_seed, FIRST_COUNT)
        return in_words(made), finished(made)

    def fit(name: str, label: str | None, other_label: str | None, sampler: str | None) -> tuple:
        info = to_draw(studio, name)
        if label not in info.classes or other_label not in info.classes:
            label, other_label, _ = ends(info)
        classes = [gr.update(choices=list(info.classes), value=value or None) for value in (label, other_label)]
        return gr.update(interactive=info.can_sample), *classes, *settings.of(info, sampler)

    @said_plainly
    def run(name, label, other_label, count, other_seed, same_noise, *wanted) -> Iterator[tuple]:
        seed, *rest = settings.arguments(*wanted)
        other_seed = None if same_noise else other_seed
        if label == other_label and other_seed in (None, seed):
            raise ArgumentError("Both ends are the same; choose another class or another seed to end with")
        going = studio.morphing(name, label, other_label, seed, other_seed, count, *rest)
        tell = speaker()
        yield tell(text="Starting…"), gr.skip(), seed, *BUSY
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip(), gr.skip(), *BUSY
        for *_, progress in sparingly(going):
            if progress.result is None:
                text = f"Step {progress.index + 1} of {progress.total}…"
                yield tell(text=text), tell(**unfinished(progress)), gr.skip(), gr.skip(), gr.skip()
            else:
                made = progress.result
                yield tell(text=in_words(made)), tell(**finished(made)), made.seed, *IDLE

    fitted = opened(
        fit, [pack, label, other_label, settings.sampler], [go, label, other_label, *settings.choices], **FITTING
    )
    show = first_shown(studio, "Drawing the first strip…", first_strip)
    opened(show, [pack], [status, view], after=fitted, **OPENING, **PRIVATE)
    go.click(None, js="() => window.mmdemo.bring('strip')")
    inputs = [pack, label, other_label, count, other_seed, same_noise, *settings.inputs]
    running = go.click(run, inputs, [status, view, settings.seed, go, stop], **MODELS, **PRIVATE)
    can_be_stopped(studio, pack, running, status, go, stop)


def ends(info: PackInfo) -> tuple[str, str, int | None]:
    """Where the first strip begins and ends: at two classes, or at two seeds if there is but one class."""
    first, *others = info.classes or ("",)
    return first, next(iter(others), first), None if others else FIRST_SEED + 1


def unfinished(progress: SamplingProgress) -> dict:
    count = len(progress.images)
    return along(progress.images, [i / (count - 1) for i in range(count)])


def along(pictures: list, shares: list[float]) -> dict:
    return {
        "pictures": [picture(one, exact=False) for one in pictures],
        "shares": [f"{100 * share:.0f} %" for share in shares],
    }


def finished(made: Strip) -> dict:
    shown = along(made.images, made.shares)
    page = table([made.images], shown["shares"], [""], f"{made.pack}. {in_words(made)}")
    return {
        **shown,
        "file": f"{made.pack}-strip-{made.seed}.png",
        "png": data_uri(png_bytes(page, made.json())),
    }


def in_words(made: Strip) -> str:
    ways = f"From {made.label} to {made.other_label}" if made.label != made.other_label else made.label.capitalize()
    seeds = f"seed {made.seed}" + (f" to {made.other_seed}" if made.seed != made.other_seed else "")
    return f"{ways}, {seeds}, {recipe(made)}: drawn in {made.seconds:.1f} s."
