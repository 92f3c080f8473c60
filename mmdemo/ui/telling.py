"""What a pack says of a picture, in words or by its class: in the Reconstruct tab and in the Sample tab.

Knows which of the two a pack can do, and how a run of it is told while it goes on. static/description.js shows it.
"""

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

from PIL import Image

from mmdemo.packs import Pack, read_words
from mmdemo.results import Classification, Description, Guess, Reading
from mmdemo.studio import Studio
from mmdemo.ui.browser import picture, sparingly, widget
from mmdemo.ui.messages import Described, Explained, Text, speaker
from mmdemo.ui.turns import in_turns
from mmdemo.ui.workbench import waiting

QUESTIONS = {"describe": "Describe", "classify": "What is it?"}  # by the verb that answers them
LIKELIEST = 3  # values shown of an attribute
MOST = 10  # classes shown


def question(studio: Studio, pack: Pack) -> str | None:
    """What can be asked of a picture; None = the pack says nothing."""
    verb = _verb(studio, pack)
    return verb and QUESTIONS[verb]


class Telling:
    """Where it is told. Made where it is to stand."""

    def __init__(self, studio: Studio, elem_id: str):
        self._studio = studio
        self._latest: dict[str, object] = {}  # the answer that is wanted, by session
        self.view = widget("description", elem_id=elem_id)

    def ask(self, name: str, chosen: Callable[[Pack], Any], invert: str, session: str) -> Iterator[str]:
        """What to send to the view; a later question of the same session takes its place.  chosen: the picture."""
        tell, me = speaker(), object()
        self._latest[session] = me
        for text in waiting(self._studio, name):
            yield tell(Text(text))
        pack = self._studio.pack(name)
        run = getattr(self._studio, _verb(self._studio, pack) or "classify")(name, chosen(pack), invert)
        try:
            yield tell(Text("Looking at the picture…"))
            for new in sparingly(takewhile(lambda _: self._latest.get(session) is me, in_turns(run))):
                yield tell(unfinished(new[-1]))
            if self._latest.get(session) is me:
                yield tell(finished(run.result()))
        finally:
            run.close()
            if self._latest.get(session) is me:
                del self._latest[session]


def _verb(studio: Studio, pack: Pack) -> str | None:
    if pack.words and hasattr(studio, "describe") and read_words(pack).lexicon.phrases:
        return "describe"
    return "classify" if pack.classes and pack.can_sample and hasattr(studio, "classify") else None


def unfinished(last: Reading | Guess) -> Described:
    if isinstance(last, Reading):
        return Described(f"Step {last.index + 1} of {last.total}: {last.text}…")
    return Described("Looking at the picture…", [("class", _likeliest(last.probabilities))])


def finished(made: Description | Classification) -> Described:
    known = "it is sure even of pictures that it does not know."
    if isinstance(made, Classification):
        return Described(
            made.label,
            [("class", _likeliest(made.probabilities))],
            [_explained(made.label, f"Where “{made.label}” explains more than “{made.other}” does", made.map)],
            [f"The probabilities are the model's, among its own classes: {known}", f"Read in {made.seconds:.1f} s."],
        )
    attributes = []
    for name, values in made.attributes.items():
        best = sorted(values.items(), key=lambda one: one[1], reverse=True)[:LIKELIEST]
        attributes.append((name.replace("_", " "), _rounded(best)))
    return Described(
        made.text,
        attributes,
        [_explained(word, f"Where “{word}” comes from", image) for word, image in made.maps],
        [f"The probabilities are the model's, among its own words: {known}", f"Described in {made.seconds:.1f} s."],
        made.notice,
    )


def _explained(word: str, caption: str, image: Image.Image) -> Explained:
    return Explained(word, caption, picture(image, exact=False))


def _likeliest(probabilities: dict[str, float]) -> list[tuple[str, float]]:
    """In the pack's order, so that bars stay where they are as they fill; of many classes the likeliest, which come
    and go."""
    kept = sorted(probabilities, key=probabilities.get, reverse=True)[:MOST]
    return _rounded([(name, share) for name, share in probabilities.items() if name in kept])


def _rounded(shares: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(name, round(share, 4)) for name, share in shares]
