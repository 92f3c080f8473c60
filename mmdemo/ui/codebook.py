"""The Codebook tab: every code, how often it is used, and one of them up close, also in a picture.

Knows what the studio says of a codebook; how it is drawn is static/codebook.js, map.js and places.js. All but the
picture is read from files, so it is there before any model is loaded.
"""

from collections.abc import Callable

import gradio as gr
from PIL import Image

from mmdemo.errors import MmdemoError
from mmdemo.packs import Pack
from mmdemo.results import Codebook
from mmdemo.studio import Studio
from mmdemo.ui.browser import OPENING, PRIVATE, answered, picture, widget
from mmdemo.ui.messages import Book, CodeCard, NearCode, Text, TokenPicture, speaker
from mmdemo.ui.pictures import examples, seen_at, size_of
from mmdemo.ui.workbench import once_a_pack

UNCOUNTED = "how often it is used is not known: this pack came without a codebook/ folder"


def build(studio: Studio, pack: gr.components.Component, opened: Callable) -> None:
    """The tab's contents. `opened(show, inputs, outputs)` calls show whenever a pack is opened."""
    functions = [code_reader(studio), replacer(studio)]
    book = widget("codebook", elem_id="codebook-view", server_functions=functions, picture="")
    contents = once_a_pack(lambda pack: everything(studio, pack))  # a second to make for 4096 codes

    def show(name: str) -> str:
        tell = speaker()
        try:
            return tell(contents(studio.pack(name)))
        except MmdemoError as error:
            return tell(Text(str(error)))

    @once_a_pack
    def first_picture(pack: Pack) -> TokenPicture:
        seen = seen_at(studio, pack, examples(studio, pack)[0], "auto", size_of(pack, None))
        return TokenPicture(pack.name, "Example 1", seen.tokens, picture(seen.image))

    def show_picture(name: str) -> dict:
        tell = speaker()
        try:
            studio.load(name)
            return gr.update(picture=tell(first_picture(studio.pack(name))))
        except MmdemoError as error:
            return gr.update(picture=tell(Text(str(error), pack=name)))

    opened(show, [pack], [book], **PRIVATE)
    opened(show_picture, [pack], [book], **OPENING, **PRIVATE)  # for want of one in Reconstruct


def everything(studio: Studio, pack: Pack) -> Book:
    """What static/codebook.js shows of a pack's codebook."""
    book, plane = studio.codebook(pack.name), studio.code_map(pack.name)
    counts = book.counts or [0] * book.codes  # of a published pack nobody counted
    total = max(1, sum(counts))
    tiles = [("Codes", f"{book.codes}", f"patterns to choose from, {book.dim} numbers each")]
    if book.counts:
        tiles += [
            ("Used", f"{book.used}", f"chosen at least once in training: {book.used / book.codes:.1%}"),
            ("Perplexity", f"{book.perplexity:.1f}", "in training: as varied as this many codes used equally"),
        ]
    # Begin with a code of middling use: the most used ones are often mere background, the least used are oddities.
    by_use = sorted(range(book.codes), key=counts.__getitem__, reverse=True)
    chosen = by_use[(book.used or 0) // 2]
    return Book(
        pack=pack.name,
        codes=book.codes,
        swatches=picture(book.swatches),
        swatch_size=book.swatch_size,
        columns=book.columns,
        order=book.order,
        counts=counts,
        points=plane.points,
        explained=percent(plane.explained),
        colours=colours(book),
        shares=[percent(count / total) if book.counts else "an unknown share" for count in counts],
        usage=f"Usage of the {book.codes} codes, from {percent(max(counts) / total)} of all tokens "
        f"down to {percent(min(counts) / total)}"
        if book.counts
        else None,
        tiles=[*tiles, ("Bits per token", f"{book.bits_per_token:.2f}", "to say which code a token is")],
        chosen=chosen,
        card=code_card(studio, book, pack.name, chosen),
    )


def code_card(studio: Studio, book: Codebook, pack: str, code: int) -> CodeCard:
    one = studio.code(pack, code)
    return CodeCard(
        code=one.code,
        share="" if one.count is None else percent(one.share),
        usage=UNCOUNTED if one.count is None else f"of all tokens: {one.count:,} in the training pictures",
        swatch=picture(one.swatch),
        nearest=[
            NearCode(near["code"], f"{near['distance']:.2f}", picture(book.swatch(near["code"])))
            for near in one.nearest
        ],
        patches=[picture(patch) for patch in one.patches],
    )


def code_reader(studio: Studio) -> Callable[[list], dict]:
    """What a script calls as server.describe_code(pack, code): one code's card, wherever a token is shown."""
    book_of = once_a_pack(lambda pack: studio.codebook(pack.name))

    @answered
    def describe_code(pack: str, code: int) -> CodeCard:
        return code_card(studio, book_of(studio.pack(pack)), pack, code)

    return describe_code


def replacer(studio: Studio) -> Callable[[list], dict]:
    @answered
    def replace_code(pack: str, tokens: list, code: int, by: int) -> dict:
        made = studio.replace(pack, tokens, code, by)
        pictures = {name: picture(getattr(made, name)) for name in ("before", "after", "difference")}
        return pictures | {"count": len(made.places)}

    return replace_code


def colours(book: Codebook) -> list[str]:
    """The average colour of every code's swatch, by code."""
    rows = book.swatches.height // book.swatch_size
    small = book.swatches.convert("RGB").resize((book.columns, rows), Image.Resampling.BOX)
    rgb = small.tobytes()
    place = {code: n for n, code in enumerate(book.order)}
    return [f"#{rgb[3 * place[code] : 3 * place[code] + 3].hex()}" for code in range(book.codes)]


def percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.0001 or not share else "< 0.01%"
