"""The second half of the Denoise tab: a picture taken part of the way into noise, and denoised as another class.

Knows the controls and where the picture comes from (as in Reconstruct). The way into noise is static/noised.js, the
way back a film like that of any run.
"""

from collections.abc import Callable, Iterator

import gradio as gr
from PIL import Image

from mmdemo.errors import MmdemoError
from mmdemo.ui.browser import FITTING, MODELS, OPENING, PRIVATE, message, picture, said_plainly, speaker, widget
from mmdemo.ui.film import followed, screen
from mmdemo.ui.pictures import drawn, examples, thumbnail
from mmdemo.ui.reconstruct import source_of
from mmdemo.ui.settings import BUSY, IDLE, Settings, about, can_be_stopped, drawable, kept, recipe, to_draw, waiting
from mmdemo.views import Frame, NoisedFrame, PackInfo

FIRST = ("first", None)
# With the digits that come with the app: turn this 3 into an 8. Seed and strength at which the first edit is plain.
FIRST_DIGIT, FIRST_LABEL, FIRST_STRENGTH, FIRST_SEED = 3, "8", 0.8, 3
FIRST_OTHER = 1  # of CIFAR-10's examples it is a car, to be turned into the last class, a truck


def build(studio, pack: gr.components.Component, opened: Callable) -> None:
    source = gr.State(FIRST)  # or ("example", its number), ("drawing", a picture), ("file", its path)
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            forward = widget("noised", elem_id="noised-view")
            film = screen(studio, "edit-view")
        with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
            picker = widget("picker", elem_id="edit-picker")
            upload = gr.File(label="Your picture", file_types=["image"], height=160, elem_id="edit-upload")
            label = gr.Dropdown([], label="Turn it into", info="The class it is denoised with.")
            strength = gr.Slider(
                0.05,
                1,
                FIRST_STRENGTH,
                step=0.05,
                label="Strength",
                info="How far into noise: 1 forgets the picture; too little, and it stays what it was.",
            )
            settings = Settings(FIRST_SEED)
            with gr.Row():
                go = gr.Button("Edit", variant="primary", interactive=False, min_width=100)
                stop = gr.Button("Stop", interactive=False, min_width=100)

    def chosen(name: str, picked: tuple) -> tuple[tuple, str | Image.Image]:
        """Which picture is meant in this pack, which may have fewer examples, and the picture."""
        kind, image = picked
        if kind not in ("first", "example"):
            return picked, image
        info = about(studio, name)
        offered = examples(studio, info)
        if kind == "first":  # of the pack's own, which are of its classes
            own = FIRST_DIGIT if FIRST_LABEL in info.classes else FIRST_OTHER
            image = len(offered) - len(studio.examples(name)) + own
        image = image if image < len(offered) else 0
        return ("example", image), offered[image]

    def into_noise(name: str, picked: tuple, strength: float, *how) -> dict:
        """What forward shows; how: seed, steps, sampler."""
        picked, image = chosen(name, picked)
        return noised(name, picked, strength, list(studio.noise(name, image, *how)))

    def edit(name: str, picked: tuple, label: str, strength: float, seed=None, steps=None, *how) -> Iterator[tuple]:
        """What to say and the film, after every step, once the arguments are found good; how: guidance, sampler,
        interval."""
        guidance, sampler, interval = how or (None, None, None)
        _, image = chosen(name, picked)
        original, going = studio.editing(
            name, image, label, strength, seed, steps, guidance, sampler, interval=interval
        )
        return followed(going, lambda frame: in_words(frame, strength), original=picture(original))

    @kept
    def first_edit(info: PackInfo) -> tuple[dict, str, dict]:
        label = first_label(info)
        *_, (words, shown) = edit(info.name, FIRST, label, FIRST_STRENGTH, FIRST_SEED)
        return into_noise(info.name, FIRST, FIRST_STRENGTH, FIRST_SEED), words, {**shown, "show": shown["total"] - 1}

    def fit(name: str, chosen: str | None, sampler: str | None) -> tuple:
        info = to_draw(studio, name)
        choice = gr.update(choices=list(info.classes), value=chosen if chosen in info.classes else first_label(info))
        thumbnails = message(examples=[thumbnail(image) for image in examples(studio, info)])
        return thumbnails, gr.update(interactive=info.can_sample), choice, *settings.of(info, sampler)

    def show(name: str, picked: tuple, strength: float) -> Iterator[tuple]:
        tell = speaker()
        try:
            drawable(studio, name)  # a pack that cannot sample says so here, before its models are loaded
            for text in waiting(studio, name):
                yield tell(text=text), gr.skip(), gr.skip()
            if picked == FIRST:
                yield tell(text="Editing the first picture…"), gr.skip(), gr.skip()
                way, words, shown = first_edit(about(studio, name))
                yield tell(text=words), tell(**way), tell(**shown)
            else:
                yield tell(text=READY), tell(**into_noise(name, picked, strength)), tell()
        except MmdemoError as error:
            yield tell(text=str(error)), tell(), tell()

    def taken(name: str, picked: tuple, strength: float, *how) -> Iterator[tuple]:
        tell = speaker()
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip(), gr.skip(), gr.skip()
        yield tell(text=READY), tell(**into_noise(name, picked, strength, *how)), tell(), picked

    @said_plainly
    def take_example(name: str, strength: float, seed, steps, sampler, event: gr.EventData) -> Iterator[tuple]:
        yield from taken(name, ("example", event.index), strength, seed, steps, sampler)

    @said_plainly
    def take_drawing(name: str, strength: float, seed, steps, sampler, event: gr.EventData) -> Iterator[tuple]:
        yield from taken(name, ("drawing", drawn(event.png)), strength, seed, steps, sampler)

    @said_plainly
    def take_file(name: str, path: str, *how) -> Iterator[tuple]:
        yield from taken(name, ("file", path), *how)

    @said_plainly
    def run(name: str, picked: tuple, label: str, strength: float, *wanted) -> Iterator[tuple]:
        seed, steps, guidance, sampler, interval = settings.arguments(*wanted)
        going = edit(name, picked, label, strength, seed, steps, guidance, sampler, interval)
        tell = speaker()
        yield tell(text="Starting…"), gr.skip(), gr.skip(), seed, *BUSY
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip(), gr.skip(), gr.skip(), *BUSY
        way = into_noise(name, picked, strength, seed, steps, sampler)
        yield tell(text="Adding noise…"), tell(**way), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        for words, shown in going:
            yield tell(text=words), gr.skip(), tell(**shown), gr.skip(), gr.skip(), gr.skip()
        yield gr.skip(), gr.skip(), gr.skip(), gr.skip(), *IDLE

    shown = [status, forward, film]
    fitted = opened(fit, [pack, label, settings.sampler], [picker, go, label, *settings.choices], **FITTING)
    opened(show, [pack, source, strength], shown, after=fitted, **OPENING, **PRIVATE)
    always = {"trigger_mode": "multiple", **MODELS, **PRIVATE}
    how = [strength, settings.seed, settings.steps, settings.sampler]
    picker.example(take_example, [pack, *how], [*shown, source], **always)
    picker.drawing(take_drawing, [pack, *how], [*shown, source], **always)
    upload.upload(take_file, [pack, upload, *how], [*shown, source], **always)
    strength.change(None, [strength], None, js="(share) => window.mmdemo.store.set('strength', share)")
    go.click(None, js="() => window.mmdemo.bring('edit')")
    running = go.click(
        run, [pack, source, label, strength, *settings.inputs], [*shown, settings.seed, go, stop], **MODELS, **PRIVATE
    )
    can_be_stopped(studio, pack, running, status, go, stop)


READY = "Choose what to turn it into, how far into noise, and then Edit."


def first_label(info: PackInfo) -> str | None:
    return FIRST_LABEL if FIRST_LABEL in info.classes else next(reversed(info.classes), None)


def in_words(frame: Frame, strength: float) -> str:
    return (
        f"Turned into {frame.label}, strength {strength:g}, seed {frame.seed}, {recipe(frame)}: {frame.seconds:.1f} s."
    )


def noised(pack: str, picked: tuple, strength: float, frames: list[NoisedFrame]) -> dict:
    return {
        "pack": pack,
        "source": source_of(picked),
        "strength": strength,
        "frames": [
            {
                "timestep": f"{frame.timestep:.0f}",
                "a": f"{frame.a:.2f}",
                "s": f"{frame.s:.2f}",
                "image": picture(frame.image, exact=False),
            }
            for frame in frames
        ],
    }
