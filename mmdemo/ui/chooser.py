"""The pack list: one card a pack over the tabs, and which pack the page opens on.

Knows what a card says, and what may be asked of the Hub from the page. How the cards look, which is marked and which
are found by a search is static/packs.js.
"""

import gradio as gr

from mmdemo import hub, provenance
from mmdemo.errors import ArgumentError
from mmdemo.packs import Pack
from mmdemo.studio import Studio
from mmdemo.ui import markdown
from mmdemo.ui.browser import answered, picture, widget
from mmdemo.ui.messages import Awaited, Card, Cards, ModelCard, Text, message

FIRST = ("faces", "mnist")  # to ask for faces in words shows most at once; digits are the quickest to understand


def build(studio: Studio, allow_pull: bool = False) -> gr.HTML:
    """The cards, whose value is the name of the pack that all tabs show.

    allow_pull: whether whoever sees the page may have any repository fetched. If not, nothing here does that.
    """

    def listing() -> Cards:
        return cards(studio, *seen(studio))

    def fetching() -> dict[str, float]:  # what many pages ask for at once, every second
        return studio.fetching

    def model_card(name: str) -> ModelCard:
        return ModelCard(markdown.card(studio.pack(name)))

    def try_again(name: str) -> Cards:
        if name not in studio.hub:
            raise ArgumentError("that repository is not one of this page; whoever starts the app chooses them")
        studio.fetch(name)
        return listing()

    def pull(repo: str) -> Cards:
        hub.parts(str(repo))  # what cannot be a repository is refused before it is in the list
        studio.fetch(repo)
        return listing()

    functions = [listing, fetching, model_card, try_again, *([pull] if allow_pull else [])]
    return widget("packs", elem_id="pack", cards="", server_functions=[answered(one) for one in functions])


def opens_on(packs: list[Pack]) -> str | None:
    """The pack that the page opens with; None without a usable pack."""
    usable = [pack for pack in packs if not pack.problem]
    names = [pack.name for pack in usable]
    drawing = [pack.name for pack in usable if pack.can_sample]
    return next((name for name in (*FIRST, *drawing, *names) if name in names), None)


def listed(studio: Studio) -> tuple[dict, str]:
    """The cards, and one line on every pack of a folder that cannot be opened."""
    found, coming = seen(studio)
    shown = cards(studio, found, coming)
    told = {one.name for one in (*shown.cards, *shown.awaited)}
    problems = [f"{one.name} cannot be opened: {one.problem}" for one in found if one.name not in told]
    if not told:
        problems.append("There is no pack to open. Train one: python -m mmdemo train vqvae --pack NAME --dataset mnist")
    return gr.update(value=opens_on(found), cards=message(shown)), message(Text("\n".join(problems)))


def seen(studio: Studio) -> tuple[list[Pack], dict[str, float]]:
    """Every pack, and how much has come of those on their way, the latter before and after: what came or was begun in
    between is taken to be on its way still, and asked for once more."""
    before, found = studio.fetching, studio.packs()
    return found, before | studio.fetching


def cards(studio: Studio, found: list[Pack], coming: dict[str, float]) -> Cards:
    usable = [one for one in found if not one.problem]
    return Cards(
        [Card(one.name, in_words(one), *origin(one), picture(studio.cover(one.name))) for one in usable],
        [
            Awaited(one.name, coming[one.name]) if one.name in coming else Awaited(one.name, problem=one.problem)
            for one in found
            if one.problem and one.name in studio.hub
        ],
    )


def in_words(pack: Pack) -> str:
    codes = f"{pack.codes} codes" if pack.codes else "no codebook"
    if not pack.can_sample:
        return f"codec only, {codes}"
    classes = f"{len(pack.classes)} class{'es' * (len(pack.classes) != 1)}"
    size = f"{pack.image_size}\u00a0×\u00a0{pack.image_size}"
    return f"{'reads words' if pack.words else classes}, {codes}, {size}"


def origin(pack: Pack) -> tuple[str, str]:
    """Where it comes from, in a word or two and in full."""
    if pack.source:
        repo, _, commit = pack.source.rpartition("@")
        return f"Hub at {commit[:7]}", f"From the Hugging Face Hub: {repo} at {commit}"
    if provenance.is_shipped(pack.path):
        return "shipped", "Shipped with the app"
    if (pack.path / provenance.TRAINING).is_file():
        return "trained here", "Trained here"
    return "from a folder", "Put here as a folder"
