"""Token surgery in the Reconstruct tab: what static/surgery.js asks while tokens are being changed.

Knows what the studio says of ids and of a second picture; which token becomes which is decided in the browser.
"""

from collections.abc import Callable

from mmdemo.kinds import whole
from mmdemo.studio import Studio
from mmdemo.ui.browser import answered, picture
from mmdemo.ui.pictures import examples, seen_at, sent


def answers(studio: Studio) -> list[Callable[[list], dict]]:
    """Everything that surgery asks of Python."""

    @answered
    def decode_tokens(pack: str, tokens: list) -> dict:
        return {"image": picture(studio.decode(pack, tokens))}

    @answered
    def second_picture(pack: str, source: int | str, side: int, invert: str) -> dict:
        """source: an example's number, or a file as a data URI."""
        found = studio.pack(pack)
        if isinstance(source, int):
            offered = examples(studio, found)
            image = offered[whole("example", source, 0, len(offered) - 1)]
        else:
            image = sent(source)
        seen = seen_at(studio, found, image, invert, side)
        return {"original": picture(seen.original), "image": picture(seen.image), "tokens": seen.tokens}

    @answered
    def between(pack: str, image: str, other: str, side: int) -> dict:
        """image, other: pictures as the model saw them."""
        size = None if side == studio.pack(pack).image_size else side
        strips = studio.interpolate(pack, sent(image), sent(other), invert="no", size=size)
        return {
            "latent": [picture(one) for one in strips.latent],
            "tokens": [picture(one) for one in strips.tokens],
            "shares": strips.shares,
        }

    return [decode_tokens, second_picture, between]
