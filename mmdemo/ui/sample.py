"""The Sample tab: a class in, new pictures out, watched while they form.

Knows the words and ranges of the controls and what the studio streams; the pictures are drawn by static/sample.js.
"""

from collections.abc import Callable, Iterator

import gradio as gr

from mmdemo.studio import MAX_COUNT
from mmdemo.ui.browser import (
    FITTING,
    MODELS,
    OPENING,
    PRIVATE,
    data_uri,
    picture,
    said_plainly,
    sheet,
    sparingly,
    speaker,
    widget,
)
from mmdemo.ui.settings import BUSY, IDLE, Settings, can_be_stopped, first_shown, recipe, to_draw, waiting
from mmdemo.views import PackInfo

FIRST_COUNT = 10
FIRST_SEED = 0


def build(studio, pack: gr.components.Component, opened: Callable) -> gr.HTML:
    """The tab's contents. Returns the pictures, whose `replay` event asks to watch one of them being denoised."""
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            pictures = widget("sample", elem_id="sample-view")
        with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
            label = gr.Dropdown([], label="Class", info="What to draw; all takes every class in turn.")
            count = gr.Slider(1, MAX_COUNT, FIRST_COUNT, step=1, label="How many", info="Pictures drawn together.")
            settings = Settings()
            with gr.Row():
                go = gr.Button("Draw", variant="primary", interactive=False, min_width=100)
                stop = gr.Button("Stop", interactive=False, min_width=100)

    def first_pictures(info: PackInfo) -> tuple[str, dict]:
        done = studio.sample(info.name, "all", FIRST_COUNT, FIRST_SEED)
        return in_words(done), finished(done)

    def fit(name: str, chosen: str | None, sampler: str | None) -> tuple:
        info = to_draw(studio, name)
        labels = ["all", *info.classes]
        choice = gr.update(choices=labels, value=chosen if chosen in labels else "all")
        return gr.update(interactive=info.can_sample), choice, *settings.of(info, sampler)

    @said_plainly
    def run(name, label, count, *wanted) -> Iterator[tuple]:
        seed, *rest = settings.arguments(*wanted)
        going = studio.sampling(name, label, count, seed, *rest)
        tell = speaker()
        yield tell(text="Starting…"), gr.skip(), seed, *BUSY
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip(), gr.skip(), *BUSY
        for *_, progress in sparingly(going):
            if progress.result is None:
                text = f"Step {progress.index + 1} of {progress.total}…"
                yield tell(text=text), tell(**unfinished(progress)), gr.skip(), gr.skip(), gr.skip()
            else:
                done = progress.result
                yield tell(text=in_words(done)), tell(**finished(done)), done.seed, *IDLE

    fitted = opened(fit, [pack, label, settings.sampler], [go, label, *settings.choices], **FITTING)
    show = first_shown(studio, "Drawing the first pictures…", first_pictures)
    opened(show, [pack], [status, pictures], after=fitted, **OPENING, **PRIVATE)
    go.click(None, js="() => window.mmdemo.bring('sample')")
    running = go.click(
        run, [pack, label, count, *settings.inputs], [status, pictures, settings.seed, go, stop], **MODELS, **PRIVATE
    )
    can_be_stopped(studio, pack, running, status, go, stop)
    return pictures


def unfinished(progress) -> dict:
    columns = min(8, len(progress.images))
    page = picture(sheet(progress.images, columns), exact=False)
    return {"sheet": page, "columns": columns, "count": len(progress.images)}


def in_words(samples) -> str:
    return f"Seed {samples.seed}, {recipe(samples)}: drawn in {samples.seconds:.1f} s."


def finished(samples) -> dict:
    columns = min(8, len(samples.images))
    labelled = samples.labels, samples.seeds
    settings = {name: getattr(samples, name) for name in ("steps", "guidance", "sampler", "interval")}
    return {
        "sheet": picture(sheet(samples.images, columns)),
        "columns": columns,
        "count": len(samples.images),
        "pictures": [{"label": label, "seed": seed, **settings} for label, seed in zip(*labelled, strict=True)],
        "file": f"{samples.pack}-seed-{samples.seed}.png",
        "png": data_uri(samples.png_bytes()),
    }
