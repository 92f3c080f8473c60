"""The Compare tab: the same noise under different settings, as a grid over two of them or as a strip between two ends.

Knows the grid's controls and what the studio streams; strip.py is the other half. static/table.js draws the table.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial

import gradio as gr

from mmdemo.arguments import shown
from mmdemo.errors import ArgumentError
from mmdemo.studio import MAX_AXIS, MAX_GUIDANCE
from mmdemo.ui import strip
from mmdemo.ui.browser import FITTING, MODELS, OPENING, PRIVATE, data_uri, picture, said_plainly, speaker, widget
from mmdemo.ui.labelled import png_bytes, table
from mmdemo.ui.settings import BUSY, IDLE, Settings, can_be_stopped, first_shown, to_draw, waiting
from mmdemo.views import Cell, PackInfo

# The studio's axes, as the page calls them.
WORDS = {"guidance": "Guidance", "label": "Class", "steps": "Steps", "sampler": "Sampler", "seed": "Seed"}
FIRST = {"guidance": "0, 1, 2, 4", "steps": "2, 5, 10, 20", "seed": "0, 1, 2, 3"}
FIRST_AXES = ("guidance", "label")
FIRST_LABELS = 3
FIRST_SEED = 0
FEW_STEPS = 10  # a dozen pictures in the time of a few


def build(studio, pack: gr.components.Component, opened: Callable) -> gr.HTML:
    """The tab's contents. Returns the grid, whose `replay` event asks to watch one of its pictures being denoised."""
    with gr.Tabs(elem_classes="mm-switch", overflow_behavior="wrap"):
        with gr.Tab("Grid", id="grid", elem_id="grid"):
            cells = build_grid(studio, pack, opened)
        with gr.Tab("Strip", id="strip", elem_id="strip"):
            strip.build(studio, pack, opened)
    return cells


def build_grid(studio, pack: gr.components.Component, opened: Callable) -> gr.HTML:
    with gr.Row(elem_classes="mm-work"):
        with gr.Column(scale=5, min_width=300):
            status = widget("status")
            view = widget("table", elem_id="compare-view")
        with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
            axes = [(word, axis) for axis, word in WORDS.items()]
            with gr.Row():
                x = gr.Dropdown(axes, value=FIRST_AXES[0], label="Across", min_width=100)
                y = gr.Dropdown(axes, value=FIRST_AXES[1], label="Down", min_width=100)
            before = gr.State(FIRST_AXES)
            fields = {axis: field(axis) for axis in WORDS}
            label = gr.Dropdown([], label="Class", info="What to draw.", visible="hidden")
            settings = Settings()
            with gr.Row():
                go = gr.Button("Compare", variant="primary", interactive=False, min_width=100)
                stop = gr.Button("Stop", interactive=False, min_width=100)
    # What is an axis has no single value; its control waits, greyed.
    single = {axis: getattr(settings, axis) for axis in ("guidance", "steps", "sampler", "seed")}
    settings.guidance.interactive = False

    def choose(side: int, x: str, y: str, before: tuple) -> tuple:
        axes = x, y
        if x == y:  # an axis given to the other side: the two change places
            # gradio asks twice for one choice, and `before` may have changed in between: then all is done already.
            axes = before if before[side] == x else before[::-1]
        values = [gr.update(visible=True if axis in axes else "hidden") for axis in fields]
        one_label = gr.update(visible="hidden" if "label" in axes else True)
        return *axes, axes, *values, one_label, *(gr.update(interactive=axis not in axes) for axis in single)

    def first_grid(info: PackInfo) -> tuple[str, dict]:
        x, y = FIRST_AXES
        xs, ys = values(x, guidances(info)), list(info.classes[:FIRST_LABELS])
        steps = min(info.steps, FEW_STEPS)
        done = list(studio.compare(info.name, x, xs, y, ys, seed=FIRST_SEED, steps=steps))
        return in_words(done, x, y), finished(done, x, xs, y, ys)

    def fit(name: str, labels: list | None, samplers: list | None, typed: str, label: str | None, sampler: str | None):
        info = to_draw(studio, name)
        untouched = typed in {FIRST["guidance"], *map(guidances, studio.packs())}
        steps, *rest = settings.of(info, sampler)
        one_label = label if label in info.classes else next(iter(info.classes), None)
        return (
            gr.update(interactive=info.can_sample),
            fitting(labels, info.classes, FIRST_LABELS),
            fitting(samplers, info.samplers, MAX_AXIS),
            guidances(info) if untouched and info.can_sample else typed,
            gr.update(choices=list(info.classes), value=one_label),
            min(steps, FEW_STEPS),
            *rest,
        )

    @said_plainly
    def run(name, x, y, *wanted) -> Iterator[tuple]:
        chosen, (label, *wanted) = dict(zip(fields, wanted, strict=False)), wanted[len(fields) :]
        xs, ys = values(x, chosen[x]), values(y, chosen[y])
        seed, *rest = settings.arguments(*wanted)
        going = studio.compare(name, x, xs, y, ys, label, seed, *rest)
        tell = speaker()
        total = len(xs) * len(ys)
        yield tell(text="Starting…"), gr.skip(), gr.skip() if "seed" in (x, y) else seed, *BUSY
        for text in waiting(studio, name):
            yield tell(text=text), gr.skip(), gr.skip(), *BUSY
        yield tell(text=f"Picture 1 of {total}…"), tell(**headed(x, xs, y, ys), cells=[]), gr.skip(), *BUSY
        done = []
        for cell in going:
            done.append(cell)
            if len(done) < total:
                text = f"Picture {len(done) + 1} of {total}…"
                grid = tell(**headed(x, xs, y, ys), cells=[drawn(cell)])
                yield tell(text=text), grid, gr.skip(), gr.skip(), gr.skip()
        # The last message holds every cell, in case the browser dropped one on the way.
        yield tell(text=in_words(done, x, y)), tell(**finished(done, x, xs, y, ys)), gr.skip(), *IDLE

    lists = [fields["label"], fields["sampler"], fields["guidance"]]
    fitted = opened(fit, [pack, *lists, label, settings.sampler], [go, *lists, label, *settings.choices], **FITTING)
    show = first_shown(studio, "Drawing the first grid…", first_grid)
    opened(show, [pack], [status, view], after=fitted, **OPENING, **PRIVATE)
    for side, axis in enumerate((x, y)):
        changed = [x, y, before, *fields.values(), label, *single.values()]
        axis.input(partial(choose, side), [x, y, before], changed, **PRIVATE)
    go.click(None, js="() => window.mmdemo.bring('grid')")
    inputs = [pack, x, y, *fields.values(), label, *settings.inputs]
    running = go.click(run, inputs, [status, view, settings.seed, go, stop], **MODELS, **PRIVATE)
    can_be_stopped(studio, pack, running, status, go, stop)
    return view


def field(axis: str) -> gr.components.Component:
    """The control for the values along an axis, seen while it is one."""
    label, visible = f"{WORDS[axis]}: values", True if axis in FIRST_AXES else "hidden"
    if axis in FIRST:
        return gr.Textbox(FIRST[axis], label=label, info="Numbers with commas between them.", visible=visible)
    return gr.Dropdown([], multiselect=True, max_choices=MAX_AXIS, label=label, visible=visible)


def guidances(info: PackInfo) -> str:
    """What to try first: none, the label alone, the pack's own guidance and twice it."""
    wanted = sorted({0, 1, info.guidance, min(2 * info.guidance, MAX_GUIDANCE)})
    return ", ".join(f"{one:g}" for one in wanted) if len(wanted) > 2 else FIRST["guidance"]


def fitting(chosen: list | None, allowed: tuple[str, ...], count: int) -> dict:
    """What was chosen among the pack's own, or else the first few of them."""
    value = [one for one in chosen or () if one in allowed] or list(allowed[:count])
    return gr.update(choices=list(allowed), value=value)


def values(axis: str, wanted: str | list | None) -> list:
    """What was typed or chosen for an axis, as the studio takes it.  Raises ArgumentError in the page's words."""
    word, found = WORDS[axis], wanted or []
    if axis in FIRST:
        try:
            found = [float(one) for one in re.split(r"[\s,;，；、]+", wanted or "") if one]
        except ValueError:
            example = f"it must be numbers with commas between them, such as {FIRST[axis]}"
            raise ArgumentError(f"{word} is {shown(wanted)}; {example}") from None
        found = [int(one) if one.is_integer() else one for one in found]
    if not 1 <= len(found) <= MAX_AXIS:
        raise ArgumentError(f"{word} has {len(found)} values; an axis has from 1 to {MAX_AXIS}")
    twice = [one for i, one in enumerate(found) if one in found[:i]]
    if twice:
        raise ArgumentError(f"{word} has {twice[0]} twice; give every value once")
    return found


def headed(x: str, xs: list, y: str, ys: list) -> dict:
    """The table before its pictures."""
    return {"across": WORDS[x], "columns": [*map(str, xs)], "down": WORDS[y], "rows": [*map(str, ys)]}


def drawn(cell: Cell) -> dict:
    """A picture for the table, and what it takes to see it again."""
    return {
        "row": cell.row,
        "column": cell.column,
        "picture": picture(cell.image, exact=False),
        "time": f"{cell.seconds:.2f} s",
        "again": {"label": cell.label, **cell.settings},
    }


def finished(done: list[Cell], x: str, xs: list, y: str, ys: list) -> dict:
    heads = headed(x, xs, y, ys)
    rows = [[cell.image for cell in done if cell.row == row] for row in range(len(ys))]
    seconds = round(sum(cell.seconds for cell in done), 3)
    settings = {"x": x, "xs": xs, "y": y, "ys": ys, **shared(done, x, y), "seconds": seconds}
    title = f"{settings['pack']}. {in_words(done, x, y)}"
    page = table(rows, heads["columns"], heads["rows"], title, heads["across"], heads["down"])
    return {
        **heads,
        "cells": [drawn(cell) for cell in done],
        "file": f"{settings['pack']}-{x}-{y}.png",
        "png": data_uri(png_bytes(page, settings)),
    }


def shared(done: list[Cell], x: str, y: str) -> dict:
    """The settings that all cells have in common."""
    every = {"label": done[0].label, **done[0].settings}
    return {name: value for name, value in every.items() if name not in (x, y)}


def in_words(done: list[Cell], x: str, y: str) -> str:
    say = {"label": "class {}", "seed": "seed {}", "steps": "{} steps", "sampler": "{}", "guidance": "guidance {:g}"}
    common = shared(done, x, y)
    how = ", ".join(words.format(common[name]) for name, words in say.items() if name in common)
    low, high = common["interval"]
    how += f", guided at noise levels {low:g} to {high:g}" if (low, high) != (0, 1) else ""
    return f"{how[0].upper()}{how[1:]}: {len(done)} pictures in {sum(cell.seconds for cell in done):.1f} s."
