"""The Restore tab: a picture, what is left of it once it is damaged, and four ways in which it may have been.

Knows the controls, how a picture is damaged (damage.py) and where it comes from (as in Reconstruct). The pictures, and
the brush that erases, are static/restore.js; each candidate has a film like that of any run, of which one is seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import gradio as gr
from PIL import Image

from mmdemo.arguments import ARGUMENTS, FACTORS, TASKS
from mmdemo.errors import ArgumentError
from mmdemo.images import open_image
from mmdemo.packs import Pack
from mmdemo.restoring import SAMPLER
from mmdemo.tokens import seen
from mmdemo.ui.browser import PRIVATE, picture, said_plainly, told, widget
from mmdemo.ui.controls import NOTHING, LabelControl, Values
from mmdemo.ui.damage import GAUSSIAN, KINDS, erased, lower_half, spoilt
from mmdemo.ui.damage import NOTHING as AS_IT_IS
from mmdemo.ui.film import film, screen
from mmdemo.ui.messages import Examples, Restored, speaker
from mmdemo.ui.pictures import Source, drawing, examples, marked, refused, thumbnail
from mmdemo.ui.turns import MODELS, result_in_turns
from mmdemo.ui.workbench import Form, waiting

FIRST: Source = ("first", None)
CANDIDATES = 4
NAMES = {"inpaint": "Erase", "upscale": "Shrink", "denoise": "Add noise"}  # of the damage each task mends
READY = "Damage the picture as you like, and then Restore."


class Restore(Form):
    name, button, opening = "restore", "Restore", "Restoring the first picture…"
    own = {"sampler": SAMPLER}

    def build_views(self):
        self.pictures = widget("restore", elem_id="restore-view")
        self.films = [screen(self.studio, f"restore-film-{i}") for i in range(CANDIDATES)]
        return [self.pictures, *self.films]

    def build_controls(self):
        self.picker = widget("picker", elem_id="restore-picker")
        self.upload = gr.File(label="Your picture", file_types=["image"], height=160, elem_id="restore-upload")
        self.source = gr.State(FIRST)
        self.mask = gr.State(None)  # as a data URI; None = the lower half
        choices = [(NAMES[task], task) for task in TASKS]
        self.task = gr.Radio(
            choices, value=TASKS[0], label="Damage", info="Paint over a part, make it small, or add noise."
        )
        # Seen until `fit`, as in controls.py.
        self.factor = gr.Radio(list(FACTORS), value=4, label="Times smaller", info="The picture is made larger again.")
        self.kind = gr.Radio(
            list(KINDS),
            value=GAUSSIAN,
            label="Noise",
            info="Restoring knows how much Gaussian noise there is; the rest it estimates.",
        )
        self.amount = gr.Slider(
            0.05, 1, 0.25, step=0.05, label="Amount", info="Of Gaussian noise its standard deviation; white is 1."
        )
        words = {
            "help": "What it is drawn as; none leaves it open.",
            "text": ("Prompt", "What it is drawn as, in words; empty leaves it open."),
        }
        self.label = LabelControl(replace(ARGUMENTS["label"], **words), lambda pack: NOTHING, [("none", NOTHING)])
        return [self.source, self.mask, self.task, self.factor, self.kind, self.amount, self.label]

    def connect(self, opened):
        super().connect(opened)
        damage = [self.task, self.factor, self.kind, self.amount]
        read = {self.pack, self.source, self.mask, *damage}
        outputs = [*self.shown(), self.source, *damage[1:], self.go, self.stop]
        always = {"outputs": outputs, "trigger_mode": "multiple", **MODELS, **PRIVATE}
        self.picker.example(said_plainly(self._take_example), read, **always)
        self.picker.drawing(said_plainly(self._take_drawing), read, **always)
        refused(self.upload.upload(said_plainly(self._take_file), read | {self.upload}, **always), self.upload)
        for one in (self.task, self.factor, self.kind):
            one.input(said_plainly(self._look), read, **always)
        self.amount.release(said_plainly(self._look), read, **always)
        painted = {"outputs": [*self.shown(), self.mask, self.go, self.stop], "trigger_mode": "multiple", **PRIVATE}
        self.pictures.mask(said_plainly(self._take_mask), read, **painted)

    def fit(self, pack, values):
        offered = Examples([thumbnail(image) for image in examples(self.studio, pack)])
        return {self.picker: speaker()(offered)} | self.label.fit(pack, values) | self._seen(values)

    def fitted_by(self):
        return [self.task]

    def also_fitted(self):
        return [self.picker]

    def looked_at(self):
        return [self.source, self.mask, self.task, self.factor, self.kind, self.amount]

    def start(self, pack):
        damage = {self.task: TASKS[0], self.factor: 4, self.kind: GAUSSIAN, self.amount: 0.25}
        label = self.label.show(pack, NOTHING)
        return {self.source: FIRST, self.mask: None, **damage, **label}, {"seed": self.seed, **self.own}

    def open(self, pack, values):
        if (values[self.source], values[self.mask], values[self.task]) == (FIRST, None, TASKS[0]):
            yield from super().open(pack, values)
        else:
            yield READY, {self.pictures: self.restored(pack, values)} | dict.fromkeys(self.films)

    def ask(self, pack, values, settings):
        image, options = self.damaged(pack, values)
        least, most = options["mask"].getextrema() if "mask" in options else (0, 255)
        if not most:
            raise ArgumentError("nothing is painted over; paint over what is to be drawn anew")
        if least:
            raise ArgumentError("all of the picture is painted over; leave some of it to go by")
        label = self.label.read(values) or None
        return self.studio.restore(
            pack.name, image, values[self.task], label=label, invert="no", count=CANDIDATES, **options, **settings
        )

    def begin(self, pack, values, settings):
        return "", {self.pictures: self.restored(pack, values)}

    def unfinished(self, values, new):
        last = new[-1]
        pack = self.studio.pack(last.frames[0].pack)
        shown = {self.pictures: self.restored(pack, values, [frame.x0 for frame in last.frames])}
        films = {view: film([frame]) for view, frame in zip(self.films, last.frames, strict=True)}
        return f"Step {last.index + 1} of {last.total}…", shown | films

    def ending(self, pack):
        return "Restored. Reading what they are…" if pack.classes else ""

    def finished(self, values, items, result):
        pack = self.studio.pack(result.pack)
        notes = [f"seed {seed}" for seed in result.seeds]
        if self.truth_is_known(values):
            likeness = result.likeness(self.truth(pack, values[self.source]))
            notes = [
                f"{note}: {psnr:.1f} dB, SSIM {ssim:.2f}" for note, (psnr, ssim) in zip(notes, likeness, strict=True)
            ]
        read = self.read(pack, result.images)
        notes = [", ".join((note, f"read as {one}")) if one else note for note, one in zip(notes, read, strict=True)]
        shown = {self.pictures: self.restored(pack, values, result.images, notes)}
        for i, view in enumerate(self.films):
            shown[view] = film([one.frames[i] for one in items])
        unguided = () if result.label else ("guidance", "interval")
        how = f"Four candidates, {result.recipe.words(unguided)}: restored in {result.seconds:.1f} s."
        found = "" if result.noise is None else f" Noise of {result.noise:.2f}."
        if self.truth_is_known(values):
            (one,) = self.read(pack, [self.truth(pack, values[self.source])])
            found += f" The truth is read as {one}." if one else ""
        return how + found, shown

    def read(self, pack: Pack, pictures: list[Image.Image]) -> list[str]:
        """The class that the pack itself sees in each; "" where it knows none."""
        if not pack.classes:
            return [""] * len(pictures)
        runs = [self.studio.classify(pack.name, one, invert="no") for one in pictures]
        return [result_in_turns(run).label for run in runs]

    # ------------------------------------------------------------------------------------------------------ pictures

    def truth(self, pack: Pack, source: Source) -> Image.Image:
        """The picture as the model sees it, before it is damaged."""
        kind, which = self.chosen(pack, source)
        if kind == "example":
            which = examples(self.studio, pack)[which]
        return seen(pack, drawing(which) if kind == "drawing" else open_image(which), "auto")[0]

    def chosen(self, pack: Pack, source: Source) -> Source:
        """Which picture is meant in this pack, which may have fewer examples; the first is one of its own."""
        kind, which = source
        if kind not in ("first", "example"):
            return source
        offered, own = examples(self.studio, pack), self.studio.examples(pack.name)
        first = 0 if pack.words or not own else len(offered) - len(own)
        return "example", which if kind == "example" and which < len(offered) else first

    def damaged(self, pack: Pack, values: Values) -> tuple[Image.Image, dict]:
        """The picture as it is left, and what restoring it is told of the damage."""
        truth, task = self.truth(pack, values[self.source]), values[self.task]
        if task == "upscale":
            return truth.reduce(values[self.factor]), {"factor": values[self.factor]}
        if task == "denoise":
            kind, amount = values[self.kind], values[self.amount]
            return spoilt(truth, kind, amount), {"noise": amount if kind == GAUSSIAN else None}
        mask = lower_half(truth.size)
        if values[self.mask]:
            mask = drawing(values[self.mask]).convert("L").resize(truth.size, Image.Resampling.BOX)
        mask = mask.point(lambda value: 255 * (value >= 64))
        return erased(truth, mask), {"mask": mask}

    def truth_is_known(self, values: Values) -> bool:
        return values[self.task] != "denoise" or values[self.kind] != AS_IT_IS

    def restored(self, pack: Pack, values: Values, candidates=(), notes: list[str] | None = None) -> Restored:
        truth = self.truth(pack, values[self.source])
        return Restored(
            source=marked(self.chosen(pack, values[self.source])),
            task=values[self.task],
            truth=picture(truth),
            damaged=picture(self.damaged(pack, values)[0]),
            known=self.truth_is_known(values),
            candidates=[picture(one, exact=False) for one in candidates],
            notes=notes,
        )

    def _seen(self, values: Values) -> Values:
        """What there is to be chosen of the damage."""
        task = values[self.task]
        noisy = task == "denoise"
        there = {self.factor: task == "upscale", self.kind: noisy, self.amount: noisy and values[self.kind] != AS_IT_IS}
        return {one: gr.update(visible=True if seen else "hidden") for one, seen in there.items()}

    def _look(self, values: Values, request: gr.Request, source: Source | None = None) -> Iterator[Values]:
        """Shows a picture, damaged; a run with the last one ends."""
        tell, pack = speaker(), self.studio.pack(values[self.pack])
        values = values | ({self.source: source} if source else {})
        for text in waiting(self.studio, pack.name):
            yield self._said(tell, text)
        yield self._ready(tell, values, request) | {self.source: values[self.source]} | self._seen(values)

    def _ready(self, tell: Callable, values: Values, request: gr.Request) -> Values:
        """The picture as it is damaged now; what runs was of another damage, and ends."""
        pack = self.studio.pack(values[self.pack])
        shown = {self.pictures: self.restored(pack, values)} | dict.fromkeys(self.films)
        return self._said(tell, READY, shown) | self.let_go(pack, request)

    def _take_example(self, values: Values, event: gr.EventData, request: gr.Request) -> Iterator[Values]:
        yield from self._look(values, request, ("example", told(event, "index", int)))

    def _take_drawing(self, values: Values, event: gr.EventData, request: gr.Request) -> Iterator[Values]:
        yield from self._look(values, request, ("drawing", told(event, "png", str)))

    def _take_file(self, values: Values, request: gr.Request) -> Iterator[Values]:
        yield from self._look(values, request, ("file", values[self.upload]))

    def _take_mask(self, values: Values, event: gr.EventData, request: gr.Request) -> Values:
        uri = told(event, "png", str)
        drawing(uri)  # refused now, if it is none
        chosen = {self.mask: uri}
        if self.is_running(request):
            return chosen | self._ready(speaker(), values | chosen, request)
        return chosen | self._said(speaker(), READY)  # what was restored before is gone
