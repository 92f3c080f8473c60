"""The Compare tab: the same noise under different settings, as a grid over two of them, as a strip between two ends, or
live between four corners.

Knows the grid's controls and what the studio streams; strip.py and live.py are the other parts. static/table.js draws
the table.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import gradio as gr

from mmdemo.arguments import ARGUMENTS, AXES, LABELS, MAX_AXIS, MAX_GUIDANCE
from mmdemo.errors import ArgumentError
from mmdemo.kinds import quoted, shortened, shown
from mmdemo.packs import Pack, read_words
from mmdemo.results import Cell, png_bytes
from mmdemo.studio import Studio
from mmdemo.ui import labelled
from mmdemo.ui.browser import PRIVATE, data_uri, picture, said_plainly, widget
from mmdemo.ui.controls import LabelControl, Values, flat, some
from mmdemo.ui.live import Live
from mmdemo.ui.messages import Table, TableCell
from mmdemo.ui.strip import Strip
from mmdemo.ui.workbench import Form

OFFERED = tuple(dict.fromkeys(("guidance", "label", *AXES)))  # in this order
FIRST = {"guidance": "0, 1, 2, 4", "steps": "2, 5, 10, 20", "seed": "0, 1, 2, 3"}
FIRST_AXES = ("guidance", "label")
FIRST_LABELS = 3
WIDE_ROW, WIDE_COLUMN = 40, 24  # characters of a heading for which there is no room beside, or over, a picture
FEW_STEPS = 10  # a dozen pictures in the time of a few


def build(studio: Studio, pack: gr.components.Component, opened: Callable) -> gr.HTML:
    """The tab's contents. Returns the grid, whose `replay` event asks to watch one of its pictures being denoised."""
    with gr.Tabs(elem_classes="mm-switch", overflow_behavior="wrap"):
        with gr.Tab("Grid", id="grid", elem_id="grid"):
            grid = Grid(studio, pack)
            grid.connect(opened)
        with gr.Tab("Strip", id="strip", elem_id="strip"):
            Strip(studio, pack).connect(opened)
        with gr.Tab("Live", id="live", elem_id="live"):
            Live(studio, pack).connect(opened)
    return grid.table


class Grid(Form):
    name, button, opening = "grid", "Compare", "Drawing the first grid…"

    def build_views(self):
        self.table = widget("table", elem_id="compare-view")
        return [self.table]

    def build_controls(self):
        axes = axes_of(False)
        with gr.Row():
            self.x = gr.Dropdown(axes, value=FIRST_AXES[0], label=ARGUMENTS["x"].label, min_width=100)
            self.y = gr.Dropdown(axes, value=FIRST_AXES[1], label=ARGUMENTS["y"].label, min_width=100)
        self.before = gr.State(FIRST_AXES)
        self.fields = {axis: field(axis) for axis in OFFERED}
        self.label = LabelControl(ARGUMENTS["label"])
        return [self.x, self.y, *self.fields.values(), self.label]

    def connect(self, opened):
        # What is an axis has no single value; its control waits, greyed.
        self.single = {axis: self.recipe[axis][0] for axis in AXES if axis != "label"}
        self.single["guidance"].interactive = False
        super().connect(opened)
        fields = [*self.fields.values(), self.label]
        parts = flat(fields)
        changed = [self.x, self.y, self.before, *parts, *self.single.values()]
        for side, axis in enumerate((self.x, self.y)):
            choose = said_plainly(partial(self._choose, side))
            axis.input(choose, {self.pack, self.x, self.y, self.before}, changed, **PRIVATE)

    def fit(self, pack, values):
        guidance, typed = self.fields["guidance"], values[self.fields["guidance"]]
        untouched = typed in [FIRST["guidance"], *map(guidances, self.studio.packs())]
        axes, chosen = self.varied(values), values[self.fields["sampler"]]
        fitted = {one: gr.update(choices=axes_of(pack.words), value=values[one]) for one in (self.x, self.y)}
        fitted |= self.fields["label"].fit(pack, values, seen="label" in axes)
        fitted |= self.label.fit(pack, values, seen="label" not in axes)
        return fitted | {
            self.fields["sampler"]: some(pack.samplers, chosen, pack.samplers[:MAX_AXIS]),
            guidance: guidances(pack) if untouched and pack.can_sample else typed,
        }

    def fitted_by(self):
        return [self.x, self.y, *(self.fields[axis] for axis in ("guidance", "sampler"))]

    def start(self, pack):
        x, y = FIRST_AXES
        fields = {self.fields[x]: guidances(pack)} | self.fields[y].show(pack, first_labels(pack))
        return {self.x: x, self.y: y} | fields, {"seed": self.seed, "steps": min(pack.defaults.steps, FEW_STEPS)}

    def varied(self, values):
        return values[self.x], values[self.y]

    def notice(self, pack, result):
        negative = result[0].recipe.negative or ""
        return read_words(pack).notice([*(cell.label for cell in result), negative]) if pack.words else ""

    def axes(self, values: Values, reads: bool = False) -> dict:
        """The axes and their values, as the studio takes them.  Raises ArgumentError in the page's words."""
        x, y = self.varied(values)
        if x == y:  # one was chosen just now, and the page has not made them change places yet
            raise ArgumentError("across and down are the same; choose two different ones")
        fields = {axis: self.fields[axis] for axis in (x, y)}
        given = [one.read(values) if axis == "label" else values[one] for axis, one in fields.items()]
        xs, ys = (read(axis, one, reads) for axis, one in zip(fields, given, strict=True))
        return {"x": x, "xs": xs, "y": y, "ys": ys}

    def ask(self, pack, values, settings):
        label = self.label.read(values) or None
        return self.studio.compare(pack.name, label=label, **self.axes(values, pack.words), **settings)

    def begin(self, pack, values, settings):
        axes = self.axes(values)
        return f"Picture 1 of {len(axes['xs']) * len(axes['ys'])}…", {self.table: table([], pack.words, **axes)}

    def unfinished(self, values, new):
        words = f"Picture {new[-1].index + 2} of {new[-1].total}…"
        return words, {self.table: table(new, new[0].reads, **self.axes(values))}

    def finished(self, values, items, result):
        # The last message holds every cell, in case the browser dropped one on the way.
        return in_words(items, self.varied(values)), {self.table: finished(items, **self.axes(values))}

    def _choose(self, side: int, values: Values) -> Values:
        pack, axes, before = self.studio.pack(values[self.pack]), self.varied(values), values[self.before]
        if axes[0] == axes[1]:  # an axis given to the other side: the two change places
            # gradio asks twice for one choice, and `before` may have changed in between: then all is done already.
            axes = before if before[side] == axes[0] else before[::-1]
        updates = {self.x: axes[0], self.y: axes[1], self.before: axes}
        updates |= self.fields["label"].seen(pack, "label" in axes) | self.label.seen(pack, "label" not in axes)
        for axis, one in self.single.items():
            updates[self.fields[axis]] = gr.update(visible=True if axis in axes else "hidden")
            updates[one] = gr.update(interactive=axis not in axes)
        return updates


def word(axis: str, reads: bool) -> str:
    """What an axis is called.  reads: for a pack that reads."""
    return ARGUMENTS[axis].text[0] if reads and axis == "label" else ARGUMENTS[axis].label


def axes_of(reads: bool) -> list[tuple[str, str]]:
    return [(word(axis, reads), axis) for axis in OFFERED]


def first_labels(pack: Pack) -> list[str]:
    return list((pack.prompts if pack.words else pack.classes)[:FIRST_LABELS])


def field(axis: str) -> gr.components.Component | LabelControl:
    """The control for the values along an axis, seen while it is one."""
    label, visible = f"{word(axis, False)}: values", True if axis in FIRST_AXES else "hidden"
    if axis == "label":
        text = (f"{word(axis, True)}: values", "A line each (Shift+Enter begins one).")
        return LabelControl(replace(LABELS, label=label, help="", text=text), first_labels, several=True)
    if axis in FIRST:
        return gr.Textbox(FIRST[axis], label=label, info="Numbers with commas between them.", visible=visible)
    return gr.Dropdown([], multiselect=True, max_choices=MAX_AXIS, label=label, visible=visible)


def guidances(pack: Pack) -> str:
    """What to try first: none, the label alone, the pack's own guidance and twice it."""
    own = pack.defaults.guidance if pack.can_sample else 0
    wanted = sorted({0, 1, own, min(2 * own, MAX_GUIDANCE)})
    return ", ".join(f"{one:g}" for one in wanted) if len(wanted) > 2 else FIRST["guidance"]


def read(axis: str, wanted: str | list | None, reads: bool = False) -> list:
    """What was typed or chosen for an axis, as the studio takes it.  Raises ArgumentError in the page's words."""
    name, found = word(axis, reads), wanted or []
    if axis in FIRST:
        try:
            found = [float(one) for one in re.split(r"[\s,;，；、]+", wanted or "") if one]
        except ValueError:
            example = f"it must be numbers with commas between them, such as {FIRST[axis]}"
            raise ArgumentError(f"{name} is {shown(wanted)}; {example}") from None
        found = [int(one) if one.is_integer() else one for one in found]
    if not 1 <= len(found) <= MAX_AXIS:
        raise ArgumentError(f"{name} has {len(found)} values; an axis has from 1 to {MAX_AXIS}")
    twice = [one for i, one in enumerate(found) if one in found[:i]]
    if twice:
        raise ArgumentError(f"{name} has {shortened(str(twice[0]))} twice; give every value once")
    return found


def table(cells: list[Cell], reads: bool, x: str, xs: list, y: str, ys: list, **more) -> Table:
    columns, rows = [*map(str, xs)], [*map(str, ys)]
    if any(len(one) > WIDE_COLUMN for one in columns):
        more["legend"], columns = columns, [str(n + 1) for n in range(len(columns))]
    told = any(len(one) > WIDE_ROW for one in rows)
    return Table(word(x, reads), columns, word(y, reads), rows, [table_cell(cell) for cell in cells], told, **more)


def table_cell(cell: Cell) -> TableCell:
    """A picture for the table, and what it takes to see it again."""
    again = cell.recipe.json() | {"label": cell.label}
    return TableCell(cell.row, cell.column, picture(cell.image, exact=False), f"{cell.seconds:.2f} s", again)


def finished(cells: list[Cell], x: str, xs: list, y: str, ys: list) -> Table:
    """The whole table, and as a PNG that says how it was made."""
    bare = table([], cells[0].reads, x, xs, y, ys)
    rows = [[cell.image for cell in cells if cell.row == row] for row in range(len(ys))]
    common = {name: value for name, value in cells[0].json().items() if name not in (x, y, "row", "column")}
    settings = {"x": x, "xs": xs, "y": y, "ys": ys} | common | {"seconds": round(seconds(cells), 3)}
    legend = [f"{column}  {text}" for column, text in zip(bare.columns, bare.legend or [], strict=False)]
    title = "\n".join([f"{cells[0].pack}. {in_words(cells, (x, y))}", *legend])
    page = labelled.table(rows, bare.columns, bare.rows, title, bare.across, bare.down)
    file = f"{cells[0].pack}-{x}-{y}.png"
    return table(cells, cells[0].reads, x, xs, y, ys, file=file, png=data_uri(png_bytes(page, settings)))


def seconds(cells: list[Cell]) -> float:
    return sum(cell.seconds for cell in cells)


def in_words(cells: list[Cell], varied: tuple[str, str]) -> str:
    """What all cells have in common."""
    first = cells[0]
    label = quoted(first.label) if first.reads else ARGUMENTS["label"].caption(first.label)
    label = "" if "label" in varied else label
    how = ", ".join(filter(None, (label, first.recipe.words(without=varied))))
    return f"{how[0].upper()}{how[1:]}: {len(cells)} pictures in {seconds(cells):.1f} s."
