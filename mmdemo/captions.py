"""What captions say of pictures: phrases that name the value of an attribute, and in a scene the place of a part.

They are learned from a training split (training/lexicon.py); nothing here knows a language or a list of words.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple
from unicodedata import normalize

HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
TOKEN = re.compile(rf"[{HAN}]|[^\W{HAN}][\u0300-\u036f]*(?:['’-]?[^\W{HAN}][\u0300-\u036f]*)*|\S")
EXAMPLES = 7  # of what can be asked for, that a sentence has room for
MAX_JSON = 1_000_000  # characters, of a stored lexicon
MAX_ENTRIES, MAX_LENGTH = 20_000, 200  # strings in it, and characters of one

Pair = tuple[str, str]  # attribute, value
Words = tuple[str, ...]


class Named(NamedTuple):
    """A place in a caption that names a value.  place: of the part it is said of; None where no place was said."""

    place: str | None
    attribute: str
    value: str
    start: int  # of the caption's characters
    end: int


@dataclass(frozen=True)
class Lexicon:
    """What the captions of a training split say, and how."""

    phrases: dict[str, dict[str, tuple[str, ...]]]  # attribute -> value -> what names it, best first
    places: dict[str, tuple[str, ...]]  # place -> what names it, best first; () in a scene of one part
    values: dict[str, tuple[str, ...]]  # attribute -> every value, most frequent first, named or not
    tags: tuple[str, ...] = ()  # pieces of captions that name values and say nothing else, the longest first
    shared: tuple[str, ...] = ()  # attributes of the whole picture, where others belong to its parts
    parts: str | None = None  # the column that lists the parts

    def named(self, caption: str) -> list[Named]:
        """What a caption names, in its order. What follows a place is said of the part there, up to the next place."""
        tokens = [(_plain(match[0]), match.start(), match.end()) for match in TOKEN.finditer(caption)]
        words = tuple(word for word, _, _ in tokens)
        places = [(start, one) for start, _, one in find(words, self._places)]
        result, place = [], None
        for start, end, (attribute, value) in find(words, self._phrases):
            while places and places[0][0] <= start:
                place = places.pop(0)[1]
            owner = None if attribute in self.shared else place
            result.append(Named(owner, attribute, value, tokens[start][1], tokens[end - 1][2]))
        return result

    def prompt(self, assignment: Mapping[str, str | Mapping[str, str]]) -> str:
        """A caption of tags for attribute -> value, in a scene with parts also place -> attribute -> value.

        A value that no phrase names is left out. Raises ValueError for an attribute, value or place that is unknown.
        """
        said = []
        for place, part in assignment.items():
            if not isinstance(part, Mapping):
                continue
            if place not in self.places:
                raise ValueError(f"no place {place!r}; the captions know {', '.join(self.places) or 'none'}")
            tags = self._tagged(part)
            said.append(": ".join([*self.places[place][:1], tags]) if tags else "")
        said.append(self._tagged({name: value for name, value in assignment.items() if not isinstance(value, Mapping)}))
        return "; ".join(one for one in said if one)

    def examples(self, han: bool) -> list[str]:
        """Pieces of captions that between them name every attribute once, or as many as are shown; those in Han script,
        or the others."""
        said, seen = [], set()
        phrases = (phrase for by_value in self.phrases.values() for some in by_value.values() for phrase in some)
        for piece in (*self.tags, *phrases):
            names = {one.attribute for one in self.named(piece)} if is_han(piece) == han else set()
            if names and not names & seen and len(said) < EXAMPLES:
                said.append(piece)
                seen |= names
        return said

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Lexicon":
        """What to_json gave. Raises ValueError for anything else; the text may be a stranger's."""
        if len(text) > MAX_JSON:
            raise ValueError(f"a lexicon of {len(text)} characters; at most {MAX_JSON} are allowed")
        try:
            loaded = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("a lexicon that is no JSON; learn it again from the captions") from None
        if not _is_lexicon(loaded):
            raise ValueError("a lexicon whose fields are not those of a lexicon; learn it again from the captions")
        return cls(
            phrases={name: _tuples(by_value) for name, by_value in loaded["phrases"].items()},
            places=_tuples(loaded["places"]),
            values=_tuples(loaded["values"]),
            tags=tuple(loaded["tags"]),
            shared=tuple(loaded["shared"]),
            parts=loaded["parts"],
        )

    def _tagged(self, assignment: Mapping[str, str]) -> str:
        for name, value in assignment.items():
            if name not in self.values:
                raise ValueError(f"no attribute {name!r}; the captions know {', '.join(self.values)}")
            if value not in self.values[name]:
                raise ValueError(f"{name} is never {value!r}; it is one of {', '.join(self.values[name])}")
        wanted, said = dict(assignment), {}
        for tag, names in self._tags:
            if all(wanted.get(name) == value for name, value in names):
                first = min((name for name, _ in names), key=list(assignment).index)
                said[first] = tag
                for name, _ in names:
                    del wanted[name]
        for name, value in wanted.items():
            phrases = self.phrases.get(name, {}).get(value, ())
            if phrases:
                said[name] = phrases[0]
        return ", ".join(said[name] for name in assignment if name in said)

    @cached_property
    def _phrases(self) -> dict[Words, list[Pair]]:
        found = defaultdict(list)
        for attribute, by_value in self.phrases.items():
            for value, phrases in by_value.items():
                for phrase in phrases:
                    found[split(phrase)].append((attribute, value))
        return dict(found)

    @cached_property
    def _places(self) -> dict[Words, list[str]]:
        return {split(phrase): [place] for place, phrases in self.places.items() for phrase in phrases}

    @cached_property
    def _tags(self) -> list[tuple[str, set[Pair]]]:
        return [(tag, {(one.attribute, one.value) for one in self.named(tag)}) for tag in self.tags]


def find(words: Words, lookup: Mapping[Words, list]) -> list[tuple[int, int, object]]:
    """Where phrases stand: start, end, and what one means. Those that overlap and mean the same are one."""
    longest = max(map(len, lookup), default=0)
    found, last = [], {}
    for start in range(len(words)):
        for end in range(min(start + longest, len(words)), start, -1):
            for meaning in lookup.get(words[start:end], ()):
                if meaning in last and found[last[meaning]][1] > start:
                    before = found[last[meaning]]
                    found[last[meaning]] = (before[0], max(before[1], end), meaning)
                else:
                    last[meaning] = len(found)
                    found.append((start, end, meaning))
    return found


def split(text: str) -> Words:
    """The words of a text and its marks, alike letters made one; a Han character is a word of its own."""
    return tuple(_plain(one) for one in TOKEN.findall(text))


@lru_cache(maxsize=100_000)
def is_han(word: str) -> bool:
    """Whether its first character is of Han script."""
    return re.match(f"[{HAN}]", word) is not None


def is_label(one: object) -> bool:
    """Whether it is fit to be stored: text of a line, not too long."""
    return isinstance(one, str) and 0 < len(one) <= MAX_LENGTH and one.isprintable()


@lru_cache(maxsize=100_000)
def _plain(word: str) -> str:
    return normalize("NFKC", word).lower()


def _tuples(lists: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in lists.items()}


def _is_lexicon(loaded: object) -> bool:
    """Whether it has the fields of a lexicon, of the right kinds, none too large."""
    if not isinstance(loaded, dict) or set(loaded) != {"phrases", "places", "values", "tags", "shared", "parts"}:
        return False
    count = 0

    def text(one: object) -> bool:
        nonlocal count
        count += 1
        return is_label(one) and count <= MAX_ENTRIES

    def texts(one: object) -> bool:
        return isinstance(one, list) and all(map(text, one))

    def table(one: object) -> bool:
        return isinstance(one, dict) and all(map(text, one)) and all(map(texts, one.values()))

    phrases, values = loaded["phrases"], loaded["values"]
    if not (table(values) and table(loaded["places"]) and texts(loaded["tags"]) and texts(loaded["shared"])):
        return False
    if not isinstance(phrases, dict) or not all(map(table, phrases.values())) or not set(phrases) <= set(values):
        return False
    if not all(set(by_value) <= set(values[name]) for name, by_value in phrases.items()):
        return False
    return set(loaded["shared"]) <= set(values) and (loaded["parts"] is None or text(loaded["parts"]))
