"""The pack list: one card a pack over the tabs, and which pack a tab opens on until somebody has chosen one.

Knows what a card says. How the cards look and which is marked is static/packs.js.
"""

import gradio as gr

from mmdemo.packs import Pack
from mmdemo.studio import Studio
from mmdemo.ui.browser import PRIVATE, picture, widget
from mmdemo.ui.messages import Card, Cards, Text, message

FIRST = ("faces", "mnist")  # to ask for faces in words shows most at once; digits are the quickest to understand
FIRST_SEEN = "photos"  # what most people would put through a codec


def build(studio: Studio) -> tuple[gr.HTML, gr.Textbox]:
    """The cards, whose value is the pack's name, and the pack that Reconstruct shows: another, until one is chosen."""
    pack = widget("packs", elem_id="pack", cards="")
    seen = gr.Textbox(visible="hidden")
    # In the browser, so that of several quick choices the last one counts whatever the server answers first.
    pack.choose(None, [pack], [seen], js="(name) => name", trigger_mode="multiple", **PRIVATE)
    return pack, seen


def opens_on(packs: list[Pack]) -> tuple[str | None, str | None]:
    """The pack that the page opens with, and the one that Reconstruct opens with; None without a usable pack."""
    usable = [pack for pack in packs if not pack.problem]
    names = [pack.name for pack in usable]
    drawing = [pack.name for pack in usable if pack.can_sample]
    page = next((name for name in (*FIRST, *drawing, *names) if name in names), None)
    return page, FIRST_SEEN if FIRST_SEEN in names else page


def listed(studio: Studio) -> tuple[dict, str | None, str]:
    """The cards, the pack that Reconstruct opens with, and one line on every pack that cannot be opened."""
    packs = studio.packs()
    page, seen = opens_on(packs)
    cards = [Card(pack.name, in_words(pack), picture(studio.cover(pack.name))) for pack in packs if not pack.problem]
    problems = [f"{pack.name} cannot be opened: {pack.problem}" for pack in packs if pack.problem]
    if not cards:
        problems.append("There is no pack to open. Train one: python -m mmdemo train vqvae --pack NAME --dataset mnist")
    return gr.update(value=page, cards=message(Cards(cards, seen))), seen, message(Text("\n".join(problems)))


def in_words(pack: Pack) -> str:
    codes = f"{pack.codes} codes" if pack.codes else "no codebook"
    if not pack.can_sample:
        return f"codec only, {codes}"
    classes = f"{len(pack.classes)} class{'es' * (len(pack.classes) != 1)}"
    size = f"{pack.image_size}\u00a0×\u00a0{pack.image_size}"
    return f"{'reads words' if pack.words else classes}, {codes}, {size}"
