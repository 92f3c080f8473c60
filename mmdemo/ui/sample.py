"""The Sample tab: a class in, new pictures out, watched while they form.

Knows the controls and what the studio streams; the pictures are drawn by static/sample.js.
"""

import gradio as gr

from mmdemo import images
from mmdemo.arguments import ALL, ARGUMENTS, LABELS
from mmdemo.results import Samples
from mmdemo.ui.browser import data_uri, picture, widget
from mmdemo.ui.messages import Gallery
from mmdemo.ui.workbench import Form, among, control

FIRST_COUNT = 10


class Sample(Form):
    name, button, opening = "sample", "Draw", "Drawing the first pictures…"

    def build_views(self):
        self.pictures = widget("sample", elem_id="sample-view")
        return [self.pictures]

    def build_controls(self):
        self.label = gr.Dropdown([], label=LABELS.label, info=LABELS.help)
        (self.count,) = control(ARGUMENTS["count"], FIRST_COUNT)
        return [self.label, self.count]

    def fit(self, pack, values):
        return {self.label: among([ALL, *pack.classes], values[self.label])}

    def start(self, pack):
        return {self.label: ALL, self.count: FIRST_COUNT}, {"seed": self.seed}

    def ask(self, pack, values, settings):
        return self.studio.sample(pack.name, values[self.label], values[self.count], **settings)

    def unfinished(self, values, new):
        last = new[-1]
        return f"Step {last.index + 1} of {last.total}…", {self.pictures: gallery(last.images, exact=False)}

    def finished(self, values, items, result):
        return in_words(result), {self.pictures: finished(result)}


def gallery(shown: list, exact: bool = True, **more) -> Gallery:
    columns = min(8, len(shown))
    return Gallery(picture(images.grid(shown, columns, gap=0), exact), columns, len(shown), **more)


def finished(made: Samples) -> Gallery:
    pairs = zip(made.labels, made.seeds, strict=True)
    return gallery(
        made.images,
        pictures=[made.recipe.json() | {"label": label, "seed": seed} for label, seed in pairs],
        file=f"{made.pack}-seed-{made.recipe.seed}.png",
        png=data_uri(made.png_bytes()),
    )


def in_words(made: Samples) -> str:
    words = made.recipe.words()
    return f"{words[0].upper()}{words[1:]}: drawn in {made.seconds:.1f} s."
