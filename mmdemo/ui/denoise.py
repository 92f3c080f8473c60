"""The Denoise tab: one picture, from noise to the end, step by step.

Knows the controls and what the studio streams. static/denoise.js keeps the frames, so scrubbing and playing back
need no server.
"""

from collections.abc import Callable, Iterator

import gradio as gr

from mmdemo.errors import MmdemoError
from mmdemo.ui.browser import MODELS, OPENING, PRIVATE, message, picture, said_plainly, speaker, widget
from mmdemo.ui.settings import BUSY, IDLE, Settings, about, kept, waiting
from mmdemo.views import PackInfo

FIRST_SEED = 0


def build(studio, pack: gr.components.Component, opened: Callable) -> Callable:
    """The tab's contents. Returns `replay(pictures, tabs)`, which runs here whatever `pictures` asks to see again."""
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            film = widget("denoise", elem_id="denoise-view")
        with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
            label = gr.Dropdown([], label="Class", info="What the transformer is asked to draw.")
            settings = Settings()
            with gr.Row():
                go = gr.Button("Denoise", variant="primary", interactive=False, min_width=100)
                stop = gr.Button("Stop", interactive=False, min_width=100)

    @kept
    def first_film(info: PackInfo) -> tuple[str, dict]:
        frames = list(studio.denoise(info.name, "all", FIRST_SEED))
        telling = len(frames) * 2 // 5  # noise on the left, a guess on the right
        return in_words(frames[-1]), {**film_of(frames), "show": telling}

    def fit(name: str, chosen: str | None, sampler: str | None) -> tuple:
        info = about(studio, name)
        value = chosen if chosen in info.classes else next(iter(info.classes), None)
        choice = gr.update(choices=list(info.classes), value=value)
        return gr.update(interactive=info.can_sample), choice, *settings.of(info, sampler)

    def show(name: str) -> Iterator[tuple]:
        tell = speaker()
        try:
            studio.denoise(name, "all")  # a pack that cannot sample says so here, before its models are loaded
            for text in waiting(studio, name):
                yield tell(text=text), gr.skip()
            yield tell(text="Denoising the first picture…"), gr.skip()
            words, shown = first_film(about(studio, name))
            yield tell(text=words), tell(**shown)
        except MmdemoError as error:
            yield tell(text=str(error)), tell()

    @said_plainly
    def run(name, label, *wanted) -> Iterator[tuple]:
        seed, *rest = settings.arguments(*wanted)
        going = studio.denoise(name, label, seed, *rest)
        tell = speaker()
        yield tell(text="Starting…"), gr.skip(), seed, *BUSY
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip(), gr.skip(), *BUSY
        frames = []
        for frame in going:
            frames.append(frame)
            if frame.index + 1 < frame.total:
                text = f"Step {frame.index + 1} of {frame.total}…"
                yield tell(text=text), tell(**film_of([frame])), gr.skip(), gr.skip(), gr.skip()
        # The last message holds every frame, in case the browser dropped one on the way.
        yield tell(text=in_words(frame)), tell(**film_of(frames)), frame.seed, *IDLE

    def stopped(name: str) -> tuple:
        # Another pack may have been chosen meanwhile, and what is said of that one stays.
        return message(text="Stopped.", ends=True), gr.update(interactive=about(studio, name).can_sample), IDLE[1]

    opened(fit, [pack, label, settings.sampler], [go, label, *settings.choices], **PRIVATE)
    opened(show, [pack], [status, film], **OPENING, **PRIVATE)
    inputs, outputs = [pack, label, *settings.inputs], [status, film, settings.seed, go, stop]
    bring = {"fn": None, "js": "() => window.mmdemo.bring('denoise')"}
    go.click(**bring)
    running = [go.click(run, inputs, outputs, **MODELS, **PRIVATE)]

    def replay(pictures: gr.HTML, tabs: gr.Tabs) -> None:
        # The controls of a tab never opened yet hold no values for run() to read: the request goes beside them.
        asked = gr.State(())

        def take(event: gr.EventData) -> tuple:
            request = (event.label, event.seed, False, event.steps, event.guidance, event.sampler)
            return gr.update(selected="denoise"), request, *request

        @said_plainly
        def run_asked(name: str, request: tuple) -> Iterator[tuple]:
            yield from run(name, *request)

        taken = pictures.replay(take, None, [tabs, asked, label, *settings.inputs], cancels=running[:], **PRIVATE)
        taken.then(**bring)
        running.append(taken.then(run_asked, [pack, asked], outputs, **MODELS, **PRIVATE))
        ended = {"fn": stopped, "inputs": [pack], "outputs": [status, go, stop], **PRIVATE}
        for event in running:
            event.failure(**ended)  # gradio counts a Stop as a failure too
        stop.click(**ended, cancels=running)
        pack.change(None, cancels=running, trigger_mode="multiple")

    return replay


def in_words(frame) -> str:
    how = f"{frame.steps} steps of {frame.sampler}, guidance {frame.guidance:g}"
    return f"{frame.label}, seed {frame.seed}, {how}: denoised in {frame.seconds:.1f} s."


def film_of(frames: list) -> dict:
    return {
        "total": frames[0].total,
        "frames": [
            {
                "index": frame.index,
                "timestep": f"{frame.timestep:.0f}",
                "noise": round(frame.noise_level, 4),
                "x_t": picture(frame.x_t, exact=False),
                "x0": picture(frame.x0, exact=False),
                "tokens": frame.tokens,
            }
            for frame in frames
        ],
    }
