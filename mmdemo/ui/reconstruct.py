"""The Reconstruct tab: a picture, what is left of it after the codec, and its tokens.

Knows where a picture can come from (an example, a drawing, a file) and what the studio says of it; the studio checks
it and turns it into what the model sees. The drawing is static/picker.js, the result static/reconstruct.js, what can be
changed in its tokens static/surgery.js, and what the pack says of the picture telling.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from mmdemo.arguments import INVERT
from mmdemo.errors import NO_CODEBOOK, MmdemoError
from mmdemo.packs import Pack
from mmdemo.results import Reconstruction
from mmdemo.studio import Studio
from mmdemo.ui.browser import OPENING, PRIVATE, picture, said_plainly, told, widget
from mmdemo.ui.codebook import code_reader
from mmdemo.ui.messages import Examples, Reconstructed, Text, speaker
from mmdemo.ui.pictures import Source, drawing, examples, marked, refused, seen_at, size_of, sizes, thumbnail
from mmdemo.ui.surgery import answers
from mmdemo.ui.telling import QUESTIONS, Telling, question
from mmdemo.ui.turns import MODELS, turn
from mmdemo.ui.workbench import waiting

FIRST: Source = ("example", 0)
Values = dict[gr.components.Component, Any]


def build(studio: Studio, pack: gr.components.Component, opened: Callable) -> None:
    """The tab's contents. `opened(show, inputs, outputs)` calls show whenever a pack is opened."""
    source, wanted = gr.State(FIRST), gr.State(None)  # the picture and the size that the person chose
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            # Seen until `fit`, as in workbench.py.
            ask = gr.Button(QUESTIONS["describe"], elem_id="ask", interactive=False, min_width=100, scale=0)
            telling = Telling(studio, "description-view")
            functions = [code_reader(studio), *answers(studio)]
            result = widget("reconstruct", elem_id="reconstruct-view", server_functions=functions)
        with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
            picker = widget("picker", elem_id="picker")
            upload = gr.File(label="Your picture", file_types=["image"], height=160, elem_id="upload")
            invert = gr.Radio(
                list(INVERT),
                value="auto",
                label="Invert",
                info="This pack expects bright on dark; auto inverts dark drawings on light paper.",
            )
            size = gr.Radio([], label="Size", info="Pixels a side. More pixels, more tokens, finer detail.")

    def chosen_picture(found: Pack, picked: Source) -> tuple[Source, Any]:
        """Which picture is meant in this pack, which may have fewer examples, and the picture."""
        kind, image = picked
        if kind != "example":
            return picked, drawing(image) if kind == "drawing" else image
        offered = examples(studio, found)
        image = image if image < len(offered) else 0
        return (kind, image), offered[image]

    def look(values: Values, picked: Source | None = None, side: int | None = None) -> Iterator[Values]:
        """Shows a picture, None = the one that was chosen; once it is shown, it is the one that is chosen."""
        tell = speaker()
        chosen = {one: value for one, value in ((source, picked), (wanted, side)) if value is not None}
        picked, side = picked or values[source], side or values[wanted]
        yield {ask: gr.update(interactive=False)}  # until then it would be asked of the picture before
        try:
            for text in waiting(studio, values[pack]):
                yield {status: tell(Text(text))}
            found = studio.pack(values[pack])
            picked, image = chosen_picture(found, picked)
            side = size_of(found, side)
            with turn():
                seen = seen_at(studio, found, image, values[invert], side)
        except MmdemoError:
            yield {ask: gr.update(interactive=True)}
            raise
        view = Reconstructed(
            pack=found.name,
            codes=found.codes,
            side=side,
            invert=values[invert],
            source=marked(picked),
            subject=subject(picked),
            original=picture(seen.original),
            image=picture(seen.image),
            tokens=seen.tokens,
            tiles=tiles(seen),
            untold=None if seen.tokens else NO_CODEBOOK,
        )
        shown = {status: tell(Text(in_words(seen, picked))), result: tell(view), **chosen}
        yield shown | {telling.view: speaker()(), ask: gr.update(interactive=True)}

    def fit(values: Values) -> Values:
        found = studio.pack(values[pack])
        asked = question(studio, found)
        sides = [(str(side), side) for side in sizes(found)]
        return {
            picker: speaker()(Examples([thumbnail(image) for image in examples(studio, found)])),
            invert: gr.update(visible=found.channels == 1),
            # Not to be asked of the last pack's picture, which is there still.
            ask: gr.update(
                value=asked or QUESTIONS["describe"], visible=True if asked else "hidden", interactive=False
            ),
            size: gr.update(choices=sides, value=size_of(found, values[wanted]), visible=len(sides) > 1),
        }

    def show(values: Values) -> Iterator[Values]:
        try:
            yield from look(values)
        except MmdemoError as error:
            tell = speaker()
            yield {status: tell(Text(str(error))), result: tell(), telling.view: tell()}

    def tell(values: Values, request: gr.Request) -> Iterator[Values]:
        def image(found: Pack) -> Any:
            return chosen_picture(found, values[source])[1]

        for said in telling.ask(values[pack], image, values[invert], request.session_hash):
            yield {telling.view: said}

    def take_example(values: Values, event: gr.EventData) -> Iterator[Values]:
        yield from look(values, ("example", told(event, "index", int)))

    def take_drawing(values: Values, event: gr.EventData) -> Iterator[Values]:
        yield from look(values, ("drawing", told(event, "png", str)))

    def take_file(values: Values) -> Iterator[Values]:
        yield from look(values, ("file", values[upload]))

    def take_size(values: Values) -> Iterator[Values]:
        yield from look(values, side=values[size])

    inputs, outputs = {pack, source, invert, wanted}, [status, result, telling.view, ask, source, wanted]
    fitted = opened(fit, {pack, wanted}, [picker, invert, ask, size], **PRIVATE)
    opened(show, inputs, outputs, after=fitted, **OPENING, **PRIVATE)
    always = {"outputs": outputs, "trigger_mode": "multiple", **MODELS, **PRIVATE}
    picker.example(said_plainly(take_example), inputs, **always)
    picker.drawing(said_plainly(take_drawing), inputs, **always)
    refused(upload.upload(said_plainly(take_file), inputs | {upload}, **always), upload)
    invert.input(said_plainly(look), inputs, **always)
    size.input(said_plainly(take_size), inputs | {size}, **always)
    asked = ask.click(said_plainly(tell), inputs, [telling.view], **MODELS, **PRIVATE)
    # What is said is said of one picture.
    for event in (pack.change, picker.example, picker.drawing, upload.upload, invert.input):
        event(None, cancels=[asked], trigger_mode="multiple")


def subject(picked: Source) -> str:
    kind, which = picked
    return f"Example {which + 1}" if kind == "example" else f"Your {kind}"


def in_words(seen: Reconstruction, picked: Source) -> str:
    width, height = seen.image.size
    parts = "tokens" if seen.tokens else "latents"
    became = f"{width} × {height} pixels became {width // seen.stride} × {height // seen.stride} {parts}."
    return f"{subject(picked)}: {became}" + (" The picture was inverted." if seen.inverted else "")


def tiles(seen: Reconstruction) -> list[tuple[str, str, str]]:
    close = [
        ("PSNR", f"{seen.psnr:.1f} dB", "higher is closer; above 30 is hard to tell apart"),
        ("SSIM", f"{seen.ssim:.3f}", "likeness of structure; 1 is identical"),
    ]
    if not seen.tokens:
        return close
    return [
        *close,
        ("Bits per pixel", f"{seen.bits_per_pixel:.2f}", "what the tokens need to be stored"),
        ("Compression", f"{seen.compression_ratio:.0f} : 1", "against the pixels the model saw"),
    ]
