"""The Denoise tab: one picture, from noise to the end, step by step; or a picture of one's own, into noise and back.

Knows the controls; a run's film is film.py, the second half edit.py.
"""

from collections.abc import Callable, Iterator

import gradio as gr

from mmdemo.ui import edit
from mmdemo.ui.browser import FITTING, MODELS, OPENING, PRIVATE, said_plainly, speaker, widget
from mmdemo.ui.film import followed, in_words, screen
from mmdemo.ui.settings import BUSY, IDLE, Settings, can_be_stopped, first_shown, to_draw, waiting
from mmdemo.views import PackInfo

FIRST_SEED = 0


def build(studio, pack: gr.components.Component, opened: Callable) -> Callable:
    """The tab's contents. Returns `replay(pictures, tabs)`, which runs here whatever `pictures` asks to see again."""
    with gr.Tabs(elem_classes="mm-switch") as modes:
        with gr.Tab("From noise", id="from-noise"):
            replay = from_noise(studio, pack, opened, modes)
        with gr.Tab("Edit a picture", id="edit", elem_id="edit"):
            edit.build(studio, pack, opened)
    return replay


def from_noise(studio, pack: gr.components.Component, opened: Callable, modes: gr.Tabs) -> Callable:
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            film = screen(studio, "denoise-view")
        with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
            label = gr.Dropdown([], label="Class", info="What the transformer is asked to draw.")
            settings = Settings()
            with gr.Row():
                go = gr.Button("Denoise", variant="primary", interactive=False, min_width=100)
                stop = gr.Button("Stop", interactive=False, min_width=100)

    def first_film(info: PackInfo) -> tuple[str, dict]:
        *_, (words, shown) = followed(studio.denoise(info.name, "all", FIRST_SEED), in_words)
        return words, {**shown, "show": shown["total"] * 2 // 5}  # noise on the left, a guess on the right

    def fit(name: str, chosen: str | None, sampler: str | None) -> tuple:
        info = to_draw(studio, name)
        value = chosen if chosen in info.classes else next(iter(info.classes), None)
        choice = gr.update(choices=list(info.classes), value=value)
        return gr.update(interactive=info.can_sample), choice, *settings.of(info, sampler)

    @said_plainly
    def run(name, label, *wanted) -> Iterator[tuple]:
        seed, *rest = settings.arguments(*wanted)
        going = studio.denoise(name, label, seed, *rest)
        tell = speaker()
        yield tell(text="Starting…"), gr.skip(), seed, *BUSY
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip(), gr.skip(), *BUSY
        for words, shown in followed(going, in_words):
            yield tell(text=words), tell(**shown), gr.skip(), gr.skip(), gr.skip()
        yield gr.skip(), gr.skip(), gr.skip(), *IDLE

    fitted = opened(fit, [pack, label, settings.sampler], [go, label, *settings.choices], **FITTING)
    show = first_shown(studio, "Denoising the first picture…", first_film)
    opened(show, [pack], [status, film], after=fitted, **OPENING, **PRIVATE)
    inputs, outputs = [pack, label, *settings.inputs], [status, film, settings.seed, go, stop]
    bring = {"fn": None, "js": "() => window.mmdemo.bring('denoise')"}
    go.click(**bring)
    running = go.click(run, inputs, outputs, **MODELS, **PRIVATE)
    can_be_stopped(studio, pack, running, status, go, stop)

    def replay(pictures: gr.HTML, tabs: gr.Tabs) -> None:
        # The controls of a tab never opened yet hold no values for run() to read: the request goes beside them.
        asked = gr.State(())

        def take(event: gr.EventData) -> tuple:
            request = (event.label, event.seed, False, event.steps, event.guidance, event.sampler, *event.interval)
            return gr.update(selected="denoise"), gr.update(selected="from-noise"), request, *request

        @said_plainly
        def run_asked(name: str, request: tuple) -> Iterator[tuple]:
            yield from run(name, *request)

        shown = [tabs, modes, asked, label, *settings.inputs]
        taken = pictures.replay(take, None, shown, cancels=[running], **PRIVATE)
        taken.then(**bring)
        rerunning = taken.then(run_asked, [pack, asked], outputs, **MODELS, **PRIVATE)
        can_be_stopped(studio, pack, rerunning, status, go, stop)

    return replay
