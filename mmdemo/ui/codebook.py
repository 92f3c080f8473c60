"""The Codebook tab: every code, how often it is used, and one of them up close.

Knows what the studio says of a codebook; how it is drawn is static/codebook.js. Reads files only, so it answers
before any model is loaded.
"""

from collections.abc import Callable

import gradio as gr
from PIL import Image

from mmdemo.errors import MmdemoError
from mmdemo.ui.browser import PRIVATE, message, picture, widget
from mmdemo.ui.settings import about, kept


def build(studio, pack: gr.components.Component, opened: Callable) -> None:
    """The tab's contents. `opened(show, inputs, outputs)` calls show whenever a pack is opened."""
    book = widget("codebook", elem_id="codebook-view", server_functions=[code_reader(studio)])
    shown = kept(lambda info: codebook_message(studio, info.name))  # a second to make for 4096 codes

    def show(name: str) -> str:
        try:
            return shown(about(studio, name))
        except MmdemoError as error:
            return message(text=str(error))

    opened(show, [pack], [book], **PRIVATE)


def codebook_message(studio, pack: str) -> str:
    book = studio.codebook(pack)
    total = max(1, sum(book.counts))
    # Begin with a code of middling use: the most used ones are often mere background, the least used are oddities.
    by_use = sorted(range(book.codes), key=book.counts.__getitem__, reverse=True)
    chosen = by_use[book.used // 2]
    return message(
        pack=pack,
        codes=book.codes,
        swatches=picture(book.swatches),
        swatch_size=book.swatch_size,
        columns=book.columns,
        order=book.order,
        counts=book.counts,
        shares=[percent(count / total) for count in book.counts],
        usage=f"Usage of the {book.codes} codes, from {percent(max(book.counts) / total)} of all tokens "
        f"down to {percent(min(book.counts) / total)}",
        tiles=[
            ("Codes", f"{book.codes}", f"patterns to choose from, {book.dim} numbers each"),
            ("Used", f"{book.used}", f"chosen at least once in training: {book.used / book.codes:.1%}"),
            ("Perplexity", f"{book.perplexity:.1f}", "as many codes, used equally, would be as varied"),
            ("Bits per token", f"{book.bits_per_token:.2f}", "to say which code a token is"),
        ],
        chosen=chosen,
        card=code_reader(studio)([pack, chosen]),
    )


def code_reader(studio) -> Callable[[list], dict]:
    """What a script calls as server.describe_code(pack, code): one code's card, for this tab and for Reconstruct."""

    book_of = kept(lambda info: studio.codebook(info.name))

    def describe_code(request: list) -> dict:
        pack, code = request
        try:
            card, book = studio.code(pack, code), book_of(about(studio, pack))
        except MmdemoError as error:
            return {"error": str(error)}
        return {
            "code": card.code,
            "share": percent(card.share),
            "usage": f"of all tokens: {card.count:,} in the training pictures",
            "swatch": picture(card.swatch),
            "nearest": [
                {"code": k["code"], "distance": f"{k['distance']:.2f}", "swatch": picture(swatch(book, k["code"]))}
                for k in card.nearest
            ],
            "patches": [picture(patch) for patch in card.patches],
        }

    return describe_code


def swatch(book, code: int) -> Image.Image:
    n, size = book.order.index(code), book.swatch_size  # the sprite is in display order
    x, y = n % book.columns * size, n // book.columns * size
    return book.swatches.crop((x, y, x + size, y + size))


def percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.0001 or not share else "< 0.01%"
