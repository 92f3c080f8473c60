"""The seven endpoints of the contract, for gradio_client and any other program.

Every argument but a picture reaches the studio as it was sent, so that the studio's one sentence answers a bad one.
Knows the names, the order and the defaults of the arguments; what they may be is the studio's to say.
"""

import inspect
import uuid
from collections.abc import Callable, Iterator

import gradio as gr
from gradio.components.api_component import Api
from PIL import Image

from mmdemo.errors import ArgumentError
from mmdemo.ui.browser import MODELS, said_plainly

TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
GRID = {"type": "array", "items": {"type": "array", "items": WHOLE}}
KINDS = {
    **{"pack": TEXT, "label": TEXT, "sampler": TEXT, "invert": TEXT},
    **{"code": WHOLE, "count": WHOLE, "seed": WHOLE, "steps": WHOLE, "size": WHOLE, "guidance": NUMBER, "tokens": GRID},
}


def register(studio) -> None:
    """Adds the endpoints to the page being built; nothing of them is drawn."""

    def packs():
        """Every pack: its classes, how many codes it has, the samplers that fit it; a damaged one with its problem."""
        return [pack.json() for pack in studio.packs()]

    def codebook(pack):
        """All codes of a pack as one picture, and how many of them are used."""
        book = studio.codebook(pack)
        return own_file(book.sheet), book.json()

    def code(pack, code):
        """One code up close: its share of all tokens and the codes nearest to it."""
        card = studio.code(pack, code)
        return own_file(card.card), card.json()

    def reconstruct(pack, image, invert="auto", size=None):
        """A picture after the codec, its tokens as a picture, and how much was lost. size: pixels of its side."""
        seen = studio.reconstruct(pack, uploaded(image), invert, size)
        return own_file(seen.image), own_file(seen.token_map), seen.json()

    def decode(pack, tokens):
        """The picture that a grid of token ids stands for."""
        return own_file(studio.decode(pack, tokens))

    def sample(pack, label, count=1, seed=None, steps=None, guidance=None, sampler=None):
        """New pictures of a class, or of `all`: picture i has seed + i. None is the pack's default, or a drawn seed."""
        drawn = studio.sample(pack, label, count, seed, steps, guidance, sampler)
        return list(zip(map(own_file, drawn.images), drawn.labels, strict=True)), drawn.json()

    def denoise(pack, label, seed=None, steps=None, guidance=None, sampler=None) -> Iterator[tuple]:
        """The guess of one new picture after every step; the last one is the result."""
        for frame in studio.denoise(pack, label, seed, steps, guidance, sampler):
            yield own_file(frame.x0), frame.json()

    with gr.Column(visible=False):
        expose(packs, lambda: [gr.JSON(label="packs")])
        expose(codebook, lambda: [png("sheet"), gr.JSON(label="numbers")])
        expose(code, lambda: [png("card"), gr.JSON(label="numbers")])
        expose(reconstruct, lambda: [png("reconstruction"), png("token map"), gr.JSON(label="numbers")], **MODELS)
        expose(decode, lambda: [png("image")], **MODELS)
        expose(sample, lambda: [gr.Gallery(format="png", label="images"), gr.JSON(label="numbers")], **MODELS)
        expose(denoise, lambda: [png("x0"), gr.JSON(label="numbers")], **MODELS)


def expose(answer: Callable, outputs: Callable[[], list], **options) -> None:
    """An endpoint named like the function, which takes the function's own arguments."""
    inputs = [argument(parameter) for parameter in inspect.signature(answer).parameters.values()]
    gr.Button(visible=False).click(
        said_plainly(answer, quote=str), inputs, outputs(), api_name=answer.__name__, show_progress="hidden", **options
    )


def argument(parameter: inspect.Parameter) -> gr.components.Component:
    default = None if parameter.default is inspect.Parameter.empty else parameter.default
    kind = gr.Image().api_info() if parameter.name == "image" else KINDS[parameter.name]
    return Api(default, kind, parameter.name)


def own_file(image: Image.Image) -> Image.Image:
    """The same pixels, in a file that no other answer shares.

    gradio names an answer's file by its bytes and writes it anew each time, so that of two equal answers at once one
    would be read while the other is being written.
    """
    own = image.copy()
    own.info["answer"] = uuid.uuid4().hex  # gradio writes it into the PNG as text
    return own


def png(label: str) -> gr.Image:
    return gr.Image(format="png", label=label)


def uploaded(image) -> str:
    """The path of an uploaded file. Only files sent by a client carry gradio's mark; any other path is refused."""
    marked = isinstance(image, dict) and isinstance(image.get("meta"), dict)
    if not marked or image["meta"].get("_type") != "gradio.FileData" or not isinstance(image.get("path"), str):
        raise ArgumentError("image must be an uploaded image file; with gradio_client: handle_file('picture.png').")
    return image["path"]
