"""The Sample tab: a class or a text in, new pictures out, watched while they form.

Knows the controls and what the studio streams; the pictures are drawn by static/sample.js. Of each it can be asked
what the pack takes it for (telling.py).
"""

from collections.abc import Iterator

import gradio as gr

from mmdemo import images
from mmdemo.arguments import ARGUMENTS, LABELS
from mmdemo.kinds import ALL
from mmdemo.packs import Pack
from mmdemo.results import Samples
from mmdemo.ui.browser import PRIVATE, data_uri, picture, said_plainly, told, widget
from mmdemo.ui.controls import LabelControl, Values, control
from mmdemo.ui.messages import Gallery
from mmdemo.ui.pictures import drawing
from mmdemo.ui.telling import Telling, question
from mmdemo.ui.turns import MODELS
from mmdemo.ui.workbench import Form

FIRST_COUNT = 10


class Sample(Form):
    name, button, opening = "sample", "Draw", "Drawing the first pictures…"

    def build_views(self):
        self.pictures = widget("sample", elem_id="sample-view")
        self.telling = Telling(self.studio, "told-view")
        return [self.pictures, self.telling.view]

    def build_controls(self):
        self.label = LabelControl(LABELS, first_labels, [ALL])
        (self.count,) = control(ARGUMENTS["count"], FIRST_COUNT)
        return [self.label, self.count]

    def connect(self, opened):
        super().connect(opened)
        always = {"trigger_mode": "multiple", **MODELS, **PRIVATE}
        asked = self.pictures.ask(said_plainly(self._tell), {self.pack}, [self.telling.view], **always)
        for event in (self.pack.change, self.go.click):  # what is said is said of these pictures
            event(None, cancels=[asked], trigger_mode="multiple")

    def fit(self, pack, values):
        return self.label.fit(pack, values)

    def start(self, pack):
        return self.label.show(pack, first_labels(pack)) | {self.count: FIRST_COUNT}, {"seed": self.seed}

    def ask(self, pack, values, settings):
        label = self.label.read(values) or [""]
        return self.studio.sample(pack.name, label, values[self.count], **settings)

    def unfinished(self, values, new):
        last = new[-1]
        return f"Step {last.index + 1} of {last.total}…", {
            self.pictures: gallery(last.images, exact=False),
            self.telling.view: None,
        }

    def finished(self, values, items, result):
        asked = question(self.studio, self.studio.pack(result.pack))
        return in_words(result), {self.pictures: finished(result, asked), self.telling.view: None}

    def _tell(self, values: Values, event: gr.EventData, request: gr.Request) -> Iterator[Values]:
        image = drawing(told(event, "png", str))
        for said in self.telling.ask(values[self.pack], lambda _: image, "no", request.session_hash):
            yield {self.telling.view: said}


def first_labels(pack: Pack) -> str | list[str]:
    return list(pack.prompts[:FIRST_COUNT]) if pack.words else ALL


def gallery(shown: list, exact: bool = True, **more) -> Gallery:
    columns = min(8, len(shown))
    return Gallery(picture(images.grid(shown, columns, gap=0), exact), columns, len(shown), **more)


def finished(made: Samples, question: str | None) -> Gallery:
    pairs = zip(made.labels, made.seeds, strict=True)
    return gallery(
        made.images,
        pictures=[made.recipe.json() | {"label": label, "seed": seed} for label, seed in pairs],
        question=question,
        file=f"{made.pack}-seed-{made.recipe.seed}.png",
        png=data_uri(made.png_bytes()),
    )


def in_words(made: Samples) -> str:
    words = made.recipe.words()
    return f"{words[0].upper()}{words[1:]}: drawn in {made.seconds:.1f} s."
