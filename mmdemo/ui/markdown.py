"""A pack's card as HTML that can do nothing: whoever wrote it, it runs no script and asks nothing of another machine.

The markdown is a library's. What is let through is decided here: no HTML of the writer's own, pictures of the pack
alone, and links to be clicked.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mmdemo import images
from mmdemo.errors import ImageError, PackError
from mmdemo.packs import Pack
from mmdemo.ui.browser import data_uri

if TYPE_CHECKING:
    from markdown_it.token import Token

CARD = "README.md"
MAX_TEXT = 200_000  # bytes of a card
MAX_PICTURES = 8_000_000  # bytes of all its pictures
MAX_SHOWN = 50  # pictures: each is decoded, which takes longer the more it claims
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)  # what the Hub reads of a card
KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


def card(pack: Pack) -> str:
    """A pack's card.  Raises PackError if it has none, or one too long to be shown."""
    from markdown_it import MarkdownIt

    file = pack.path / CARD
    if not file.is_file():
        raise PackError(f"pack {pack.name!r} has no card: there is no {CARD} in it")
    if file.stat().st_size > MAX_TEXT:
        raise PackError(f"the card of {pack.name!r} is longer than the {MAX_TEXT} bytes that are shown")
    text = FRONT_MATTER.sub("", file.read_text(encoding="utf-8-sig", errors="replace"))
    # HTML is recognized, to be left out; were it not, it would stand there as text.
    markdown = MarkdownIt("js-default", {"html": True})
    markdown.add_render_rule("html_block", _nothing)
    markdown.add_render_rule("html_inline", _nothing)
    tokens, left, many = markdown.parse(text), MAX_PICTURES, MAX_SHOWN
    for token in (one for block in tokens for one in block.children or ()):
        if token.type == "image":
            many -= 1
            left -= _show(token, pack.path, left if many >= 0 else 0)
        if token.type == "link_open":
            _lead_elsewhere(token)
    return markdown.renderer.render(tokens, markdown.options, {})


def _nothing(*_) -> str:
    return ""


def _show(token: Token, pack: Path, left: int) -> int:
    """Puts the picture itself into the card, if it is one of the pack's, and else its words. Returns its bytes."""
    name = Path(unquote(str(token.attrGet("src"))))
    file, kind = pack / name, KINDS.get(name.suffix.lower())
    # Links out of the pack there are none (checks.py), but in hidden folders, into which nobody looks.
    inside = not name.is_absolute() and not any(part.startswith(".") for part in name.parts)
    if kind and inside and os.path.isfile(file):  # of a Path, is_file() fails at a name that is too long
        size = file.stat().st_size
        if size <= left and _is_picture(file):
            token.attrSet("src", data_uri(file.read_bytes(), kind))
            return size
    token.type, token.tag = "text", ""
    return 0


def _is_picture(file: Path) -> bool:
    """Whether it can be opened, and takes no more memory than is allowed: a small file can claim gigabytes."""
    try:
        images.open_image(file)
    except ImageError:
        return False
    return True


def _lead_elsewhere(token: Token) -> None:
    """A link to another site opens beside the page and is not told of it; any other leads nowhere from here."""
    address = str(token.attrGet("href"))
    token.attrs = {}
    if address.startswith(("https://", "http://")):
        token.attrs = {"href": address, "target": "_blank", "rel": "noopener noreferrer nofollow"}
