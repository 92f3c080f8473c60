"""What the page's scripts are sent: a record for every widget, which static/WIDGET.js shows.

Pictures are data URIs. A field that is None is left out. A widget that is sent nothing is empty.
"""

import functools
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Tile = tuple[str, str, str]  # name, value, what it means
turns = itertools.count(time.time_ns() // 1_000_000)  # later than any before a restart of the app


@dataclass(frozen=True)
class Text:
    """One line: what is going on (status), or why there is nothing to show.

    A text that ends in … says that something is under way.  ends: it is shown only where something is.
    """

    text: str
    ends: bool | None = None
    pack: str | None = None


@dataclass(frozen=True)
class Card:
    name: str
    line: str
    origin: str
    source: str  # the same in full
    cover: str


@dataclass(frozen=True)
class Awaited:
    """A repository on the Hub that is not here: how much of it has come, or else why it does not come."""

    name: str
    share: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Cards:
    """packs.js."""

    cards: list[Card]
    awaited: list[Awaited]


@dataclass(frozen=True)
class ModelCard:
    """What packs.js is answered that asks for a pack's card."""

    html: str


@dataclass(frozen=True)
class Chip:
    name: str
    text: str


@dataclass(frozen=True)
class Chips:
    """chips.js: texts to be taken by a click, the value being the one taken.  folded: only their heading is seen."""

    chips: list[Chip]
    folded: bool


@dataclass(frozen=True)
class Thumbnail:
    uri: str
    smooth: bool  # a photograph, whose pixels are not to be seen


@dataclass(frozen=True)
class Examples:
    """picker.js."""

    examples: list[Thumbnail]


@dataclass(frozen=True)
class Source:
    """Which of the ways to choose a picture is to be marked in the picker of the same tab."""

    kind: str  # "example", "drawing" or "file"
    index: int | None  # the example's number


@dataclass(frozen=True)
class NearCode:
    code: int
    distance: str
    swatch: str


@dataclass(frozen=True)
class CodeCard:
    """What every script is answered that asks for a code."""

    code: int
    share: str
    usage: str
    swatch: str
    nearest: list[NearCode]
    patches: list[str]


@dataclass(frozen=True)
class Book:
    """codebook.js.  By code, but for `order`: the codes as the sheet of swatches has them."""

    pack: str
    codes: int
    swatches: str
    swatch_size: int
    columns: int
    order: list[int]
    counts: list[int]
    points: list[tuple[float, float]]
    explained: str
    colours: list[str]
    shares: list[str]
    usage: str | None  # None = nobody counted, and swatches are mere colours
    tiles: list[Tile]
    chosen: int
    card: CodeCard


@dataclass(frozen=True)
class TokenPicture:
    """A picture in which the Codebook tab looks for its code."""

    pack: str
    subject: str
    tokens: list[list[int]]
    image: str


@dataclass(frozen=True)
class Reconstructed:
    """reconstruct.js and surgery.js."""

    pack: str
    codes: int
    side: int
    invert: str
    source: Source
    subject: str
    original: str
    image: str
    tokens: list[list[int]] | None
    tiles: list[Tile]
    untold: str | None = None  # why there are no tokens


@dataclass(frozen=True)
class Explained:
    """A word, and the picture, warm where the word comes from."""

    word: str
    caption: str
    picture: str


@dataclass(frozen=True)
class Described:
    """description.js.  words, help: there when it is done."""

    text: str
    attributes: list[tuple[str, list[tuple[str, float]]]] | None = None  # some values of each, and their probabilities
    words: list[Explained] | None = None
    help: list[str] | None = None
    notice: str = ""


@dataclass(frozen=True)
class Gallery:
    """sample.js: all pictures on one sheet, `columns` wide.  The rest is there when they are done."""

    sheet: str
    columns: int
    count: int
    pictures: list[dict[str, Any]] | None = None  # what it takes to draw each again
    question: str | None = None  # what can be asked of each
    file: str | None = None
    png: str | None = None


@dataclass(frozen=True)
class DataSet:
    """makedata.js: labelled pictures, on a sheet of `columns` those that are done, and guesses of the next.

    The last three are there in the end, or after a Stop."""

    labels: list[str]
    order: list[int]  # which label each picture has
    sheet: str | None
    columns: int
    on_sheet: int  # pictures
    done: int
    variants: str | None = None  # a sheet like the other
    example: str | None = None  # the place of a picture in the folder
    file: str | None = None
    zip: str | None = None  # in base64


@dataclass(frozen=True)
class Shot:
    """A frame of a film."""

    index: int
    timestep: str
    noise: float
    distance: float | None
    guided: bool
    tokens: list[list[int]] | None
    flips: list[tuple[int, int]]
    x_t: str
    x0: str
    x0_label: str
    x0_null: str


@dataclass(frozen=True)
class Film:
    """denoise.js: some frames of a run; the scripts keep them.  show: the frame to begin with; None = the last."""

    pack: str
    label: str
    kind: str  # what a label is called
    seed: int
    total: int
    narrowed: bool  # guidance is on at some steps only
    frames: list[Shot]
    negative: str | None = None  # what to guide away from
    original: str | None = None  # the picture that is edited
    again: dict[str, Any] | None = None  # of a text: what it takes to draw it again, to weigh its words
    show: int | None = None
    untold: str | None = None  # why there are no tokens


@dataclass(frozen=True)
class WordPull:
    start: int
    end: int
    mean: float
    map: list[list[float]]


@dataclass(frozen=True)
class Pulls:
    """What pulls.js is answered: how much each word of a text pulls at a step."""

    words: list[WordPull]
    more: int  # words that are read, but not weighed


@dataclass(frozen=True)
class NoisedShot:
    timestep: str
    a: str
    s: str
    image: str


@dataclass(frozen=True)
class IntoNoise:
    """noised.js."""

    pack: str
    source: Source
    strength: float
    frames: list[NoisedShot]


@dataclass(frozen=True)
class Restored:
    """restore.js."""

    source: Source
    task: str
    truth: str  # the picture before it was damaged
    damaged: str
    known: bool  # whether that is the truth, and not just as damaged
    candidates: list[str]
    notes: list[str] | None = None  # one a candidate, once they are done


@dataclass(frozen=True)
class TableCell:
    row: int
    column: int
    picture: str
    time: str
    again: dict[str, Any]  # what it takes to draw it again


@dataclass(frozen=True)
class Table:
    """table.js: some cells of a grid."""

    across: str
    columns: list[str]
    down: str
    rows: list[str]
    cells: list[TableCell]
    told: bool  # whether the rows' headings stand over their pictures, where there is room for them
    legend: list[str] | None = None  # what the columns' numbers stand for, if those are their headings
    file: str | None = None
    png: str | None = None


@dataclass(frozen=True)
class Between:
    """between.js: pictures between two ends."""

    pictures: list[str]
    shares: list[str]
    file: str | None = None
    png: str | None = None


@dataclass(frozen=True)
class Blended:
    """What live.js is answered: the picture at a place in its square."""

    png: str
    file: str
    words: str


@dataclass(frozen=True)
class Square:
    """live.js: what stands at the corners of a square.  Of a new pack also a place in it, and the picture there."""

    pack: str
    corners: list[str]  # what each is called: top left, top right, bottom left, bottom right
    labels: list[str]
    seeds: list[int]
    steps: int
    place: tuple[float, float] | None = None  # (x, y), from 0 to 1
    picture: Blended | None = None


def message(record: Any = None, turn: int | None = None) -> str:
    """A string, because gradio changes dicts in place while streaming and then misses it."""
    fields = plain(record) if record is not None else {}
    return json.dumps(fields if turn is None else fields | {"turn": turn}, allow_nan=False, default=plain)


def plain(record: Any) -> dict[str, Any]:
    """A record's fields, for JSON."""
    return {name: value for name, value in vars(record).items() if value is not None}


def speaker() -> Callable[..., str]:
    """`message` for one run of a handler: a widget that has heard a later run no longer listens to an earlier one.

    So a slow answer for the pack left behind, or for the last picture but one, never overwrites the current one.
    """
    return functools.partial(message, turn=next(turns))
