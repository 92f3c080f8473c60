"""The workbench: what all tabs that draw have in common. A tab states its controls, its run and its view (a Form).

Fitting the controls to the pack, the first picture, waiting for the models, start, Stop, a second click and stale
answers exist once, here.
"""

import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, takewhile
from typing import Any, TypeVar

import gradio as gr

from mmdemo.arguments import (
    MAX_AXIS,
    MAX_SEED,
    SETTINGS,
    Argument,
    Choice,
    Interval,
    Label,
    Labels,
    Number,
    Whole,
    prompt,
)
from mmdemo.errors import ArgumentError, MmdemoError, PackError
from mmdemo.packs import Pack, read_words
from mmdemo.results import Run
from mmdemo.studio import Studio
from mmdemo.ui.browser import FITTING, MODELS, OPENING, PRIVATE, said_plainly, sparingly, widget
from mmdemo.ui.messages import Chip, Chips, Text, message, speaker

T = TypeVar("T")
NOTHING = ""  # chosen from a list that may be left alone
DRAWING_FIRST = threading.Lock()  # one tab after another: side by side, each would be as late as the last
Component = gr.components.Component
Values = dict[Component, Any]  # what the controls hold, or what is to be put into them


class Form:
    """A tab that draws. Made where it is to stand; `connect` makes it work.

    A subclass says what is its own by the methods up to `finished`; each gets the controls' values and gives updates or
    messages by component.
    """

    name: str  # of the tab, whose elements it is known by
    button: str  # what starts it
    opening: str  # what is said while the first picture is drawn
    seed = 0  # that the first picture is drawn with
    randomize = True  # whether the next has a seed of its own, unless a person says otherwise

    def __init__(self, studio: Studio, pack: Component):
        self.studio, self.pack = studio, pack
        self._latest: dict[str, object] = {}  # the run that may write, by session
        self._first = once_a_pack(self._draw_first)
        with gr.Row(elem_classes="mm-work"):
            with gr.Column(scale=5, min_width=300):
                self.status = widget("status")
                self.views = self.build_views()
            with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
                made = self.build_controls()
                self.labels = [one for one in made if isinstance(one, LabelControl)]
                self.controls = flat(made)
                self.recipe = RecipeControls(self.seed, self.randomize)
                with gr.Row():
                    self.go = gr.Button(self.button, variant="primary", interactive=False, min_width=100)
                    self.stop = gr.Button("Stop", interactive=False, min_width=100)

    # ------------------------------------------------------------------------------------------ what a form states

    def build_views(self) -> list[gr.HTML]:
        """Where the drawing is shown."""
        raise NotImplementedError

    def build_controls(self) -> list["Component | LabelControl"]:
        """What a person chooses, above the recipe."""
        raise NotImplementedError

    def fit(self, pack: Pack, values: Values) -> Values:
        """Updates that fit the controls to another pack; what it has too stays chosen. A mere codec has no classes."""
        raise NotImplementedError

    def start(self, pack: Pack) -> tuple[Values, dict[str, Any]]:
        """What the first picture is drawn with: values of the controls, and settings."""
        raise NotImplementedError

    def ask(self, pack: Pack, values: Values, settings: dict[str, Any]) -> Run:
        """The run that is asked for. It checks every argument, and draws nothing yet."""
        raise NotImplementedError

    def begin(self, pack: Pack, values: Values, settings: dict[str, Any]) -> tuple[str, Values]:
        """What to say and show before the first step."""
        return "", {}

    def unfinished(self, values: Values, new: list) -> tuple[str, Values]:
        """What to say and show of a run that goes on.  new: what came of it since the last time."""
        raise NotImplementedError

    def finished(self, values: Values, items: list, result: Any) -> tuple[str, Values]:
        """What to say and show at the end.  items: all that came of the run."""
        raise NotImplementedError

    def first(self, pack: Pack) -> tuple[str, Values]:
        """What is shown of a pack before anybody clicks."""
        values, settings = self.start(pack)
        run = self.ask(pack, values, settings)
        _, begun = self.begin(pack, values, settings)
        items = list(run)
        words, shown = self._ended(pack, values, items, run.result())
        return words, begun | shown

    def open(self, pack: Pack, values: Values) -> Iterator[tuple[str, Values]]:
        """What to say and show whenever a pack is opened."""
        yield self.opening, {}
        yield self._first(pack)

    def also_fitted(self) -> list[Component]:
        """What `fit` changes besides the controls."""
        return []

    def looked_at(self) -> list[Component]:
        """The controls that `open` reads."""
        return []

    def notice(self, pack: Pack, result: Any) -> str:
        """One sentence on what was asked for and not understood."""
        return result.notice

    def varied(self, values: Values) -> Sequence[str]:
        """The settings that have no single value in this run."""
        return ()

    # ------------------------------------------------------------------------------------------- what all of them do

    def connect(self, opened: Callable) -> None:
        """opened(show, inputs, outputs): calls show for the pack that the page opens with, and whenever it changes."""
        everything = {self.pack, *self.controls, *self.recipe.components}
        controls = [self.go, self.stop, *self.controls, *self.also_fitted(), *self.recipe.components]
        fitted = opened(self._fit, everything, controls, **FITTING)
        opened(self._open, {self.pack, *self.looked_at()}, self.shown(), after=fitted, **OPENING, **PRIVATE)
        asked = [self.go.click, *(one.prompt.submit for one in (*self.labels, *self.recipe.labels.values()))]
        gr.on(asked, None, js=f"() => window.mmdemo.bring('{self.name}')", **PRIVATE)
        self.can_be_stopped(gr.on(asked, said_plainly(self._run), everything, self.written(), **MODELS, **PRIVATE))

    def shown(self) -> list[Component]:
        return [self.status, *self.views]

    def written(self) -> list[Component]:
        return [*self.shown(), self.recipe.seed, self.go, self.stop]

    def can_be_stopped(self, run: gr.events.Dependency) -> None:
        """Ends the event at a click on Stop, or when another pack is chosen, and gives the buttons back."""
        ended = {"inputs": {self.pack}, "outputs": [self.status, self.go, self.stop], **PRIVATE}
        run.failure(self._failed, **ended)  # gradio counts a Stop as a failure too
        self.stop.click(self._stopped, cancels=[run], **ended)
        self.pack.change(None, cancels=[run], trigger_mode="multiple")

    def watch(self, values: Values, settings: dict[str, Any], session: str) -> Iterator[Values]:
        """A run from start to end. A later one of the same session takes its place, and it ends without a word."""
        pack = self.studio.pack(values[self.pack])
        run = self.ask(pack, values, settings)
        me = self._latest[session] = object()
        tell = speaker()
        try:
            seed = {} if "seed" in self.varied(values) else {self.recipe.seed: settings["seed"]}
            begun = seed | self._buttons(running=True)  # said again: gradio drops one of two quick messages
            yield self._said(tell, "Starting…") | begun
            for text in waiting(self.studio, pack.name):
                yield self._said(tell, text) | begun
            words, shown = self.begin(pack, values, settings)
            if words:
                yield self._said(tell, words, shown) | begun
            items = []
            for new in sparingly(takewhile(lambda _: self._latest.get(session) is me, run)):
                items += new
                if new[-1].index + 1 < new[-1].total:
                    yield self._said(tell, *self.unfinished(values, new)) | (begun if len(items) == 1 else {})
            if self._latest.get(session) is me:
                yield self._said(tell, *self._ended(pack, values, items, run.result())) | self._buttons(running=False)
        finally:
            run.close()
            if self._latest.get(session) is me:
                del self._latest[session]

    def let_go(self, pack: Pack, request: gr.Request) -> Values:
        """Updates of the buttons, now that what runs in this session is no longer wanted and writes no more."""
        self._latest.pop(request.session_hash, None)
        return self._buttons(running=False) | {self.go: gr.update(interactive=pack.can_sample)}

    def _draw_first(self, pack: Pack) -> tuple[str, Values]:
        with DRAWING_FIRST:
            return self.first(pack)

    def _fit(self, values: Values, request: gr.Request) -> Values:
        pack = self.studio.pack(values[self.pack])
        buttons = self.let_go(pack, request)
        pack = pack if pack.can_sample else replace(pack, classes=())
        return buttons | self.fit(pack, values) | self.recipe.fit(pack, values)

    def _open(self, values: Values) -> Iterator[Values]:
        tell = speaker()
        try:
            pack = drawable(self.studio, values[self.pack])  # before its models are loaded
            for text in waiting(self.studio, pack.name):
                yield self._said(tell, text)
            for words, shown in self.open(pack, values):
                yield self._said(tell, words, shown)
        except MmdemoError as error:
            yield self._said(tell, str(error)) | {view: tell() for view in self.views}

    def _run(self, values: Values, request: gr.Request) -> Iterator[Values]:
        yield from self.watch(values, self.recipe.read(values), request.session_hash)

    def _ended(self, pack: Pack, values: Values, items: list, result: Any) -> tuple[str, Values]:
        words, shown = self.finished(values, items, result)
        return "\n".join(filter(None, (words, self.notice(pack, result)))), shown

    def _said(self, tell: Callable, words: str, shown: Values | None = None) -> Values:
        return {self.status: tell(Text(words))} | {view: tell(record) for view, record in (shown or {}).items()}

    def _buttons(self, running: bool) -> Values:
        return {self.go: gr.update(interactive=not running), self.stop: gr.update(interactive=running)}

    def _failed(self, values: Values, request: gr.Request) -> Values:
        if request.session_hash in self._latest:  # a later run has begun, and goes on
            return {self.status: gr.skip()}
        # Another pack may have been chosen meanwhile, and what is said of that one stays.
        can_draw = False
        with suppress(MmdemoError):
            can_draw = self.studio.pack(values[self.pack]).can_sample
        ended = {self.status: message(Text("Stopped.", ends=True))}
        return ended | self._buttons(running=False) | {self.go: gr.update(interactive=can_draw)}

    def _stopped(self, values: Values, request: gr.Request) -> Values:
        self._latest.pop(request.session_hash, None)
        return self._failed(values, request)


class RecipeControls:
    """A control for every setting of a drawing: the seed, and the others folded away. Draws them where it is made."""

    def __init__(self, seed: int, randomize: bool):
        with gr.Row():
            # No minimum or maximum here: the studio's sentence says more than gradio's.
            self.seed = gr.Number(seed, label=SETTINGS["seed"].label, info=SETTINGS["seed"].help)
            self.randomize = gr.Checkbox(randomize, label="Randomize", info="A new seed each time.")
        with gr.Accordion("Advanced", open=False):
            made = {name: control(one) for name, one in SETTINGS.items() if name != "seed"}
        self.labels = {name: one for name, one in made.items() if isinstance(one, LabelControl)}
        self.others = {name: flat(one if isinstance(one, list) else [one]) for name, one in made.items()}
        self.components = [self.seed, self.randomize, *sum(self.others.values(), [])]

    def __getitem__(self, name: str) -> list[Component]:
        """What a setting is chosen with."""
        return [self.seed] if name == "seed" else self.others[name]

    def read(self, values: Values) -> dict[str, Any]:
        """The settings as the studio takes them; a random seed is drawn, to be shown.  Raises ArgumentError."""
        settings = self.peek(values)
        if values[self.randomize]:
            settings["seed"] = secrets.randbelow(MAX_SEED + 1)
        elif settings["seed"] is None:
            raise ArgumentError(f"seed is empty; give a whole number from 0 to {MAX_SEED}, or tick Randomize")
        return settings

    def peek(self, values: Values) -> dict[str, Any]:
        """The same, with the seed that is shown."""
        read = {"seed": values[self.seed]} | {name: self._chosen(name, values) for name in self.others}
        return {name: None if one == NOTHING else one for name, one in read.items()}

    def _chosen(self, name: str, values: Values) -> Any:
        if name in self.labels:
            return self.labels[name].read(values)
        read = [values[part] for part in self.others[name]]
        # Two parts are an interval: from pure noise down, as the run goes, and so the upper end first.
        return tuple(read[::-1]) if len(read) == 2 else read[0]

    def fit(self, pack: Pack, values: Values) -> Values:
        """Updates to the pack's own; a choice stays if the pack has it too."""
        own = pack.defaults.json() if pack.can_sample else {}
        choices = {one for one in self.others if isinstance(SETTINGS[one], Choice)}
        fitted = {}
        for name in choices - self.labels.keys():
            (part,) = self.others[name]
            fitted[part] = among(offered(SETTINGS[name], pack), values[part])
        for one in self.labels.values():
            fitted |= one.fit(pack, values)
        return fitted | self.show(
            pack, {name: own[name] for name in self.others if name in own and name not in choices}
        )

    def show(self, pack: Pack, settings: dict[str, Any]) -> Values:
        """Updates to these settings."""
        updates = {}
        for name, value in settings.items():
            if name in self.labels:
                updates |= self.labels[name].show(pack, NOTHING if value is None else value)
            else:
                parts = self[name]
                updates |= dict(zip(parts, reversed(value) if len(parts) == 2 else [value], strict=True))
        return updates


class LabelControl:
    """What is to be drawn: a list of the pack's classes or, where the pack reads, a text, with examples to take. Draws
    both where it is made; `fit` shows the one, and leaves the other empty.

    first: what it holds of a pack until somebody chooses: a label, or some.  also: what the list offers besides the
    classes.  several: of the list, too, more than one may be chosen.  examples: "open", "folded" away, or "" for none.
    """

    def __init__(
        self,
        argument: Label | Labels,
        first: Callable[[Pack], str | list[str]] | None = None,
        also: Sequence = (),
        several: bool = False,
        examples: str = "folded",
    ):
        self.argument, self.first, self.also = argument, first or opening, also
        self.lines, self.several, self.offered = isinstance(argument, Labels), several, examples
        choice = {"multiselect": True, "max_choices": MAX_AXIS} if several else {}
        self.classes = gr.Dropdown([], label=argument.label, info=argument.help or None, **choice)
        label, info = argument.text
        # Enter draws, and Shift+Enter begins a line. Seen until `fit`: what is made hidden gradio 6.31 never shows in a
        # tab that was not yet opened.
        self.prompt = gr.Textbox(label=label, info=info or None, max_lines=6)
        self.examples = widget("chips", chips="")
        self.examples.take(None, [self.examples], [self.prompt], js="(text) => text", **PRIVATE)
        self.components = [self.classes, self.prompt, self.examples]

    def read(self, values: Values) -> str | list[str]:
        """What is chosen: a label, or those of several lines."""
        typed = values.get(self.prompt) or ""
        lines = list(filter(None, map(str.strip, typed.splitlines())))
        return values.get(self.classes) or (lines if self.lines else typed)

    def show(self, pack: Pack, chosen: str | list[str]) -> Values:
        """Updates to this choice."""
        return {self.prompt: as_text(chosen)} if pack.words else {self.classes: chosen}

    def fit(self, pack: Pack, values: Values, seen: bool = True, first: str | None = None) -> Values:
        """Updates to what the pack can be asked for. A class stays if it has that too, and what was typed if it reads.

        seen: whether it has any use at the moment.  first: in place of its own.
        """
        first, chosen = first or self.first(pack), values[self.classes]
        text = "" if not pack.words else values[self.prompt] if self.typed(values) else as_text(first)
        offer = [] if pack.words else [*self.also, *pack.classes]
        own = some(offer, chosen, first) if self.several else among(offer, chosen, first)
        put = as_text(first) if pack.words else ""
        filled = {
            self.classes: own,
            self.prompt: gr.update(value=text),
            self.examples: gr.update(value=put, chips=message(self._chips(pack))),
        }
        return {one: filled[one] | update for one, update in self.seen(pack, seen).items()}

    def typed(self, values: Values) -> bool:
        """Whether the box holds a text of a person's own."""
        return (values[self.prompt] or "") not in ("", values[self.examples] or "")

    def propose(self, text: str) -> Values:
        """Updates to this text, as a start of a person's own."""
        return {self.prompt: text, self.examples: text}

    def seen(self, pack: Pack, seen: bool = True) -> Values:
        """Updates to what is to be seen of it."""
        shown = (not pack.words, pack.words, pack.words and bool(self.offered))
        pairs = zip(self.components, shown, strict=True)
        return {one: gr.update(visible=True if seen and there else "hidden") for one, there in pairs}

    def _chips(self, pack: Pack) -> Chips:
        texts = list(filter(None, (prompt("prompt", one) for one in pack.prompts)))
        every = [Chip("all of them", as_text(texts))] if self.lines and len(texts) > 1 else []
        return Chips([*every, *(Chip(one, one) for one in texts)], folded=self.offered == "folded")


def opening(pack: Pack) -> str:
    """What there is to draw first."""
    return next(iter(pack.prompts if pack.words else pack.classes), "")


@lru_cache(maxsize=32)
def near(pack: Pack) -> tuple[str, ...]:
    """Two of the examples of a pack that reads, of whose words the smallest share differs; or the only one."""
    read = read_words(pack)
    words = {one: Counter(word.text.lower() for word in read.words(one)) for one in pack.prompts}

    def apart(pair: tuple[str, str]) -> float:
        one, other = (words[each] for each in pair)
        return ((one - other).total() + (other - one).total()) / max(1, one.total() + other.total())

    pairs = [pair for pair in combinations(words, 2) if apart(pair)]
    return min(pairs, key=apart, default=(opening(pack),))


def flat(made: "Sequence[Component | LabelControl]") -> list[Component]:
    return [part for one in made for part in (one.components if isinstance(one, LabelControl) else [one])]


def as_text(chosen: str | list[str]) -> str:
    return chosen if isinstance(chosen, str) else "\n\n".join(chosen)  # each may be several lines wide


def control(setting: Argument, value: Any = None) -> "list[Component] | LabelControl":
    """What a person sets it with: a slider for a number, two for an interval, a list for a choice."""
    if isinstance(setting, Label):
        return LabelControl(setting, lambda pack: NOTHING, [(setting.nothing, NOTHING)], examples="")
    words = {"label": setting.label, "info": setting.help}
    if isinstance(setting, Interval):
        upper, lower = ({"label": label, "info": info} for label, info in setting.ends)
        return [gr.Slider(0, 1, 1, step=0.05, **upper), gr.Slider(0, 1, 0, step=0.05, **lower)]
    if isinstance(setting, (Whole, Number)):
        step = 1 if isinstance(setting, Whole) else setting.step
        return [gr.Slider(setting.low, setting.high, value, step=step, **words)]
    return [gr.Dropdown([], **words)]


def offered(setting: Choice, pack: Pack) -> Sequence[str]:
    """What a list holds of a pack."""
    return setting.allowed(pack) if pack.can_sample else ()


def among(choices: Sequence[str], chosen: str | None, otherwise: str | None = None) -> dict:
    """An update of a list: what was chosen stays if it is among the choices."""
    values = [one[1] if isinstance(one, tuple) else one for one in choices]  # gradio's pairs of words and value
    first = otherwise if otherwise in values else next(iter(values), None)
    return gr.update(choices=list(choices), value=chosen if chosen in values else first)


def some(choices: Sequence[str], chosen: list | None, otherwise: list) -> dict:
    """The same of a list of which several may be chosen."""
    value = [one for one in chosen or () if one in choices] or [one for one in otherwise if one in choices]
    return gr.update(choices=list(choices), value=value)


def once_a_pack(make: Callable[[Pack], T]) -> Callable[[Pack], T]:
    """make(pack), done once a pack: a class that opens the page together waits for one drawing, not for thirty. Other
    packs do not wait for it."""
    made: dict[str, tuple[Pack, T]] = {}
    locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def remembered(pack: Pack) -> T:
        with locks[pack.name]:
            if pack.name not in made or made[pack.name][0] != pack:  # trained anew since
                made[pack.name] = pack, make(pack)
            return made[pack.name][1]

    return remembered


def drawable(studio: Studio, name: str) -> Pack:
    """A pack that can sample.  Raises PackError, with what to do instead, if it cannot."""
    pack = studio.pack(name)
    if pack.can_sample:
        return pack
    others = " or ".join(other.name for other in studio.packs() if other.can_sample and not other.problem)
    choose = f"choose {others}" if others else f"train one: python -m mmdemo train dit --pack {name}"
    raise PackError(f"{name} has no transformer, so it cannot draw; {choose}")


def waiting(studio: Studio, pack: str) -> Iterator[str]:
    """Loads the pack's models, saying so if that is not done already."""
    if not studio.is_loaded(pack):
        yield "Loading the models…"
        studio.load(pack)
