"""The Codebook tab: every code, how often it is used, and one of them up close, also in a picture.

Knows what the studio says of a codebook; how it is drawn is static/codebook.js, map.js and places.js. All but the
picture is read from files, so it is there before any model is loaded.
"""

from collections.abc import Callable

import gradio as gr
from PIL import Image

from mmdemo.errors import MmdemoError
from mmdemo.ui.browser import OPENING, PRIVATE, picture, speaker, widget
from mmdemo.ui.pictures import examples, seen_at, size_of
from mmdemo.ui.settings import about, kept
from mmdemo.ui.surgery import asked
from mmdemo.views import PackInfo


def build(studio, pack: gr.components.Component, opened: Callable) -> None:
    """The tab's contents. `opened(show, inputs, outputs)` calls show whenever a pack is opened."""
    functions = [code_reader(studio), replacer(studio)]
    book = widget("codebook", "map", "places", elem_id="codebook-view", server_functions=functions, picture="")
    contents = kept(lambda info: everything(studio, info.name))  # a second to make for 4096 codes

    def show(name: str) -> str:
        tell = speaker()
        try:
            return tell(**contents(about(studio, name)))
        except MmdemoError as error:
            return tell(text=str(error))

    @kept
    def first_picture(info: PackInfo) -> dict:
        seen = seen_at(studio, info, examples(studio, info)[0], "auto", size_of(info, None))
        return {"pack": info.name, "subject": "Example 1", "tokens": seen.tokens, "image": picture(seen.image)}

    def show_picture(name: str) -> dict:
        tell = speaker()
        try:
            studio.load(name)
            return gr.update(picture=tell(**first_picture(about(studio, name))))
        except MmdemoError as error:
            return gr.update(picture=tell(pack=name, text=str(error)))

    opened(show, [pack], [book], **PRIVATE)
    opened(show_picture, [pack], [book], **OPENING, **PRIVATE)  # for want of one in Reconstruct


def everything(studio, pack: str) -> dict:
    """What static/codebook.js shows of a pack's codebook."""
    book, plane = studio.codebook(pack), studio.code_map(pack)
    total = max(1, sum(book.counts))
    # Begin with a code of middling use: the most used ones are often mere background, the least used are oddities.
    by_use = sorted(range(book.codes), key=book.counts.__getitem__, reverse=True)
    chosen = by_use[book.used // 2]
    return {
        "pack": pack,
        "codes": book.codes,
        "swatches": picture(book.swatches),
        "swatch_size": book.swatch_size,
        "columns": book.columns,
        "order": book.order,
        "counts": book.counts,
        "points": plane.points,
        "explained": percent(plane.explained),
        "colours": colours(book),
        "shares": [percent(count / total) for count in book.counts],
        "usage": f"Usage of the {book.codes} codes, from {percent(max(book.counts) / total)} of all tokens "
        f"down to {percent(min(book.counts) / total)}",
        "tiles": [
            ("Codes", f"{book.codes}", f"patterns to choose from, {book.dim} numbers each"),
            ("Used", f"{book.used}", f"chosen at least once in training: {book.used / book.codes:.1%}"),
            ("Perplexity", f"{book.perplexity:.1f}", "in training: as many codes, used equally, would be as varied"),
            ("Bits per token", f"{book.bits_per_token:.2f}", "to say which code a token is"),
        ],
        "chosen": chosen,
        "card": code_reader(studio)([pack, chosen]),
    }


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


def replacer(studio) -> Callable[[list], dict]:
    @asked
    def replace_code(pack: str, tokens: list, code: int, by: int) -> dict:
        made = studio.replace(pack, tokens, code, by)
        pictures = {name: picture(getattr(made, name)) for name in ("before", "after", "difference")}
        return pictures | {"count": len(made.places)}

    return replace_code


def colours(book) -> list[str]:
    """The average colour of every code's swatch, by code."""
    rows = book.swatches.height // book.swatch_size
    small = book.swatches.convert("RGB").resize((book.columns, rows), Image.Resampling.BOX)
    rgb = small.tobytes()
    place = {code: n for n, code in enumerate(book.order)}
    return [f"#{rgb[3 * place[code] : 3 * place[code] + 3].hex()}" for code in range(book.codes)]


def swatch(book, code: int) -> Image.Image:
    n, size = book.order.index(code), book.swatch_size  # the sprite is in display order
    x, y = n % book.columns * size, n // book.columns * size
    return book.swatches.crop((x, y, x + size, y + size))


def percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.0001 or not share else "< 0.01%"
