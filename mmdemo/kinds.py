"""The kinds of arguments: what a value must be, how it is checked and named, and the one sentence that refuses another.

It knows no verb; what may be asked of one is declared in arguments.py. An argument is checked against a pack, because
some bounds are the pack's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mmdemo.errors import ArgumentError
from mmdemo.images import open_image

if TYPE_CHECKING:
    from mmdemo.packs import Pack

MAX_PROMPT = 1000  # characters
MIN_SIDE, MAX_SIDE = 8, 256  # pixels: SSIM has a window to fill, and 1024 would take a minute and 4 GB
ALL = "all"  # the label that stands for every class in order


# ------------------------------------------------------------------------------------------------------------- checks


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in [low, high]; 3.0 is one, True is not.  Raises ArgumentError."""
    if not _is_number(value) or not low <= value <= high or value != int(value):
        raise ArgumentError(f"{name} is {shown(value)}; it must be a whole number from {low} to {high}")
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number in [low, high], so neither infinite nor NaN.  Raises ArgumentError."""
    if not _is_number(value) or not low <= value <= high:
        raise ArgumentError(f"{name} is {shown(value)}; it must be a number from {low:g} to {high:g}")
    return float(value)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """One of the allowed words.  Raises ArgumentError."""
    if not isinstance(value, str) or value not in allowed:
        raise ArgumentError(f"{name} is {shown(value)}; it must be one of {', '.join(allowed)}")
    return value


def prompt(name: str, value: Any) -> str:
    """A text to be read, on one line.  Raises ArgumentError."""
    if not isinstance(value, str):
        raise ArgumentError(f"{name} is {shown(value)}; it must be a text")
    if len(value) > MAX_PROMPT:
        raise ArgumentError(f"{name} has {len(value)} characters; it must have at most {MAX_PROMPT}")
    # Control characters are spaces: they must reach neither a caption nor a terminal.
    return " ".join("".join(one if one.isprintable() else " " for one in value).split())


def shown(value: Any) -> str:
    """A value as an error shows it: never pages long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or lists within lists without end
        text = f"{type(value).__name__} too large to be shown"
    return text if len(text) <= 60 else text[:57] + "…"


def shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def quoted(text: str) -> str:
    """A text that is a label, within a sentence; the empty one stands for anything."""
    leftwards = any(unicodedata.bidirectional(one) in ("R", "AL") for one in text)
    marks = "\u2068\u2069" if leftwards else ("", "")  # what is read from the right does not turn the sentence round
    return f"{marks[0]}“{shortened(text)}”{marks[1]}" if text else "anything"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# -------------------------------------------------------------------------------------------------------------- kinds


@dataclass(frozen=True)
class Argument:
    """What an argument may be.

    label: its name on the page.  absent: what is taken where it is not given.  words: it in a caption, {} being its
    value.  unless: the value that a caption need not mention.
    """

    label: str
    help: str
    _: KW_ONLY
    absent: str = ""
    words: str = ""
    unless: Any = None
    schema: ClassVar[dict] = {"type": "string"}  # as JSON
    nargs: ClassVar[int | None] = None  # words that a command's option takes, None = one
    metavar: ClassVar[str | tuple | None] = None  # how a command's help calls them

    def check(self, name: str, value: Any, pack: Pack | None) -> Any:
        """The value as the verb takes it.  Raises an MmdemoError of one sentence."""
        raise NotImplementedError

    def allows(self) -> str:
        """What it may be, in a sentence; "" where `help` says it, or a pack alone."""
        return ""

    def explained(self) -> str:
        """All there is to say to whoever has no page before them."""
        return " ".join(filter(None, (self.help, self.allows(), self.absent)))

    def caption(self, value: Any) -> str:
        if value is None:
            return ""
        value = value if isinstance(value, (list, tuple)) else [value]
        return "" if not self.words or tuple(value) == self.unless else self.words.format(*value)


@dataclass(frozen=True)
class Whole(Argument):
    """A whole number.  high: or what it is for a pack."""

    low: int = 0
    high: int | Callable[[Pack], int] = 0
    schema: ClassVar[dict] = {"type": "integer"}
    metavar: ClassVar[str] = "N"

    def check(self, name, value, pack):
        return whole(name, value, self.low, self.high(pack) if callable(self.high) else self.high)

    def allows(self):
        return "" if callable(self.high) else f"From {self.low} to {self.high}."

    def caption(self, value):
        said = super().caption(value)
        return said.removesuffix("s") if value == 1 else said  # 1 step


@dataclass(frozen=True)
class Number(Argument):
    """A number.  step: between two that the page offers.  positive: low itself is not allowed."""

    low: float = 0.0
    high: float = 1.0
    step: float = 0.05
    positive: bool = False
    schema: ClassVar[dict] = {"type": "number"}
    metavar: ClassVar[str] = "X"

    def check(self, name, value, pack):
        value = number(name, value, self.low, self.high)
        if self.positive and value == self.low:
            bounds = f"above {self.low:g} and at most {self.high:g}"
            raise ArgumentError(f"{name} is {value:g}; it must be a number {bounds}")
        return value

    def allows(self):
        return (
            f"Above {self.low:g}, at most {self.high:g}." if self.positive else f"From {self.low:g} to {self.high:g}."
        )


@dataclass(frozen=True)
class Interval(Argument):
    """Two numbers from 0 to 1, the lower first.  ends: label and help of each on the page, the upper first."""

    ends: tuple[tuple[str, str], tuple[str, str]] = (("", ""), ("", ""))
    schema: ClassVar[dict] = {"type": "array", "items": {"type": "number"}}
    nargs: ClassVar[int] = 2
    metavar: ClassVar[tuple] = ("LOW", "HIGH")

    def check(self, name, value, pack):
        two = isinstance(value, (list, tuple)) and len(value) == 2
        if not two or not all(_is_number(level) and 0 <= level <= 1 for level in value) or value[0] > value[1]:
            example = "the lower first, such as [0.2, 0.8]"
            raise ArgumentError(f"{name} is {shown(value)}; it must be two noise levels from 0 to 1, {example}")
        return float(value[0]), float(value[1])

    def allows(self):
        return "The lower first."


@dataclass(frozen=True)
class Choice(Argument):
    """One of some words.  allowed: or what they are for a pack.  among: those that any pack has, if that can be said.
    nothing: what to call it that none is chosen."""

    nothing: str = ""
    allowed: tuple[str, ...] | Callable[[Pack], tuple[str, ...]] = ()
    among: tuple[str, ...] = ()
    metavar: ClassVar[str] = "NAME"

    def check(self, name, value, pack):
        return choice(name, value, self.allowed(pack) if callable(self.allowed) else self.allowed)

    def allows(self):
        if callable(self.allowed):
            return f"One of {', '.join(self.among)}, if the pack lists it." if self.among else ""
        return f"One of {', '.join(self.allowed)}." if self.allowed else ""


@dataclass(frozen=True)
class Flag(Argument):
    """Yes or no."""

    schema: ClassVar[dict] = {"type": "boolean"}

    def check(self, name, value, pack):
        if not isinstance(value, bool):
            raise ArgumentError(f"{name} is {shown(value)}; it must be true or false")
        return value


@dataclass(frozen=True)
class Invert(Choice):
    """A choice of INVERT; True and False are yes and no."""

    def check(self, name, value, pack):
        return super().check(name, {True: "yes", False: "no"}[value] if isinstance(value, bool) else value, pack)


@dataclass(frozen=True)
class Label(Choice):
    """What to draw: a class, or of a pack that reads words any text, the empty one standing for anything.

    text: its name and its help on the page where it is a text.
    """

    text: tuple[str, str] = ("Prompt", "What to draw, in words.")

    def caption(self, value):
        return super().caption(value and shortened(value))

    def check(self, name, value, pack):
        return prompt(name, value) if pack.words else choice(name, value, pack.classes)

    def allows(self):
        return "A class of the pack; of one that reads words, any text."


@dataclass(frozen=True)
class Labels(Argument):
    """One class, several, or `all`; checked, a tuple of classes. Of a pack that reads words, texts, `all` being its
    examples.  text: as of a Label."""

    text: tuple[str, str] = ("Prompt", "What to draw, in words: a line each, taken in turn (Shift+Enter).")
    nargs: ClassVar[str] = "+"
    metavar: ClassVar[str] = "L"

    def check(self, name, value, pack):
        own = pack.prompts if pack.words else pack.classes
        labels, allowed = [value] if isinstance(value, str) else value, (ALL, *own)
        if not isinstance(labels, (list, tuple)) or not labels:
            form = "a text, or a list of them" if pack.words else f"one of {', '.join(allowed)}"
            raise ArgumentError(f"{name} is {shown(value)}; it must be {form}")
        named = [prompt(name, label) if pack.words else choice(name, label, allowed) for label in labels]
        return tuple(label for one in named for label in (own if one == ALL and own else (one,)))

    def allows(self):
        return "Classes of the pack; of one that reads words, any texts."


@dataclass(frozen=True)
class Corners(Argument):
    """A value for every corner of a square: top left, top right, bottom left, bottom right; one alone is for all.

    of: what each may be.
    """

    of: Argument | None = None
    schema: ClassVar[dict] = {"type": "array", "items": {}}

    def check(self, name, value, pack):
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if len(values) not in (1, 4):
            corners = "top left, top right, bottom left, bottom right"
            raise ArgumentError(f"{name} is {shown(value)}; it must be one for all corners, or four: {corners}")
        checked = [self.of.check(name, one, pack) for one in values]
        return tuple(checked * (4 // len(checked)))

    def allows(self):
        return f"Top left, top right, bottom left, bottom right; or one for all. {self.of.allows()}"


@dataclass(frozen=True)
class Side(Argument):
    """A number of pixels that the pack's codec takes: a multiple of its stride."""

    schema: ClassVar[dict] = {"type": "integer"}
    metavar: ClassVar[str] = "N"

    def check(self, name, value, pack):
        side = whole(name, value, max(MIN_SIDE, pack.stride), MAX_SIDE)
        if side % pack.stride:
            multiple = f"a multiple of the pack's stride, {pack.stride}, and at most {MAX_SIDE}"
            raise ArgumentError(f"{name} is {side}; it must be {multiple}")
        return side

    def allows(self):
        return f"From {MIN_SIDE} to {MAX_SIDE}."


@dataclass(frozen=True)
class Picture(Argument):
    """A picture file or a PIL image; checked, an upright RGB image.  paper: what its transparency becomes."""

    paper: str = "white"
    schema: ClassVar[dict] = {"type": "picture"}  # gradio has a schema of its own for these
    metavar: ClassVar[str] = "IMAGE"

    def check(self, name, value, pack):
        if value is None:
            raise ArgumentError(f"{name} is missing; give a picture file")
        return open_image(value, name, self.paper)


@dataclass(frozen=True)
class Factor(Argument):
    """How many times larger: one of some numbers."""

    allowed: tuple[int, ...] = ()
    schema: ClassVar[dict] = {"type": "integer"}
    metavar: ClassVar[str] = "N"

    def check(self, name, value, pack):
        if not _is_number(value) or value not in self.allowed:
            raise ArgumentError(f"{name} is {shown(value)}; it must be {' or '.join(map(str, self.allowed))}")
        return int(value)

    def allows(self):
        return f"One of {', '.join(map(str, self.allowed))}."


@dataclass(frozen=True)
class Grid(Argument):
    """Rows of token ids, all of one length."""

    schema: ClassVar[dict] = {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}

    def check(self, name, value, pack):
        side, most = pack.image_size // pack.stride, max(MAX_SIDE, pack.image_size) // pack.stride
        form = f"a grid such as {side} rows of {side} ids from 0 to {pack.codes - 1}"
        if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
            raise ArgumentError(f"{name} is {shown(value)}; it must be {form}")
        if len({len(row) for row in value}) > 1:
            raise ArgumentError(f"{name} has rows of different lengths; it must be {form}")
        if max(len(value), len(value[0])) > most:
            raise ArgumentError(f"{name} is {len(value)}×{len(value[0])}; at most {most}×{most} are allowed")
        return [[whole(f"{name} holds an id that", id, 0, pack.codes - 1) for id in row] for row in value]


@dataclass(frozen=True)
class Values(Argument):
    """The values along a side of a comparison; what they may be is for the setting to say.  most: how many."""

    most: int = 0
    schema: ClassVar[dict] = {"type": "array", "items": {}}

    def check(self, name, value, pack):
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= self.most:
            raise ArgumentError(f"{name} is {shown(value)}; it must be a list of 1 to {self.most} values")
        return value

    def allows(self):
        return f"At most {self.most}."
