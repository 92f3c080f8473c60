"""The pack list: one card a pack over the tabs, and which pack the page opens on.

Knows what a card says. How the cards look and which is marked is static/packs.js.
"""

import gradio as gr

from mmdemo.packs import Pack
from mmdemo.studio import Studio
from mmdemo.ui.browser import picture, widget
from mmdemo.ui.messages import Card, Cards, Text, message

FIRST = ("faces", "mnist")  # to ask for faces in words shows most at once; digits are the quickest to understand


def build() -> gr.HTML:
    """The cards, whose value is the name of the pack that all tabs show."""
    return widget("packs", elem_id="pack", cards="")


def opens_on(packs: list[Pack]) -> str | None:
    """The pack that the page opens with; None without a usable pack."""
    usable = [pack for pack in packs if not pack.problem]
    names = [pack.name for pack in usable]
    drawing = [pack.name for pack in usable if pack.can_sample]
    return next((name for name in (*FIRST, *drawing, *names) if name in names), None)


def listed(studio: Studio) -> tuple[dict, str]:
    """The cards, and one line on every pack that cannot be opened."""
    packs = studio.packs()
    cards = [Card(pack.name, in_words(pack), picture(studio.cover(pack.name))) for pack in packs if not pack.problem]
    problems = [f"{pack.name} cannot be opened: {pack.problem}" for pack in packs if pack.problem]
    if not cards:
        problems.append("There is no pack to open. Train one: python -m mmdemo train vqvae --pack NAME --dataset mnist")
    return gr.update(value=opens_on(packs), cards=message(Cards(cards))), message(Text("\n".join(problems)))


def in_words(pack: Pack) -> str:
    codes = f"{pack.codes} codes" if pack.codes else "no codebook"
    if not pack.can_sample:
        return f"codec only, {codes}"
    classes = f"{len(pack.classes)} class{'es' * (len(pack.classes) != 1)}"
    size = f"{pack.image_size}\u00a0×\u00a0{pack.image_size}"
    return f"{'reads words' if pack.words else classes}, {codes}, {size}"
