"""The workbench: what all tabs that draw have in common. A tab states its controls, its run and its view (a Form).

Fitting the controls to the pack, the first picture, waiting for the models, start, Stop, a second click and stale
answers exist once, here.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from typing import Any, TypeVar

import gradio as gr

from mmdemo.errors import MmdemoError, PackError
from mmdemo.packs import Pack
from mmdemo.results import Run
from mmdemo.studio import Studio
from mmdemo.ui.browser import FITTING, OPENING, PRIVATE, said_plainly, sparingly, widget
from mmdemo.ui.controls import Component, LabelControl, RecipeControls, Values, flat
from mmdemo.ui.messages import Text, message, speaker
from mmdemo.ui.turns import MODELS, UNASKED, in_turns, turns_of

T = TypeVar("T")
STOPPED = Text("Stopped.", ends=True)
DRAWING_FIRST = threading.Lock()  # one tab after another: side by side, each would be as late as the last


class Form:
    """A tab that draws. Made where it is to stand; `connect` makes it work.

    A subclass says what is its own by the methods up to `finished`; each gets the controls' values and gives updates or
    messages by component.
    """

    name: str  # of the tab, whose elements it is known by
    button: str  # what starts it
    opening: str  # what is said while the first picture is drawn
    seed = 0  # that the first picture is drawn with
    own: dict[str, str] = {}  # choices of the recipe that stand in place of the pack's
    randomize = True  # whether the next has a seed of its own, unless a person says otherwise

    def __init__(self, studio: Studio, pack: Component):
        self.studio, self.pack = studio, pack
        self._latest: dict[str, object] = {}  # the run that may write, by session
        self._opening: set[tuple[str, object]] = set()  # openings of packs that may write: session, and which one
        self._first = once_a_pack(self._draw_first)
        with gr.Row(elem_classes="mm-work"):
            with gr.Column(scale=5, min_width=300):
                self.status = widget("status")
                self.views = self.build_views()
            with gr.Column(scale=2, min_width=280, elem_classes="mm-side"):
                made = self.build_controls()
                self.labels = [one for one in made if isinstance(one, LabelControl)]
                self.controls = flat(made)
                self.recipe = RecipeControls(self.seed, self.randomize, self.own)
                with gr.Row():
                    self.go = gr.Button(self.button, variant="primary", interactive=False, min_width=100)
                    self.stop = gr.Button("Stop", interactive=False, min_width=100)

    # ------------------------------------------------------------------------------------------ what a form states

    def build_views(self) -> list[Component]:
        """Where the drawing is shown, and what remembers some of it (gr.State)."""
        raise NotImplementedError

    def build_controls(self) -> list[Component | LabelControl]:
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

    def ending(self, pack: Pack) -> str:
        """What to say between the last step and the end, where that takes a while."""
        return ""

    def finished(self, values: Values, items: list, result: Any) -> tuple[str, Values]:
        """What to say and show at the end.  items: all that came of the run."""
        raise NotImplementedError

    def first(self, pack: Pack) -> tuple[str, Values]:
        """What is shown of a pack before anybody clicks."""
        values, settings = self.start(pack)
        run = self.ask(pack, values, settings)
        _, begun = self.begin(pack, values, settings)
        items = list(in_turns(run))
        words, shown = self._ended(pack, values, items, run.result())
        return words, begun | shown

    def open(self, pack: Pack, values: Values) -> Iterator[tuple[str, Values]]:
        """What to say and show whenever a pack is opened."""
        if not self._first.is_made(pack):
            yield self.opening, {}
        yield self._first(pack)

    def fitted_by(self) -> list[Component]:
        """The controls that `fit` reads, besides what is to be drawn. Few: whatever an event has read, gradio searches
        the whole page for at each later event."""
        return []

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
        read = {self.pack, *flat(self.labels), *self.fitted_by(), *sum(self.recipe.choices.values(), [])}
        fitted = opened(self._fit, read, controls, **FITTING)
        opened(self._open, {self.pack, *self.looked_at()}, self.shown(), after=fitted, **OPENING, **PRIVATE)
        (sampler,) = self.recipe["sampler"]
        sampler.input(said_plainly(self._fit_sampler), {self.pack, sampler}, self.recipe.components, **PRIVATE)
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
        self._opening -= self._openings(session)
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
            for new in sparingly(takewhile(lambda _: self._latest.get(session) is me, in_turns(run))):
                items += new
                goes_on = new[-1].index + 1 < new[-1].total
                if goes_on or self.ending(pack):
                    words, shown = self.unfinished(values, new)
                    words = words if goes_on else self.ending(pack)
                    yield self._said(tell, words, shown) | (begun if len(items) == 1 else {})
            if self._latest.get(session) is me:
                yield self._said(tell, *self._ended(pack, values, items, run.result())) | self._buttons(running=False)
            elif session not in self._latest:  # let go while it said that it begins: that is not to stay
                yield {self.status: message(STOPPED)} | self._buttons(running=False)
        finally:
            run.close()
            if self._latest.get(session) is me:
                del self._latest[session]

    def is_running(self, request: gr.Request) -> bool:
        return request.session_hash in self._latest

    def _openings(self, session: str) -> set[tuple[str, object]]:
        return {one for one in self._opening.copy() if one[0] == session}

    def let_go(self, pack: Pack, request: gr.Request) -> Values:
        """Updates of the buttons, now that what runs in this session is no longer wanted and writes no more."""
        self._latest.pop(request.session_hash, None)
        return self._buttons(running=False) | {self.go: gr.update(interactive=pack.can_sample)}

    def _draw_first(self, pack: Pack) -> tuple[str, Values]:
        with DRAWING_FIRST, turns_of(UNASKED):
            return self.first(pack)

    def _fit(self, values: Values, request: gr.Request) -> Values:
        pack = self.studio.pack(values[self.pack])
        buttons = self.let_go(pack, request)
        buttons[self.go] |= {"elem_classes": [] if pack.can_sample else ["mm-idle"]}
        pack = pack if pack.can_sample else replace(pack, classes=())
        return buttons | self.fit(pack, values) | self.recipe.fit(pack, values)

    def _fit_sampler(self, values: Values) -> Values:
        (sampler,) = self.recipe["sampler"]
        pack = self.studio.pack(values[self.pack])
        negative = self.recipe.show(pack, {"negative": pack.defaults.negative})  # a student takes none
        return self.recipe.fit_sampler(pack, values[sampler]) | negative

    def _open(self, values: Values, request: gr.Request) -> Iterator[Values]:
        """A run that has begun takes its place. A later opening does not, since gradio may drop the later's answers."""
        if self.is_running(request):  # begun while this waited in the queue
            return
        tell, me = speaker(), (request.session_hash, object())
        self._opening.add(me)
        try:
            pack = drawable(self.studio, values[self.pack])  # before its models are loaded
            for text in waiting(self.studio, pack.name):
                yield self._said(tell, text)
            for words, shown in self.open(pack, values):
                if me not in self._opening:
                    return
                yield self._said(tell, words, shown)
        except MmdemoError as error:
            if me in self._opening:
                yield self._said(tell, str(error), dict.fromkeys(self.views))
        finally:
            self._opening.discard(me)

    def _run(self, values: Values, request: gr.Request) -> Iterator[Values]:
        yield from self.watch(values, self.recipe.read(values), request.session_hash)

    def _ended(self, pack: Pack, values: Values, items: list, result: Any) -> tuple[str, Values]:
        words, shown = self.finished(values, items, result)
        return "\n".join(filter(None, (words, self.notice(pack, result)))), shown

    def _said(self, tell: Callable, words: str, shown: Values | None = None) -> Values:
        told = {view: record if isinstance(view, gr.State) else tell(record) for view, record in (shown or {}).items()}
        return {self.status: tell(Text(words))} | told

    def _buttons(self, running: bool) -> Values:
        return {self.go: gr.update(interactive=not running), self.stop: gr.update(interactive=running)}

    def _failed(self, values: Values, request: gr.Request) -> Values:
        if self.is_running(request):  # a later run has begun, and goes on
            return {self.status: gr.skip()}
        can_draw = False
        with suppress(MmdemoError):
            can_draw = self.studio.pack(values[self.pack]).can_sample
        # Another pack may have been chosen meanwhile, and what is said of that one stays.
        opening = self._openings(request.session_hash)
        ended = {self.status: gr.skip() if opening else message(STOPPED)}
        return ended | self._buttons(running=False) | {self.go: gr.update(interactive=can_draw)}

    def _stopped(self, values: Values, request: gr.Request) -> Values:
        self._latest.pop(request.session_hash, None)
        return self._failed(values, request)


def once_a_pack(make: Callable[[Pack], T]) -> Callable[[Pack], T]:
    """make(pack), done once a pack: a class that opens the page together waits for one drawing, not for thirty. Other
    packs do not wait for it.  Its is_made(pack) says whether nobody waits any more."""
    made: dict[str, tuple[Pack, T]] = {}
    locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def is_made(pack: Pack) -> bool:
        return pack.name in made and made[pack.name][0] == pack  # not trained anew since

    def remembered(pack: Pack) -> T:
        with locks[pack.name]:
            if not is_made(pack):
                made[pack.name] = pack, make(pack)
            return made[pack.name][1]

    remembered.is_made = is_made
    return remembered


def drawable(studio: Studio, name: str) -> Pack:
    """A pack that can sample.  Raises PackError, with what to do instead, if it cannot."""
    pack = studio.pack(name)
    if pack.can_sample:
        return pack
    others = [other.name for other in studio.packs() if other.can_sample and not other.problem]
    listed = " or ".join(filter(None, (", ".join(others[:-1]), *others[-1:])))
    choose = f"choose {listed}" if others else f"train one: python -m mmdemo train dit --pack {name}"
    raise PackError(f"{name} has no transformer, so it cannot draw; {choose}")


def waiting(studio: Studio, pack: str) -> Iterator[str]:
    """Loads the pack's models, saying so if that is not done already."""
    if not studio.is_loaded(pack):
        yield "Loading the models…"
        studio.load(pack)
