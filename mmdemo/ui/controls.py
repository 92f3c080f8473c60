"""What a person sets a drawing with: a control for every setting of a recipe, and one for what is to be drawn.

A control is fitted to the pack, read as the studio takes it, and set to what somebody asks for. It knows no run.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import gradio as gr

from mmdemo.arguments import MAX_AXIS, MAX_SEED, MAX_STEPS, SETTINGS
from mmdemo.errors import ArgumentError
from mmdemo.kinds import Argument, Choice, Flag, Interval, Label, Labels, Number, Whole, prompt
from mmdemo.packs import Pack, read_words
from mmdemo.samplers import FAST, MAX_JUMPS, USUAL_JUMPS
from mmdemo.ui.browser import PRIVATE, widget
from mmdemo.ui.messages import Chip, Chips, message

NOTHING = ""  # chosen from a list that may be left alone
Component = gr.components.Component
Values = dict[Component, Any]  # what the controls hold, or what is to be put into them


class RecipeControls:
    """A control for every setting of a drawing: the seed, and the others folded away. Draws them where it is made."""

    def __init__(self, seed: int, randomize: bool, own: dict[str, str] | None = None):
        """own: choices that stand in place of the pack's until a person chooses."""
        self._own = own or {}
        with gr.Row():
            # No minimum or maximum here: the studio's sentence says more than gradio's.
            self.seed = gr.Number(seed, label=SETTINGS["seed"].label, info=SETTINGS["seed"].help)
            self.randomize = gr.Checkbox(randomize, label="Randomize", info="A new seed each time.")
        with gr.Accordion("Advanced", open=False):
            made = {name: control(one) for name, one in SETTINGS.items() if name != "seed"}
        self.labels = {name: one for name, one in made.items() if isinstance(one, LabelControl)}
        self.others = {name: flat(one if isinstance(one, list) else [one]) for name, one in made.items()}
        self.components = [self.seed, self.randomize, *sum(self.others.values(), [])]
        # All that `fit` reads: what was chosen of these stays if the next pack has it too.
        self.choices = {name: parts for name, parts in self.others.items() if isinstance(SETTINGS[name], Choice)}

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
        fitted = {}
        for name in self.choices.keys() - self.labels.keys():
            (part,) = self.others[name]
            fitted[part] = among(self._offered(name, pack), values[part], self._own.get(name) or own.get(name))
        fitted |= self.show(pack, {name: own[name] for name in self.others if name in own and name not in self.choices})
        (sampler,) = self.others["sampler"]
        if pack.can_sample:
            fitted |= self.fit_sampler(pack, fitted[sampler]["value"])
        for one in self.labels.values():
            fitted |= one.fit(pack, values)
        return fitted

    def _offered(self, name: str, pack: Pack) -> Sequence[str | tuple[str, str]]:
        """What a list holds of a pack. A student comes first, for a quick look; where a form has a sampler of its own,
        a student is of no use."""
        choices = offered(SETTINGS[name], pack)
        if FAST not in choices:
            return choices
        quick = [] if name in self._own else [(f"{FAST} ({USUAL_JUMPS} steps)", FAST)]
        return [*quick, *(one for one in choices if one != FAST)]

    def fit_sampler(self, pack: Pack, sampler: str) -> Values:
        """Updates to what a sampler draws with: a student takes few steps, and the pack's own guidance is in it."""
        own, fast = pack.defaults, sampler == FAST
        steps, most = (USUAL_JUMPS, MAX_JUMPS) if fast else (own.steps, MAX_STEPS)
        shown = self.show(pack, {"guidance": own.guidance, "interval": own.interval})
        fitted = {part: gr.update(value=value, interactive=not fast) for part, value in shown.items()}
        (slider,) = self.others["steps"]
        return fitted | {slider: gr.update(value=steps, maximum=most)}

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
        self.taken = self.examples.take(None, [self.examples], [self.prompt], js="(text) => text", **PRIVATE)
        self.components = [self.classes, self.prompt, self.examples]

    def read(self, values: Values) -> str | list[str]:
        """What is chosen: a label, or those of several lines.  Raises ArgumentError in the page's words."""
        typed = values.get(self.prompt) or ""
        lines = list(filter(None, map(str.strip, typed.splitlines())))
        for one in lines if self.lines else [typed]:
            prompt(f"“{self.argument.text[0]}”", one)
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
    if isinstance(setting, Flag):
        return [gr.Checkbox(value, **words)]
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
    chosen = chosen if isinstance(chosen, list) else []  # what a page hands over is not checked: FITTING
    value = [one for one in chosen if one in choices] or [one for one in otherwise if one in choices]
    return gr.update(choices=list(choices), value=value)
