"""The Reconstruct tab: a picture, what is left of it after the codec, and its tokens.

Knows where a picture can come from (an example, a drawing, a file) and what the studio says of it; the studio checks
it and turns it into what the model sees. The drawing is static/picker.js, the result static/reconstruct.js, and what
can be changed in its tokens static/surgery.js.
"""

from collections.abc import Callable, Iterator

import gradio as gr

from mmdemo.errors import MmdemoError
from mmdemo.ui.browser import MODELS, OPENING, PRIVATE, message, picture, said_plainly, speaker, widget
from mmdemo.ui.codebook import code_reader
from mmdemo.ui.pictures import drawn, examples, seen_at, size_of, sizes, thumbnail
from mmdemo.ui.settings import about, waiting
from mmdemo.ui.surgery import answers

FIRST = ("example", 0)


def build(studio, pack: gr.components.Component, opened: Callable) -> None:
    """The tab's contents. `opened(show, inputs, outputs)` calls show whenever a pack is opened."""
    # What the person chose: ("example", its number), ("drawing", a picture) or ("file", its path), and a size.
    source, wanted = gr.State(FIRST), gr.State(None)
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            functions = [code_reader(studio), *answers(studio)]
            result = widget("reconstruct", "surgery", elem_id="reconstruct-view", server_functions=functions)
        with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
            picker = widget("picker", elem_id="picker")
            upload = gr.File(
                label="Your picture",
                file_types=["image"],
                height=160,
                elem_id="upload",
            )
            invert = gr.Radio(
                ["auto", "yes", "no"],
                value="auto",
                label="Invert",
                info="This pack expects bright on dark; auto inverts dark drawings on light paper.",
            )
            size = gr.Radio([], label="Size", info="Pixels a side. More pixels, more tokens, finer detail.")

    def look(name: str, picked: tuple, inverted: str, wanted: int | None) -> Iterator[tuple]:
        tell = speaker()
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip()
        info = about(studio, name)
        kind, image = picked
        if kind == "example":
            choice = examples(studio, info)
            image = image if image < len(choice) else 0  # another pack may have fewer
            picked, image = (kind, image), choice[image]
        side = size_of(info, wanted)
        seen = seen_at(studio, info, image, inverted, side)
        settings = {"pack": name, "codes": info.codes, "side": side, "invert": inverted}
        which = {"source": source_of(picked), "subject": subject(picked)}
        yield tell(text=in_words(seen, picked)), tell(**settings, **which, **in_pictures(seen))

    def fit(name: str, wanted: int | None) -> tuple:
        info = about(studio, name)
        choice, sides = examples(studio, info), sizes(info)
        thumbnails = message(examples=[thumbnail(image) for image in choice])
        offered = [(str(side), side) for side in sides]
        return (
            thumbnails,
            gr.update(visible=info.channels == 1),
            gr.update(choices=offered, value=size_of(info, wanted), visible=len(sides) > 1),
        )

    def show(name: str, *chosen) -> Iterator[tuple]:
        try:
            yield from look(name, *chosen)
        except MmdemoError as error:
            tell = speaker()
            yield tell(text=str(error)), tell()

    def taken(name: str, picked: tuple, *chosen) -> Iterator[tuple]:
        for text, view in look(name, picked, *chosen):
            yield text, view, picked

    @said_plainly
    def take_example(name: str, inverted: str, wanted: int | None, event: gr.EventData) -> Iterator[tuple]:
        yield from taken(name, ("example", event.index), inverted, wanted)

    @said_plainly
    def take_drawing(name: str, inverted: str, wanted: int | None, event: gr.EventData) -> Iterator[tuple]:
        yield from taken(name, ("drawing", drawn(event.png)), inverted, wanted)

    @said_plainly
    def take_file(name: str, inverted: str, wanted: int | None, path: str) -> Iterator[tuple]:
        yield from taken(name, ("file", path), inverted, wanted)

    @said_plainly
    def take_size(name: str, picked: tuple, inverted: str, side: int) -> Iterator[tuple]:
        for text, view in look(name, picked, inverted, side):
            yield text, view, side

    kept = [status, result, source]
    fitted = opened(fit, [pack, wanted], [picker, invert, size], **PRIVATE)
    opened(show, [pack, source, invert, wanted], [status, result], after=fitted, **OPENING, **PRIVATE)
    always = {"trigger_mode": "multiple", **MODELS, **PRIVATE}
    picker.example(take_example, [pack, invert, wanted], kept, **always)
    picker.drawing(take_drawing, [pack, invert, wanted], kept, **always)
    upload.upload(take_file, [pack, invert, wanted, upload], kept, **always)
    invert.input(said_plainly(look), [pack, source, invert, wanted], [status, result], **always)
    size.input(take_size, [pack, source, invert, size], [status, result, wanted], **always)


def subject(picked: tuple) -> str:
    kind, which = picked
    return f"Example {which + 1}" if kind == "example" else f"Your {kind}"


def in_words(seen, picked: tuple) -> str:
    width, height = seen.image.size
    became = f"{width} × {height} pixels became {len(seen.tokens[0])} × {len(seen.tokens)} tokens."
    return f"{subject(picked)}: {became}" + (" The picture was inverted." if seen.inverted else "")


def source_of(picked: tuple) -> dict:
    """Which of the ways to choose a picture is to be marked."""
    kind, which = picked
    return {"kind": kind, "index": which if kind == "example" else None}


def in_pictures(seen) -> dict:
    return {
        "original": picture(seen.original),
        "image": picture(seen.image),
        "tokens": seen.tokens,
        "tiles": [
            ("PSNR", f"{seen.psnr:.1f} dB", "higher is closer; above 30 is hard to tell apart"),
            ("SSIM", f"{seen.ssim:.3f}", "likeness of structure; 1 is identical"),
            ("Bits per pixel", f"{seen.bits_per_pixel:.2f}", "what the tokens need to be stored"),
            ("Compression", f"{seen.compression_ratio:.0f} : 1", "against the pixels the model saw"),
        ],
    }
