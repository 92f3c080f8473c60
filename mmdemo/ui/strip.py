"""The other half of the Compare tab: pictures between two classes, two seeds, or both.

Knows the strip's controls and what the studio answers; static/between.js draws it.
"""

from collections.abc import Callable, Iterator

import gradio as gr

from mmdemo.errors import ArgumentError, MmdemoError
from mmdemo.studio import MAX_STRIP
from mmdemo.ui.browser import MODELS, OPENING, PRIVATE, data_uri, message, picture, said_plainly, speaker, widget
from mmdemo.ui.labelled import png_bytes, table
from mmdemo.ui.settings import BUSY, IDLE, Settings, about, kept, recipe, waiting
from mmdemo.views import PackInfo, Strip

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

    @kept
    def first_strip(info: PackInfo) -> tuple[str, dict]:
        label, other_label, other_seed = ends(info)
        made = studio.morph(info.name, label, other_label, FIRST_SEED, other_seed, FIRST_COUNT)
        return in_words(made), finished(made)

    def fit(name: str, label: str | None, other_label: str | None, sampler: str | None) -> tuple:
        info = about(studio, name)
        if label not in info.classes or other_label not in info.classes:
            label, other_label, _ = ends(info)
        classes = [gr.update(choices=list(info.classes), value=value) for value in (label, other_label)]
        return gr.update(interactive=info.can_sample), *classes, *settings.of(info, sampler)

    def show(name: str) -> Iterator[tuple]:
        tell = speaker()
        try:
            studio.sampling(name, "all")  # a pack that cannot sample says so here, before its models are loaded
            for text in waiting(studio, name):
                yield tell(text=text), gr.skip()
            yield tell(text="Drawing the first strip…"), gr.skip()
            words, shown = first_strip(about(studio, name))
            yield tell(text=words), tell(**shown)
        except MmdemoError as error:
            yield tell(text=str(error)), tell()

    @said_plainly
    def run(name, label, other_label, count, other_seed, same_noise, *wanted) -> Iterator[tuple]:
        seed, *rest = settings.arguments(*wanted)
        other_seed = None if same_noise else other_seed
        if label == other_label and other_seed in (None, seed):
            raise ArgumentError("Both ends are the same; choose another class or another seed to end with")
        tell = speaker()
        yield tell(text="Starting…"), gr.skip(), seed, *BUSY
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip(), gr.skip(), *BUSY
        yield tell(text=f"Drawing {count} pictures together…"), gr.skip(), gr.skip(), *BUSY
        made = studio.morph(name, label, other_label, seed, other_seed, count, *rest)
        yield tell(text=in_words(made)), tell(**finished(made)), made.seed, *IDLE

    def stopped(name: str) -> tuple:
        # Another pack may have been chosen meanwhile, and what is said of that one stays.
        return message(text="Stopped.", ends=True), gr.update(interactive=about(studio, name).can_sample), IDLE[1]

    opened(fit, [pack, label, other_label, settings.sampler], [go, label, other_label, *settings.choices], **PRIVATE)
    opened(show, [pack], [status, view], **OPENING, **PRIVATE)
    go.click(None, js="() => window.mmdemo.bring('strip')")
    inputs = [pack, label, other_label, count, other_seed, same_noise, *settings.inputs]
    running = go.click(run, inputs, [status, view, settings.seed, go, stop], **MODELS, **PRIVATE)
    ended = {"fn": stopped, "inputs": [pack], "outputs": [status, go, stop], **PRIVATE}
    running.failure(**ended)  # gradio counts a Stop as a failure too
    stop.click(**ended, cancels=[running])
    pack.change(None, cancels=[running], trigger_mode="multiple")


def ends(info: PackInfo) -> tuple[str, str, int | None]:
    """Where the first strip begins and ends: at two classes, or at two seeds if there is but one class."""
    first, *others = info.classes or ("",)
    return first, next(iter(others), first), None if others else FIRST_SEED + 1


def finished(made: Strip) -> dict:
    shares = [f"{100 * share:.0f} %" for share in made.shares]
    return {
        "pictures": [picture(one, exact=False) for one in made.images],
        "shares": shares,
        "file": f"{made.pack}-strip-{made.seed}.png",
        "png": data_uri(png_bytes(table([made.images], shares, [""], f"{made.pack}. {in_words(made)}"), made.json())),
    }


def in_words(made: Strip) -> str:
    ways = f"From {made.label} to {made.other_label}" if made.label != made.other_label else made.label.capitalize()
    seeds = f"seed {made.seed}" + (f" to {made.other_seed}" if made.seed != made.other_seed else "")
    return f"{ways}, {seeds}, {recipe(made)}: drawn in {made.seconds:.1f} s."
