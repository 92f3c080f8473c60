"""The controls of every tab that draws: the seed, and the folded-away steps, guidance, its interval and sampler."""

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import gradio as gr

from mmdemo.errors import ArgumentError, MmdemoError, PackError
from mmdemo.studio import MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from mmdemo.ui.browser import PRIVATE, message, said_plainly, speaker
from mmdemo.views import PackInfo

T = TypeVar("T")

IDLE = gr.update(interactive=True), gr.update(interactive=False)  # the button that starts a run, and Stop
BUSY = IDLE[::-1]


class Settings:
    """Draws the controls where it is made. `inputs` are in the order of `arguments()`."""

    def __init__(self, seed: int = 0):
        with gr.Row():
            # No minimum or maximum here: the studio's sentence says more than gradio's.
            self.seed = gr.Number(seed, label="Seed", precision=0, info="The same seed draws the same picture.")
            self.randomize = gr.Checkbox(True, label="Randomize", info="A new seed each time.")
        with gr.Accordion("Advanced", open=False):
            self.steps = gr.Slider(1, MAX_STEPS, 20, step=1, label="Steps", info="More steps are slower and finer.")
            self.guidance = gr.Slider(
                0, MAX_GUIDANCE, 2, step=0.1, label="Guidance", info="How strongly to follow the class."
            )
            # From pure noise down, as the run goes. All of it unless somebody narrows it (arXiv:2404.07724).
            self.upper = gr.Slider(0, 1, 1, step=0.05, label="Guide from noise level", info="1 is pure noise.")
            self.lower = gr.Slider(
                0, 1, 0, step=0.05, label="Guide down to noise level", info="0 is the clean picture."
            )
            self.sampler = gr.Dropdown([], label="Sampler", info="The rule that turns one step into the next.")
        self.inputs = [self.seed, self.randomize, self.steps, self.guidance, self.sampler, self.lower, self.upper]
        self.choices = [self.steps, self.guidance, self.sampler, self.lower, self.upper]

    @staticmethod
    def arguments(seed, randomize, steps, guidance, sampler, lower=0, upper=1) -> tuple:
        """seed, steps, guidance, sampler, interval as the studio takes them; a random seed is drawn, to be shown."""
        if randomize:
            seed = secrets.randbelow(MAX_SEED + 1)
        elif seed is None:
            raise ArgumentError(f"seed is empty; give a whole number from 0 to {MAX_SEED}, or tick Randomize")
        return seed, steps, guidance, sampler, (lower, upper)

    @staticmethod
    def of(info, sampler: str | None) -> tuple:
        """The pack's own defaults for `choices`; the sampler stays if the pack has it too."""
        value = sampler if sampler in info.samplers else next(iter(info.samplers), None)
        return info.steps, info.guidance, gr.update(choices=list(info.samplers), value=value), *info.interval


def recipe(drawn) -> str:
    """How something was drawn, in words; drawn has steps, sampler, guidance and interval."""
    low, high = drawn.interval
    where = "" if (low, high) == (0, 1) else f" at noise levels {low:g} to {high:g}"
    return f"{drawn.steps} steps of {drawn.sampler}, guidance {drawn.guidance:g}{where}"


def about(studio, pack: str) -> PackInfo:
    """What the studio's list says of one pack.  Raises PackError if it is gone."""
    for info in studio.packs():
        if info.name == pack:
            return info
    raise PackError(f"pack {pack!r} is no longer there; reload the page to see those that are")


def kept(draw: Callable[[PackInfo], T]) -> Callable[[PackInfo], T]:
    """draw(pack), done once a pack: a class that opens the page together waits for one drawing, not for thirty."""
    drawings, lock = {}, threading.Lock()

    def kept_or_drawn(pack: PackInfo) -> T:
        with lock:
            if pack not in drawings:
                drawings[pack] = draw(pack)
            return drawings[pack]

    return kept_or_drawn


def first_shown(studio, saying: str, draw: Callable[[PackInfo], tuple[str, dict]]) -> Callable[[str], Iterator[tuple]]:
    """What a tab shows of a pack before anybody clicks: a handler for [status, view], given the pack's name.

    draw: gives the status line and the view's message.  saying: while it draws.
    """
    first = kept(draw)

    def show(pack: str) -> Iterator[tuple]:
        tell = speaker()
        try:
            drawable(studio, pack)  # a pack that cannot sample says so here, before its models are loaded
            for text in waiting(studio, pack):
                yield tell(text=text), gr.skip()
            yield tell(text=saying), gr.skip()
            words, view = first(about(studio, pack))
            yield tell(text=words), tell(**view)
        except MmdemoError as error:
            yield tell(text=str(error)), tell()

    return show


def can_be_stopped(studio, pack, running, status: gr.HTML, go: gr.Button, stop: gr.Button) -> None:
    """Ends the event `running` at a click on Stop, or when another pack is chosen, and gives the buttons back."""

    @said_plainly
    def stopped(name: str) -> tuple:
        # Another pack may have been chosen meanwhile, and what is said of that one stays.
        return message(text="Stopped.", ends=True), gr.update(interactive=about(studio, name).can_sample), IDLE[1]

    ended = {"fn": stopped, "inputs": [pack], "outputs": [status, go, stop], **PRIVATE}
    running.failure(**ended)  # gradio counts a Stop as a failure too
    stop.click(**ended, cancels=[running])
    pack.change(None, cancels=[running], trigger_mode="multiple")


def drawable(studio, pack: str) -> PackInfo:
    """`about` a pack that can sample.  Raises PackError, with what to do instead, if it cannot."""
    info = about(studio, pack)
    if info.can_sample:
        return info
    others = " or ".join(other.name for other in studio.packs() if other.can_sample and not other.problem)
    choose = f"choose {others}, or train one" if others else "train one"
    raise PackError(f"{pack} has no transformer, so it cannot draw; {choose}: python -m mmdemo train dit --pack {pack}")


def to_draw(studio, pack: str) -> PackInfo:
    """`about` a pack, for the controls: without class names where nothing can be drawn of them."""
    info = about(studio, pack)
    return info if info.can_sample else replace(info, classes=())


def waiting(studio, pack: str) -> Iterator[str]:
    """Loads the pack's models, saying so if that is not done already."""
    if not studio.is_loaded(pack):
        yield "Loading the models…"
        studio.load(pack)
