"""Where a picture can come from (an example, a drawing, a file), and at which sizes a codec is shown one.

Knows the pack's examples and gradio's photographs; the studio checks every picture.
"""

import base64
import io
from typing import Any

import gradio as gr
from gradio.media import get_image
from PIL import Image, ImageDraw, ImageOps

from mmdemo.errors import ImageError
from mmdemo.images import open_image
from mmdemo.kinds import MAX_SIDE
from mmdemo.packs import Pack
from mmdemo.results import Reconstruction
from mmdemo.studio import Studio
from mmdemo.ui import messages
from mmdemo.ui.browser import PRIVATE, picture

Source = tuple[str, Any]  # ("example", its number), ("drawing", a data URI) or ("file", its path)
PHOTOGRAPHS = ("cheetah1.jpg", "tower.jpg", "lion.jpg", "cheetah.jpg")  # gradio brings them along
THUMBNAIL = 96


def sizes(pack: Pack) -> list[int]:
    """The sides a person may choose from: the codec's own, and larger ones, which it takes as well."""
    larger = (2, 4) if pack.channels == 3 else ()
    return [pack.image_size, *(side for n in larger if (side := n * pack.image_size) <= MAX_SIDE)]


def size_of(pack: Pack, wanted: int | None) -> int:
    """The wanted side if the pack offers it. Else its own; a mere codec has nothing else to show, so it shows more."""
    offered = sizes(pack)
    return wanted if wanted in offered else offered[0 if pack.can_sample else min(1, len(offered) - 1)]


def seen_at(studio: Studio, pack: Pack, image, invert: str | bool, side: int) -> Reconstruction:
    """What the studio makes of a picture at one of the `sizes`; the pack's own may be beyond the studio's limit."""
    return studio.reconstruct(pack.name, image, invert, None if side == pack.image_size else side)


def examples(studio: Studio, pack: Pack) -> list[str | Image.Image]:
    """What a person may take: photographs for a colour pack, and the pack's own; these first if it reads.

    Those of a pack of classes are its own drawings, which the codec gives back whole; a photograph shows what it loses.
    """
    shipped, own = photographs() if pack.channels == 3 else [], studio.examples(pack.name)
    return (own + shipped if pack.words else shipped + own) or [stand_in()]


def captions(studio: Studio, pack: Pack, source: Source) -> tuple[str, ...]:
    """What a pack that reads says of its own examples, which are offered first; () of other pictures."""
    kind, which = source
    if kind != "example" or not pack.words:
        return ()
    own = studio.captions(pack.name)
    return own[which] if which < len(own) else ()


def photographs() -> list[str]:
    """The files of those PHOTOGRAPHS that this gradio has."""
    found = []
    for name in PHOTOGRAPHS:
        try:
            found.append(get_image(name))
        except (FileNotFoundError, ValueError):
            continue
    return found


def thumbnail(source: str | Image.Image) -> messages.Thumbnail:
    """An example's picture, and whether its pixels are to be seen: those of a small one are, a photograph's are not."""
    image = Image.open(source) if isinstance(source, str) else source
    large = min(image.size) > THUMBNAIL
    small = ImageOps.fit(image.convert("RGB"), (THUMBNAIL, THUMBNAIL)) if large else image
    return messages.Thumbnail(picture(small), smooth=large)


def stand_in(size: int = 256) -> Image.Image:
    """Something to look at in a pack without examples: a ring, bright on dark."""
    image = Image.new("RGB", (size, size), "black")
    box = [size // 4, size // 5, size * 3 // 4, size * 4 // 5]
    ImageDraw.Draw(image).ellipse(box, outline="white", width=size // 10)
    return image


def sent(uri: str) -> io.BytesIO:
    """A file that a script sent as a data URI; whether it is a picture is the studio's to say."""
    try:
        return io.BytesIO(base64.b64decode(uri.partition(",")[2], validate=True))
    except (AttributeError, ValueError):
        raise ImageError("The picture did not arrive whole; send it again.") from None


def drawing(uri: str) -> Image.Image:
    return open_image(sent(uri), "drawing")


def marked(source: Source) -> messages.Source:
    """Which of the ways to choose a picture is to be marked."""
    kind, which = source
    return messages.Source(kind, which if kind == "example" else None)


def refused(taken: gr.events.Dependency, upload: gr.File) -> None:
    """A file that the studio refuses leaves the box again."""
    taken.failure(lambda: None, None, [upload], **PRIVATE)
