"""Token surgery in the Reconstruct tab: what static/surgery.js asks while tokens are being changed.

Knows what the studio says of ids and of a second picture; which token becomes which is decided in the browser.
"""

import threading
from collections.abc import Callable

from PIL import Image

from mmdemo.errors import MmdemoError
from mmdemo.ui.browser import picture
from mmdemo.ui.pictures import examples, seen_at, sent
from mmdemo.ui.settings import about

AT_ONCE = threading.BoundedSemaphore(4)  # such questions pass gradio's queue by


def asked(answer: Callable[..., dict]) -> Callable[[list], dict]:
    """What a script calls as server.NAME(...): gradio sends its arguments as one list; a refusal is an `error`."""

    def respond(request: list) -> dict:
        try:
            with AT_ONCE:
                return answer(*request)
        except MmdemoError as error:
            return {"error": str(error)}

    respond.__name__ = answer.__name__
    return respond


def answers(studio) -> list[Callable[[list], dict]]:
    """Everything that surgery asks of Python."""

    @asked
    def decode_tokens(pack: str, tokens: list) -> dict:
        return {"image": picture(studio.decode(pack, tokens))}

    @asked
    def second_picture(pack: str, source: int | str, side: int, invert: str) -> dict:
        """source: an example's number, or a file as a data URI."""
        info = about(studio, pack)
        image = examples(studio, info)[source] if isinstance(source, int) else sent(source)
        seen = seen_at(studio, info, image, invert, side)
        return {"original": picture(seen.original), "image": picture(seen.image), "tokens": seen.tokens}

    @asked
    def between(pack: str, image: str, other: str, side: int) -> dict:
        """image, other: pictures as the model saw them."""
        size = None if side == about(studio, pack).image_size else side
        ends = [Image.open(sent(uri), formats=("PNG",)) for uri in (image, other)]
        strips = studio.interpolate(pack, *ends, invert="no", size=size)
        return {
            "latent": [picture(one) for one in strips.latent],
            "tokens": [picture(one) for one in strips.tokens],
            "shares": strips.shares,
        }

    return [decode_tokens, second_picture, between]
