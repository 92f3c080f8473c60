"""The Denoise tab: one picture, from noise to the end, step by step; or a picture of one's own, into noise and back.

Knows the controls; a run's film is film.py, the second half edit.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import gradio as gr

from mmdemo.arguments import ARGUMENTS, SETTINGS
from mmdemo.studio import Studio
from mmdemo.ui.browser import PRIVATE, said_plainly
from mmdemo.ui.controls import LabelControl, opening
from mmdemo.ui.edit import Edit
from mmdemo.ui.film import film, screen
from mmdemo.ui.turns import MODELS
from mmdemo.ui.workbench import Form


def build(studio: Studio, pack: gr.components.Component, opened: Callable) -> Callable:
    """The tab's contents. Returns `replay(pictures, tabs)`, which runs here whatever `pictures` asks to see again."""
    with gr.Tabs(elem_classes="mm-switch") as modes:
        with gr.Tab("From noise", id="from-noise"):
            denoise = Denoise(studio, pack)
            denoise.connect(opened)
        with gr.Tab("Edit a picture", id="edit", elem_id="edit"):
            Edit(studio, pack).connect(opened)

    return lambda pictures, tabs: denoise.replay(pictures, {tabs: "denoise", modes: "from-noise"})


class Denoise(Form):
    name, button, opening = "denoise", "Denoise", "Denoising the first picture…"

    def build_views(self):
        self.film = screen(self.studio, "denoise-view")
        return [self.film]

    def build_controls(self):
        self.label = LabelControl(
            replace(ARGUMENTS["label"], help="What the transformer is asked to draw."), examples="open"
        )
        return [self.label]

    def fit(self, pack, values):
        return self.label.fit(pack, values)

    def start(self, pack):
        return self.label.show(pack, opening(pack)), {"seed": self.seed}

    def first(self, pack):
        words, shown = super().first(pack)
        begun = shown[self.film]
        return words, {self.film: replace(begun, show=begun.total * 2 // 5)}  # noise on the left, a guess on the right

    def ask(self, pack, values, settings):
        return self.studio.denoise(pack.name, self.label.read(values), **settings)

    def unfinished(self, values, new):
        last = new[-1]
        return f"Step {last.index + 1} of {last.total}…", {self.film: film([last])}

    def finished(self, values, items, result):
        words = f"{result.named(result.label)}, {result.recipe.words()}: denoised in {result.seconds:.1f} s."
        return words, {self.film: film(items)}

    def replay(self, pictures: gr.HTML, tabs: dict[gr.Tabs, str]) -> None:
        """Runs here what `pictures` asks to see again, and brings the tabs in which that is seen."""
        # The controls of a tab never opened yet hold no values for a run to read: the request goes beside them.
        wanted = gr.State()

        def take(values: dict, event: gr.EventData) -> dict:
            pack = self.studio.pack(values[self.pack])
            settings = {name: getattr(event, name) for name in SETTINGS}
            selected = {tab: gr.update(selected=name) for tab, name in tabs.items()}
            label = self.label.show(pack, event.label)
            shown = label | {self.recipe.randomize: False} | self.recipe.show(pack, settings)
            return selected | shown | {wanted: (label, settings)}

        def run_wanted(values: dict, request: gr.Request) -> Iterator[dict]:
            label, settings = values[wanted]
            yield from self.watch({self.pack: values[self.pack]} | label, settings, request.session_hash)

        changed = [*tabs, wanted, *self.label.components, *self.recipe.components]
        taken = pictures.replay(said_plainly(take), {self.pack}, changed, **PRIVATE)
        taken.then(None, js=f"() => window.mmdemo.bring('{self.name}')")
        run = taken.then(said_plainly(run_wanted), {self.pack, wanted}, self.written(), **MODELS, **PRIVATE)
        self.can_be_stopped(run)
