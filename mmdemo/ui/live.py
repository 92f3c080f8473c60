"""The third part of the Compare tab: a picture between four corners, drawn anew by the pack's student wherever the hand
is.

Knows the corners' controls and what the studio answers. static/live.js has the square, and asks for two pictures at a
time at most, so that none queues up behind the hand.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import gradio as gr

from mmdemo import results
from mmdemo.arguments import ARGUMENTS, MAX_SEED, SETTINGS
from mmdemo.cores import cores
from mmdemo.errors import MmdemoError, PackError
from mmdemo.kinds import whole
from mmdemo.packs import Pack
from mmdemo.samplers import FAST, MAX_JUMPS, USUAL_JUMPS
from mmdemo.studio import Studio
from mmdemo.ui.browser import OPENING, PRIVATE, answered, data_uri, said_plainly, widget
from mmdemo.ui.controls import Component, LabelControl, Values, control, flat
from mmdemo.ui.messages import Blended, Square, Text, speaker
from mmdemo.ui.turns import FOLLOWING, UNASKED, result_in_turns, turns_of
from mmdemo.ui.workbench import drawable, once_a_pack, waiting

CORNERS = ("Top left", "Top right", "Bottom left", "Bottom right")
LABELS, SEEDS = "labels", "seeds"  # what stands at the corners
FIRST_PLACE = (0.25, 0.25)
FIRST_SEED = 0
PATCHES = 64  # of a picture that are worth a core: with fewer a second is no faster, and the browser has use for it
OPENING_WORDS = "Drawing the first picture…"
READY = "Drag over the square, or use the arrow keys: each place is drawn anew, and better where you let go."


class Live:
    """Made where it is to stand; `connect` makes it work."""

    def __init__(self, studio: Studio, pack: Component):
        self.studio, self.pack = studio, pack
        self._first = once_a_pack(self._draw_first)
        with gr.Row(elem_classes="mm-work"):
            with gr.Column(scale=5, min_width=300):
                self.status = widget("status")
                self.view = widget("live", elem_id="live-view", server_functions=[painter(studio)])
            with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
                self.kind = gr.Radio(kinds(False), value=LABELS, label="Corners", info="What the picture lies between.")
                self.label, self.labels = LabelControl(ARGUMENTS["label"]), []
                for two in (CORNERS[:2], CORNERS[2:]):
                    with gr.Row(elem_classes="mm-ends"):
                        for name in two:
                            with gr.Column(min_width=100):
                                self.labels.append(self._corner(name))
                seed = SETTINGS["seed"]
                self.seed = gr.Number(FIRST_SEED, label=seed.label, info="Of seeds at the corners, the first of four.")
                steps = replace(
                    SETTINGS["steps"],
                    help="Of the picture where you let go; on the way there it is one.",
                    high=MAX_JUMPS,
                )
                (self.steps,) = control(steps, USUAL_JUMPS)

    def connect(self, opened: Callable) -> None:
        """opened(show, inputs, outputs): calls show for the pack that the page opens with, and whenever it changes."""
        every = [self.label, *self.labels]
        controls = [self.kind, *flat(every), self.seed, self.steps]
        fitted = opened(self._fit, {self.pack}, controls, **PRIVATE)
        opened(self._open, {self.pack}, [self.status, self.view], after=fitted, **OPENING, **PRIVATE)
        always = {"trigger_mode": "multiple", **PRIVATE}
        self.kind.input(said_plainly(self._choose), {self.pack, self.kind}, flat(every), **always)
        moved = [one.input for one in (self.kind, self.seed, self.steps, *(part.classes for part in every))]
        moved += [part.prompt.submit for part in every]
        change = (said_plainly(self._change), {self.pack, *controls}, [self.view])
        gr.on(moved, *change, **always)
        for one in every:
            one.taken.then(*change, **always)

    def _corner(self, name: str) -> LabelControl:
        argument = replace(ARGUMENTS["label"], label=name, help="", text=(name, ""))
        return LabelControl(argument, lambda pack: first_labels(pack)[CORNERS.index(name)])

    def _fit(self, values: Values) -> Values:
        """Sets all controls to what the square of a pack begins with."""
        pack = self.studio.pack(values[self.pack])
        pack = pack if pack.can_sample else replace(pack, classes=())
        kind = gr.update(choices=kinds(pack.words), value=LABELS)
        fitted = {self.kind: kind, self.seed: FIRST_SEED, self.steps: USUAL_JUMPS}
        for one in (self.label, *self.labels):
            fitted |= one.fit(pack, dict.fromkeys(one.components), seen=one is not self.label)
        return fitted

    def _open(self, values: Values) -> Iterator[Values]:
        tell = speaker()
        try:
            pack = lively(self.studio, values[self.pack])
            for text in waiting(self.studio, pack.name):
                yield {self.status: tell(Text(text))}
            if not self._first.is_made(pack):
                yield {self.status: tell(Text(OPENING_WORDS))}
            square = self._first(pack)
            yield {self.status: tell(Text(READY)), self.view: tell(square)}
        except MmdemoError as error:
            yield {self.status: tell(Text(str(error))), self.view: tell()}

    def _draw_first(self, pack: Pack) -> Square:
        labels, seeds = first_labels(pack), [FIRST_SEED] * 4
        with turns_of(UNASKED):  # not after the other tabs' first pictures: it is no longer than one of their steps
            made = result_in_turns(self.studio.blend(pack.name, labels, *FIRST_PLACE, seeds, sampler=FAST))
        square = Square(pack.name, [*map(made.named, labels)], labels, seeds, made.recipe.steps)
        return replace(square, place=FIRST_PLACE, picture=blended(made))

    def _choose(self, values: Values) -> Values:
        """Shows the controls of what stands at the corners."""
        pack, by_label = self.studio.pack(values[self.pack]), values[self.kind] == LABELS
        shown = self.label.seen(pack, not by_label)
        for one in self.labels:
            shown |= one.seen(pack, by_label)
        return shown

    def _change(self, values: Values) -> Values:
        """Other corners.  Raises ArgumentError for those that this pack, which may have come just now, lacks."""
        pack, by_label = self.studio.pack(values[self.pack]), values[self.kind] == LABELS
        asked = [one.read(values) for one in (self.labels if by_label else [self.label])]
        labels = ARGUMENTS["labels"].check("label", asked, pack)
        seed = whole("seed", values[self.seed], 0, MAX_SEED - 3)
        seeds = [seed + (0 if by_label else corner) for corner in range(4)]
        corners = [results.named(one, pack.words) for one in labels] if by_label else [f"seed {one}" for one in seeds]
        return {self.view: speaker()(Square(pack.name, corners, list(labels), seeds, values[self.steps]))}


def painter(studio: Studio) -> Callable[[list], dict]:
    """What a script calls as server.blend_at(…): the picture at a place in a square."""

    @answered
    def blend_at(pack: str, labels: list, seeds: list, steps: int, x: float, y: float) -> Blended:
        with cores(studio.pack(pack).patches // PATCHES), turns_of(FOLLOWING):
            return blended(result_in_turns(studio.blend(pack, labels, x, y, seeds, steps=steps, sampler=FAST)))

    return blend_at


def lively(studio: Studio, name: str) -> Pack:
    """A pack with a student.  Raises PackError, with what to do instead, if it has none."""
    pack = drawable(studio, name)
    if FAST not in pack.samplers:
        how = f"train one: python -m mmdemo train student --pack {name}"
        raise PackError(f"{name} has no student, which alone draws fast enough to follow a hand; {how}")
    return pack


def kinds(reads: bool) -> list[tuple[str, str]]:
    """What may stand at the corners, by name.  reads: for a pack that reads."""
    return [("Prompts" if reads else "Classes", LABELS), ("Seeds", SEEDS)]


def first_labels(pack: Pack) -> list[str]:
    own = (pack.prompts if pack.words else pack.classes) or ("",)
    return [own[corner % len(own)] for corner in range(4)]


def blended(made: results.Blend) -> Blended:
    file = f"{made.pack}-blend-{made.recipe.seed}.png"
    return Blended(data_uri(made.png_bytes()), file, in_words(made))


def in_words(made: results.Blend) -> str:
    by_seed = len(set(made.seeds)) > 1
    corners = [f"seed {one}" for one in made.seeds] if by_seed else map(made.named, made.labels)
    shares = Counter()
    for corner, share in zip(corners, made.shares, strict=True):
        shares[corner] += share
    parts = ", ".join(f"{corner}: {100 * share:.0f} %" for corner, share in shares.items() if share)
    rest = made.named(made.labels[0]) if by_seed else f"seed {made.recipe.seed}"
    steps = f"{made.recipe.steps} step{'s' * (made.recipe.steps > 1)} of {FAST}"
    said = f"{parts}; {rest}, {steps}, drawn in {1000 * made.seconds:.0f} ms."
    return "\n".join(filter(None, (said[0].upper() + said[1:], made.notice)))
