"""The Make data tab: classes or texts in, a labelled data set out, watched while it fills, and taken along as a zip.

Knows the controls and what the studio streams; the sheet is drawn by static/makedata.js.
"""

import base64
from dataclasses import replace

from mmdemo import images
from mmdemo.arguments import ARGUMENTS, LABELS, MAX_SET, SET
from mmdemo.imagefolder import file_stem, place
from mmdemo.kinds import ALL
from mmdemo.packs import Pack
from mmdemo.results import Synthetic
from mmdemo.ui.browser import picture, widget
from mmdemo.ui.controls import LabelControl, control
from mmdemo.ui.messages import DataSet
from mmdemo.ui.workbench import Form

FIRST_COUNT, COUNT = 20, 100  # of the first set, and of the next ones
COLUMNS = 20  # of the sheet that is sent
EQUAL = "Each takes its turn, so all have as many. All, and one more, gives that one twice as many."


class MakeData(Form):
    name, button, opening = "make-data", "Make", "Making the first pictures…"

    def build_views(self):
        self.set = widget("makedata", elem_id="make-data-view")
        return [self.set]

    def build_controls(self):
        several = replace(LABELS, label="Classes", help=EQUAL)
        self.label = LabelControl(several, lambda pack: first_labels(pack), [ALL], several=True)
        (self.count,) = control(replace(SET, high=MAX_SET), COUNT)
        (self.augment,) = control(ARGUMENTS["augment"], False)
        return [self.label, self.count, self.augment]

    def fit(self, pack, values):
        return self.label.fit(pack, values)

    def start(self, pack):
        chosen = self.label.show(pack, first_labels(pack))
        return chosen | {self.count: FIRST_COUNT, self.augment: False}, {"seed": self.seed}

    def ask(self, pack, values, settings):
        label = self.label.read(values) or [""]
        return self.studio.synthesize(pack.name, values[self.count], label, values[self.augment], **settings)

    def unfinished(self, values, new):
        last = new[-1]
        words = f"Step {last.index + 1} of {last.total}: {len(last.images)} of {len(last.labels)} pictures…"
        return words, {self.set: filling(last.labels, last.images)}

    def finished(self, values, items, result):
        return in_words(result), {self.set: finished(result)}


def first_labels(pack: Pack) -> list[str]:
    return list(pack.prompts[:5]) if pack.words else [ALL]


def filling(labels: list[str], done: list, **more) -> DataSet:
    names = list(dict.fromkeys(labels))
    order = [names.index(label) for label in labels]
    return DataSet(names, order, sheet(done), COLUMNS, len(done), **more)


def sheet(pictures: list) -> str | None:
    if not pictures:
        return None
    return picture(images.grid(pictures, COLUMNS, gap=0), exact=False)


def finished(made: Synthetic) -> DataSet:
    return filling(
        made.labels,
        made.images,
        variants=sheet(made.variants),
        example=place(made.classes, made.labels[0], made.seeds[0]),
        file=file_stem(made.pack, made.recipe.seed),
        zip=base64.b64encode(made.zip_bytes()).decode(),
    )


def in_words(made: Synthetic) -> str:
    words = made.recipe.words()
    many = f"{len(made.images)} pictures" + (", and a variant of each" if made.variants else "")
    return f"{many}, {words}: drawn in {made.seconds:.1f} s."
