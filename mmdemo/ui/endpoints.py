"""The endpoints: every verb of the studio, for gradio_client and any other program.

Every argument but a picture reaches the studio as it was sent, so that the studio's one sentence answers a bad one.
Knows the names, the order and the defaults of the arguments; what they may be is the studio's to say.
"""

import inspect
import uuid
from collections.abc import Callable, Iterator, Sequence

import gradio as gr
from gradio.components.api_component import Api
from gradio.exceptions import InvalidPathError
from PIL import Image

from mmdemo.arguments import shown
from mmdemo.errors import ArgumentError
from mmdemo.ui.browser import MODELS, said_plainly

TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
GRID = {"type": "array", "items": {"type": "array", "items": WHOLE}}
KINDS = {
    **dict.fromkeys(("pack", "label", "other_label", "sampler", "invert", "x", "y"), TEXT),
    **dict.fromkeys(("code", "by", "count", "seed", "other_seed", "steps", "size"), WHOLE),
    **dict.fromkeys(("guidance", "strength"), NUMBER),
    **dict.fromkeys(("image", "other"), gr.Image().api_info()),
    **{"xs": {"type": "array", "items": {}}, "ys": {"type": "array", "items": {}}},
    **{"tokens": GRID, "interval": {"type": "array", "items": NUMBER}},
}


class Page(gr.Blocks):
    """gradio's page, except that a request may leave out an endpoint's last arguments, which then have their defaults.

    A raw request is a list, and gradio alone answers a short one with an error of its own.
    """

    def validate_inputs(self, block_fn, inputs: list) -> None:
        left_out = block_fn.inputs[len(inputs) :]
        inputs += [argument.value for argument in left_out if isinstance(argument, Api)]
        super().validate_inputs(block_fn, inputs)

    async def preprocess_data(self, *args, **options) -> list:
        try:
            return await super().preprocess_data(*args, **options)
        except (InvalidPathError, ValueError):  # gradio's own words on an address it would not or could not fetch
            raise gr.Error(
                "a picture is a file that was not uploaded; upload it first", print_exception=False
            ) from None


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

    def replace(pack, tokens, code, by):
        """The picture of a grid of token ids, the same with one code in another's place, and what that changes."""
        made = studio.replace(pack, tokens, code, by)
        return own_file(made.before), own_file(made.after), own_file(made.difference), made.json()

    def code_map(pack):
        """Every code as a point on the plane in which the codes differ most."""
        return studio.code_map(pack).json()

    def interpolate(pack, image, other, count=7, invert="auto", size=None):
        """From one picture to another: through the latents, and token by token."""
        made = studio.interpolate(pack, uploaded(image), uploaded(other, "other"), count, invert, size)
        return gallery(made.latent, made.shares), gallery(made.tokens, made.shares), made.json()

    def sample(pack, label, count=1, seed=None, steps=None, guidance=None, sampler=None, interval=None):
        """New pictures of a class, or of `all`: picture i has seed + i. None is the pack's default, or a drawn seed."""
        drawn = studio.sample(pack, label, count, seed, steps, guidance, sampler, interval)
        return gallery(drawn.images, drawn.labels), drawn.json()

    def denoise(pack, label, seed=None, steps=None, guidance=None, sampler=None, interval=None) -> Iterator[tuple]:
        """The guess of one new picture after every step; the last one is the result."""
        for frame in studio.denoise(pack, label, seed, steps, guidance, sampler, interval):
            yield own_file(frame.x0), frame.json()

    def noise(pack, image, seed=None, steps=None, sampler=None, invert="auto") -> Iterator[tuple]:
        """A picture under ever more noise, at the times at which it would be denoised."""
        for frame in studio.noise(pack, uploaded(image), seed, steps, sampler, invert):
            yield own_file(frame.image), frame.json()

    def edit(
        pack, image, label, strength=0.8, seed=None, steps=None, guidance=None, sampler=None, invert="auto",
        interval=None,
    ):  # fmt: skip
        """A picture noised part of the way and denoised with a label. strength: the share of the steps to take."""
        made = studio.edit(pack, uploaded(image), label, strength, seed, steps, guidance, sampler, invert, interval)
        return own_file(made.image), made.json()

    def compare(
        pack, x, xs, y, ys, label=None, seed=None, steps=None, guidance=None, sampler=None, interval=None
    ) -> Iterator[tuple]:
        """A picture for every pair of values of two settings, row by row. x, y: names; xs, ys: lists of values."""
        for cell in studio.compare(pack, x, xs, y, ys, label, seed, steps, guidance, sampler, interval):
            yield own_file(cell.image), cell.json()

    def morph(
        pack, label, other_label=None, seed=None, other_seed=None, count=7, steps=None, guidance=None, sampler=None,
        interval=None,
    ):  # fmt: skip
        """Pictures between two labels, two seeds, or both."""
        rest = (count, steps, guidance, sampler, interval)
        made = studio.morph(pack, label, other_label, seed, other_seed, *rest)
        return gallery(made.images, made.shares), made.json()

    with gr.Column(visible=False):
        expose(packs, lambda: [gr.JSON(label="packs")])
        expose(codebook, lambda: [png("sheet"), gr.JSON(label="numbers")])
        expose(code, lambda: [png("card"), gr.JSON(label="numbers")])
        expose(reconstruct, lambda: [png("reconstruction"), png("token map"), gr.JSON(label="numbers")], **MODELS)
        expose(decode, lambda: [png("image")], **MODELS)
        expose(replace, lambda: [png("before"), png("after"), png("difference"), gr.JSON(label="numbers")], **MODELS)
        expose(code_map, lambda: [gr.JSON(label="numbers")])
        expose(interpolate, lambda: [pngs("latents"), pngs("tokens"), gr.JSON(label="numbers")], **MODELS)
        expose(sample, lambda: [pngs("images"), gr.JSON(label="numbers")], **MODELS)
        expose(denoise, lambda: [png("x0"), gr.JSON(label="numbers")], **MODELS)
        expose(noise, lambda: [png("x_t"), gr.JSON(label="numbers")], **MODELS)
        expose(edit, lambda: [png("image"), gr.JSON(label="numbers")], **MODELS)
        expose(compare, lambda: [png("image"), gr.JSON(label="numbers")], **MODELS)
        expose(morph, lambda: [pngs("images"), gr.JSON(label="numbers")], **MODELS)


def expose(answer: Callable, outputs: Callable[[], list], **options) -> None:
    """An endpoint named like the function, which takes the function's own arguments."""
    inputs = [argument(parameter) for parameter in inspect.signature(answer).parameters.values()]
    gr.Button(visible=False).click(
        said_plainly(answer, quote=str), inputs, outputs(), api_name=answer.__name__, show_progress="hidden", **options
    )


def argument(parameter: inspect.Parameter) -> gr.components.Component:
    default = None if parameter.default is inspect.Parameter.empty else parameter.default
    return Api(default, KINDS[parameter.name], parameter.name)


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


def pngs(label: str) -> gr.Gallery:
    return gr.Gallery(format="png", label=label)


def gallery(pictures: list[Image.Image], captions: Sequence) -> list[tuple[Image.Image, str]]:
    return [(own_file(picture), str(caption)) for picture, caption in zip(pictures, captions, strict=True)]


def uploaded(image, name: str = "image") -> str:
    """The path of an uploaded file. Only files sent by a client carry gradio's mark; any other path is refused."""
    marked = isinstance(image, dict) and isinstance(image.get("meta"), dict)
    if not marked or image["meta"].get("_type") != "gradio.FileData" or not isinstance(image.get("path"), str):
        example = "with gradio_client: handle_file('picture.png')"
        raise ArgumentError(f"{name} is {shown(image)}; it must be an uploaded image file; {example}")
    return image["path"]
