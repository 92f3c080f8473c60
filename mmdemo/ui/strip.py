"""The second part of the Compare tab: pictures between two classes or two texts, two seeds, or both.

Knows the strip's controls and what the studio answers; static/between.js draws it.
"""

from dataclasses import replace

import gradio as gr

from mmdemo import results
from mmdemo.arguments import ARGUMENTS, STRIP
from mmdemo.errors import ArgumentError
from mmdemo.packs import Pack
from mmdemo.ui import labelled
from mmdemo.ui.browser import data_uri, picture, widget
from mmdemo.ui.controls import LabelControl, control, near
from mmdemo.ui.messages import Between
from mmdemo.ui.workbench import Form

FIRST_COUNT = 8


class Strip(Form):
    name, button, opening = "strip", "Draw strip", "Drawing the first strip…"

    def build_views(self):
        self.way = widget("between", elem_id="strip-view")
        return [self.way]

    def build_controls(self):
        seed = ARGUMENTS["other_seed"]
        first = replace(ARGUMENTS["label"], label="From class", help="", text=("From prompt", ""))
        last = replace(ARGUMENTS["other_label"], help="", text=(ARGUMENTS["other_label"].text[0], ""))
        with gr.Row(elem_classes="mm-ends"):
            with gr.Column(min_width=100):
                self.label = LabelControl(first, lambda pack: ends(pack)[0])
            with gr.Column(min_width=100):
                self.other_label = LabelControl(last, lambda pack: ends(pack)[1])
        (self.count,) = control(STRIP, FIRST_COUNT)
        with gr.Row():
            self.other_seed = gr.Number(self.seed + 1, label=seed.label, info=seed.help)
            self.same_noise = gr.Checkbox(True, label="Same noise", info="Stay with the seed below.")
        return [self.label, self.other_label, self.count, self.other_seed, self.same_noise]

    def fit(self, pack, values):
        both = (self.label, self.other_label)
        if not all(values[one.classes] in pack.classes for one in both):  # then neither stays
            values = values | {one.classes: None for one in both}
        return self.label.fit(pack, values) | self.other_label.fit(pack, values)

    def start(self, pack):
        first, last, other_seed = ends(pack)
        both = self.label.show(pack, first) | self.other_label.show(pack, last)
        noise = {self.other_seed: other_seed, self.same_noise: other_seed is None}
        return both | noise | {self.count: FIRST_COUNT}, {"seed": self.seed}

    def ask(self, pack, values, settings):
        label, other_label = self.label.read(values), self.other_label.read(values)
        other_seed = None if values[self.same_noise] else values[self.other_seed]
        if label == other_label and other_seed in (None, settings["seed"]):
            other = "prompt" if pack.words else "class"
            raise ArgumentError(f"Both ends are the same; choose another {other} or another seed to end with")
        ends = {"label": label, "other_label": other_label, "other_seed": other_seed}
        return self.studio.morph(pack.name, **ends, count=values[self.count], **settings)

    def unfinished(self, values, new):
        last, many = new[-1], len(new[-1].images) - 1
        shares = [i / many for i in range(many + 1)]
        return f"Step {last.index + 1} of {last.total}…", {self.way: between(last.images, shares)}

    def finished(self, values, items, result):
        return in_words(result), {self.way: finished(result)}


def ends(pack: Pack) -> tuple[str | None, str | None, int | None]:
    """Where the first strip begins and ends: at two labels, or at two seeds if there is but one."""
    first, *others = near(pack) if pack.words else pack.classes or (None,)
    return first, next(iter(others), first), None if others else Strip.seed + 1


def between(pictures: list, shares: list[float], **more) -> Between:
    shown = [picture(one, exact=False) for one in pictures]
    return Between(shown, [f"{100 * share:.0f} %" for share in shares], **more)


def finished(made: results.Strip) -> Between:
    title = f"{made.pack}. {in_words(made)}"
    page = labelled.table([made.images], [f"{100 * share:.0f} %" for share in made.shares], [""], title)
    file = f"{made.pack}-strip-{made.recipe.seed}.png"
    return between(made.images, made.shares, file=file, png=data_uri(results.png_bytes(page, made.json())))


def in_words(made: results.Strip) -> str:
    first, last = made.named(made.label), made.named(made.other_label)
    ways = f"From {first} to {last}" if first != last else f"{first[:1].upper()}{first[1:]}"
    seeds = f"seed {made.recipe.seed}" + (f" to {made.other_seed}" if made.other_seed != made.recipe.seed else "")
    return f"{ways}, {seeds}, {made.recipe.words(without=['seed'])}: drawn in {made.seconds:.1f} s."
