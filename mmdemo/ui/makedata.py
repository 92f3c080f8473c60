"""The Make data tab: classes or texts in, a labelled data set out, watched while it fills, and taken along as a zip.

Knows the controls and what the studio streams; the sheet is drawn by static/makedata.js.
"""

import base64
from contextlib import suppress
from dataclasses import replace
from functools import partial

import gradio as gr

from mmdemo import images
from mmdemo.arguments import ARGUMENTS, LABELS, MAX_SET, SET, SETTINGS
from mmdemo.errors import ArgumentError
from mmdemo.imagefolder import file_stem, place
from mmdemo.kinds import ALL
from mmdemo.packs import Pack
from mmdemo.results import Synthetic
from mmdemo.sampling import BUDGET
from mmdemo.ui.browser import FITTING, PRIVATE, picture, said_plainly, widget
from mmdemo.ui.controls import LabelControl, Values, control
from mmdemo.ui.messages import DataSet, speaker
from mmdemo.ui.workbench import Form

FIRST_COUNT, COUNT = 20, 100  # of the first set, and of the next ones
COLUMNS = 20  # of the sheet that is sent
EQUAL = "Each takes its turn, so all have as many. All, and one more, gives that one twice as many."
MORE = "At once. The command synthesize makes as many as you like."


class MakeData(Form):
    name, button, opening = "make-data", "Make", "Making the first pictures…"

    def build_views(self):
        self.set = widget("makedata", elem_id="make-data-view")
        self.made = gr.State(None)  # what there is of a set on its way, which Stop leaves
        return [self.set, self.made]

    def build_controls(self):
        several = replace(LABELS, label="Classes", help=EQUAL)
        self.label = LabelControl(several, lambda pack: first_labels(pack), [ALL], several=True)
        (self.count,) = control(replace(SET, help=MORE, high=MAX_SET), COUNT)
        (self.augment,) = control(ARGUMENTS["augment"], False)
        return [self.label, self.count, self.augment]

    def connect(self, opened):
        super().connect(opened)
        self.stop.click(self._keep, {self.made}, [self.set, self.made], **PRIVATE)
        (steps,) = self.recipe["steps"]
        read = {self.pack, self.count, steps}
        steps.change(said_plainly(partial(self._follow, steps)), read, [self.count], trigger_mode="multiple", **FITTING)

    def fit(self, pack, values):
        bounded = self._bounded(pack, pack.defaults.steps, values[self.count]) if pack.can_sample else {}
        return self.label.fit(pack, values) | bounded

    def fitted_by(self):
        return [self.count]

    def start(self, pack):
        chosen = self.label.show(pack, first_labels(pack))
        return chosen | {self.count: FIRST_COUNT, self.augment: False}, {"seed": self.seed}

    def ask(self, pack, values, settings):
        label = self.label.read(values) or [""]
        return self.studio.synthesize(pack.name, values[self.count], label, values[self.augment], **settings)

    def first(self, pack):
        words, shown = super().first(pack)
        return f"A first few, to look at: {words}", shown

    def unfinished(self, values, new):
        last = new[-1]
        words = f"Step {last.index + 1} of {last.total}: {len(last.done.images)} of {len(last.labels)} pictures…"
        return words, {self.set: filling(last.done, last.labels, last.images), self.made: (last.done, last.labels)}

    def finished(self, values, items, result):
        return in_words(result), {self.set: finished(result, result.labels), self.made: None}

    def _keep(self, values: Values) -> Values:
        """After Stop, what is done can be taken along."""
        if not values[self.made]:
            return {self.set: gr.skip(), self.made: None}
        done, labels = values[self.made]
        kept = finished(done, labels) if done.images else filling(done, labels, [])
        return {self.set: speaker()(kept), self.made: None}

    def _follow(self, steps: gr.Slider, values: Values) -> Values:
        pack = self.studio.pack(values[self.pack])
        with suppress(ArgumentError):  # while one is typed
            return self._bounded(pack, SETTINGS["steps"].check("steps", values[steps], pack), values[self.count])
        return {self.count: gr.skip()}

    def _bounded(self, pack: Pack, steps: int, count: int | None) -> Values:
        """No more is offered than one request may have.  count: None before the tab is seen."""
        most = min(SET.high(pack), BUDGET // steps)
        return {self.count: gr.update(maximum=most, value=min(count if isinstance(count, int) else COUNT, most))}


def first_labels(pack: Pack) -> list[str]:
    return list(pack.prompts[:5]) if pack.words else [ALL]


def filling(done: Synthetic, labels: list[str], pictures: list, **more) -> DataSet:
    """labels: of all that are asked for.  pictures: those that are done, and those on their way."""
    names = list(dict.fromkeys(labels))
    order = [names.index(label) for label in labels]
    return DataSet(
        names, order, sheet(pictures), COLUMNS, len(pictures), len(done.images), sheet(done.variants), **more
    )


def sheet(pictures: list) -> str | None:
    if not pictures:
        return None
    return picture(images.grid(pictures, COLUMNS, gap=0), exact=False)


def finished(made: Synthetic, labels: list[str]) -> DataSet:
    return filling(
        made,
        labels,
        made.images,
        example=place(made.classes, made.labels[0], made.seeds[0]),
        file=file_stem(made.pack, made.recipe.seed),
        zip=base64.b64encode(made.zip_bytes()).decode(),
    )


def in_words(made: Synthetic) -> str:
    words = made.recipe.words()
    many = f"{len(made.images)} pictures" + (", and a variant of each" if made.variants else "")
    return f"{many}, {words}: drawn in {made.seconds:.1f} s."
