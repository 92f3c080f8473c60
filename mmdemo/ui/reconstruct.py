"""The Reconstruct tab: a picture, what is left of it after the codec, and its tokens.

Knows where a picture can come from (an example, a drawing, a file) and what the studio says of it; the studio checks
it and turns it into what the model sees. The drawing is static/picker.js, the result static/reconstruct.js.
"""

import base64
import io
from collections.abc import Callable, Iterator

import gradio as gr
from PIL import Image, ImageDraw

from mmdemo.errors import ImageError, MmdemoError
from mmdemo.ui.browser import MODELS, OPENING, PRIVATE, message, picture, said_plainly, speaker, widget
from mmdemo.ui.codebook import code_reader
from mmdemo.ui.settings import about, waiting


def build(studio, pack: gr.Dropdown, opened: Callable) -> None:
    """The tab's contents. `opened(show, inputs, outputs)` calls show whenever a pack is opened."""
    source = gr.State(None)  # the person's picture, a path or a PIL image; None = the pack's first example
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            result = widget("reconstruct", elem_id="reconstruct-view", server_functions=[code_reader(studio)])
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

    def look(name: str, picked, inverted: str) -> Iterator[tuple]:
        tell = speaker()
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip()
        seen = studio.reconstruct(name, picked or examples(studio, name)[0], inverted)
        yield tell(text=in_words(seen)), tell(pack=name, **in_pictures(seen))

    def fit(name: str) -> tuple:
        thumbnails = [picture(image) for image in examples(studio, name)]
        return message(examples=thumbnails), gr.update(visible=about(studio, name).channels == 1)

    def show(name: str, picked, inverted: str) -> Iterator[tuple]:
        try:
            yield from look(name, picked, inverted)
        except MmdemoError as error:
            tell = speaker()
            yield tell(text=str(error)), tell()

    @said_plainly
    def take_example(name: str, inverted: str, event: gr.EventData) -> Iterator[tuple]:
        picked = examples(studio, name)[event.index]
        for text, view in look(name, picked, inverted):
            yield text, view, picked

    @said_plainly
    def take_drawing(name: str, inverted: str, event: gr.EventData) -> Iterator[tuple]:
        picked = drawn(event.png)
        for text, view in look(name, picked, inverted):
            yield text, view, picked

    @said_plainly
    def take_file(name: str, path: str, inverted: str) -> Iterator[tuple]:
        for text, view in look(name, path, inverted):
            yield text, view, path

    kept = [status, result, source]
    opened(fit, [pack], [picker, invert], **PRIVATE)
    opened(show, [pack, source, invert], [status, result], **OPENING, **PRIVATE)
    always = {"trigger_mode": "multiple", **MODELS, **PRIVATE}
    picker.example(take_example, [pack, invert], kept, **always)
    picker.drawing(take_drawing, [pack, invert], kept, **always)
    upload.upload(take_file, [pack, upload, invert], kept, **always)
    invert.input(said_plainly(look), [pack, source, invert], [status, result], **always)


def in_words(seen) -> str:
    width, height = seen.image.size
    words = f"{width} × {height} pixels became {len(seen.tokens[0])} × {len(seen.tokens)} tokens."
    return words + (" The picture was inverted." if seen.inverted else "")


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


def examples(studio, pack: str) -> list[Image.Image]:
    return studio.examples(pack) or [stand_in()]


def stand_in(size: int = 256) -> Image.Image:
    """Something to look at in a pack without examples: a ring, bright on dark."""
    image = Image.new("RGB", (size, size), "black")
    box = [size // 4, size // 5, size * 3 // 4, size * 4 // 5]
    ImageDraw.Draw(image).ellipse(box, outline="white", width=size // 10)
    return image


def drawn(uri: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2], validate=True)), formats=("PNG",))
    except (AttributeError, ValueError, OSError, Image.DecompressionBombError):
        raise ImageError("The drawing did not arrive whole; draw it again.") from None
