"""The second half of the Denoise tab: a picture taken part of the way into noise, and denoised as something else.

Knows the controls and where the picture comes from (as in Reconstruct). The way into noise is static/noised.js, the
way back a film like that of any run.
"""

from collections.abc import Iterator
from dataclasses import replace

import gradio as gr
from PIL import Image

from mmdemo.arguments import ARGUMENTS
from mmdemo.errors import MmdemoError
from mmdemo.packs import Pack
from mmdemo.results import NoisedFrame
from mmdemo.ui.browser import PRIVATE, picture, said_plainly, told, widget
from mmdemo.ui.controls import LabelControl, Values, control, near
from mmdemo.ui.film import film, screen
from mmdemo.ui.messages import Examples, IntoNoise, NoisedShot, speaker
from mmdemo.ui.pictures import Source, captions, drawing, examples, marked, refused, thumbnail
from mmdemo.ui.turns import MODELS, in_turns
from mmdemo.ui.workbench import Form, waiting

FIRST: Source = ("first", None)
# With the digits that come with the app: turn this 3 into an 8. Seed and strength at which the first edit is plain.
FIRST_DIGIT, FIRST_LABEL, FIRST_STRENGTH = 3, "8", 0.8
WORDS_STRENGTH = 0.7  # at which another word in the caption changes what it names, and the rest stays
FIRST_OTHER = 1  # of CIFAR-10's examples it is a car, to be turned into the last class, a truck
INTO = "Turn it into"
READY = "Choose what to turn it into, how far into noise, and then Edit."


class Edit(Form):
    name, button, opening, seed = "edit", "Edit", "Editing the first picture…", 3
    randomize = False  # another word changes what it names, and only under the same noise nothing else

    def build_views(self):
        self.into_noise = widget("noised", elem_id="noised-view")
        self.film = screen(self.studio, "edit-view")
        return [self.into_noise, self.film]

    def build_controls(self):
        self.picker = widget("picker", elem_id="edit-picker")
        self.upload = gr.File(label="Your picture", file_types=["image"], height=160, elem_id="edit-upload")
        self.source = gr.State(FIRST)
        words = {
            "help": "The class it is denoised with.",
            "text": (INTO, "The caption it is denoised with: change a word."),
        }
        self.label = LabelControl(replace(ARGUMENTS["label"], label=INTO, **words), self.first_label)
        (self.strength,) = control(replace(ARGUMENTS["strength"], low=0.05), FIRST_STRENGTH)
        return [self.source, self.label, self.strength]

    def connect(self, opened):
        super().connect(opened)
        self.strength.change(None, [self.strength], None, js="(share) => window.mmdemo.store.set('strength', share)")
        read = {self.pack, self.strength, *self.label.components, *self.recipe.components}
        outputs = [*self.shown(), self.source, *self.label.components, self.go, self.stop]
        always = {"outputs": outputs, "trigger_mode": "multiple", **MODELS, **PRIVATE}
        self.picker.example(said_plainly(self._take_example), read, **always)
        self.picker.drawing(said_plainly(self._take_drawing), read, **always)
        taken = self.upload.upload(said_plainly(self._take_file), read | {self.upload}, **always)
        refused(taken, self.upload)

    def fit(self, pack, values):
        offered = Examples([thumbnail(image) for image in examples(self.studio, pack)])
        begun = self.label.fit(pack, values, first=self.first_label(pack, values[self.source]))
        fitted = {self.picker: speaker()(offered)} | begun
        untouched = values[self.strength] in (None, FIRST_STRENGTH, WORDS_STRENGTH)
        return fitted | ({self.strength: first_strength(pack)} if untouched else {})

    def fitted_by(self):
        return [self.source, self.strength]

    def also_fitted(self):
        return [self.picker]

    def looked_at(self):
        return [self.source, self.strength]

    def start(self, pack):
        values = {self.source: FIRST, self.strength: first_strength(pack)}
        return values | self.label.show(pack, self.first_label(pack)), {"seed": self.seed}

    def first(self, pack):
        words, shown = super().first(pack)
        return words, shown | {self.film: replace(shown[self.film], show=shown[self.film].total - 1)}

    def open(self, pack, values):
        if values[self.source] == FIRST:
            yield from super().open(pack, values)
        else:
            yield READY, {self.into_noise: self.noised(pack, values, {}), self.film: None}

    def ask(self, pack, values, settings):
        _, image = self.chosen(pack, values[self.source])
        return self.studio.edit(pack.name, image, self.label.read(values), values[self.strength], **settings)

    def begin(self, pack, values, settings):
        return "Adding noise…", {self.into_noise: self.noised(pack, values, settings)}

    def unfinished(self, values, new):
        last = new[-1]
        return f"Step {last.index + 1} of {last.total}…", {self.film: film([last])}

    def finished(self, values, items, result):
        how = f"strength {result.strength:g}, {result.recipe.words()}: {result.seconds:.1f} s."
        return f"Turned into {result.named(result.label)}, {how}", {self.film: film(items)}

    def chosen(self, pack: Pack, source: Source) -> tuple[Source, str | Image.Image]:
        """Which picture is meant in this pack, which may have fewer examples, and the picture."""
        kind, image = source
        if kind not in ("first", "example"):
            return source, drawing(image) if kind == "drawing" else image
        offered = examples(self.studio, pack)
        if kind == "first" and pack.words:
            image = 0
        elif kind == "first":  # of the pack's own, which are of its classes
            own = FIRST_DIGIT if FIRST_LABEL in pack.classes else FIRST_OTHER
            image = len(offered) - len(self.studio.examples(pack.name)) + own
        image = image if image < len(offered) else 0
        return ("example", image), offered[image]

    def first_label(self, pack: Pack, source: Source = FIRST) -> str | None:
        """What a picture is turned into until a person says it."""
        if not pack.words:
            return FIRST_LABEL if FIRST_LABEL in pack.classes else next(reversed(pack.classes), None)
        own, *other = captions(self.studio, pack, self.chosen(pack, source)[0]) or ("",)
        return (next(iter(other), "") if source == FIRST else own) or near(pack)[-1]

    def noised(self, pack: Pack, values: Values, settings: dict) -> IntoNoise:
        source, image = self.chosen(pack, values[self.source])
        how = {name: settings.get(name) for name in ("seed", "steps", "sampler")}
        frames = list(in_turns(self.studio.noise(pack.name, image, **how)))
        return IntoNoise(pack.name, marked(source), values[self.strength], [noised_shot(frame) for frame in frames])

    def _take(self, values: Values, source: Source, request: gr.Request) -> Iterator[Values]:
        tell = speaker()
        pack = self.studio.pack(values[self.pack])
        for text in waiting(self.studio, pack.name):
            yield self._said(tell, text)
        told = captions(self.studio, pack, source)
        proposed = self.label.propose(told[0]) if told else {}
        # A run with the last picture ends.
        yield self._said(tell, "Adding noise…") | proposed | self.let_go(pack, request)
        how = self.recipe.peek(values)
        try:
            shown = {self.into_noise: self.noised(pack, values | {self.source: source}, how), self.film: None}
        except MmdemoError:
            yield self._said(tell, READY)  # of the picture that is there still
            raise
        idle = {} if request.session_hash in self._latest else self.let_go(pack, request)
        yield self._said(tell, READY, shown) | {self.source: source} | idle

    def _take_example(self, values: Values, event: gr.EventData, request: gr.Request) -> Iterator[Values]:
        yield from self._take(values, ("example", told(event, "index", int)), request)

    def _take_drawing(self, values: Values, event: gr.EventData, request: gr.Request) -> Iterator[Values]:
        yield from self._take(values, ("drawing", told(event, "png", str)), request)

    def _take_file(self, values: Values, request: gr.Request) -> Iterator[Values]:
        yield from self._take(values, ("file", values[self.upload]), request)


def first_strength(pack: Pack) -> float:
    return WORDS_STRENGTH if pack.words else FIRST_STRENGTH


def noised_shot(frame: NoisedFrame) -> NoisedShot:
    shown = picture(frame.image, exact=False)
    return NoisedShot(f"{frame.timestep:.0f}", f"{frame.a:.2f}", f"{frame.s:.2f}", shown)
