"""Ctrl-C and SIGTERM end a training after the step under way, with a checkpoint, and whatever else goes on where it was
stopped. Imports nothing heavy.

Signals are a process's, so what is known of them is too: `asked`, which a run looks at after each of its steps.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """A training was ended by a signal.  number: that signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Asked:
    """What signals ask of this process.

    The first one is left to a run at its steps, which heeds it; elsewhere, or a second time, it raises Stopped where it
    comes. A launcher of several processes sends each the terminal's signal once more: there one is all that is heard.
    """

    number: int | None = None  # the first signal's; None = there was none
    begun = False  # whether anything may have to be cleaned up
    stepping = False  # whether a run is at its steps
    saved = 0  # the step of the last checkpoint; 0 = there is none to go on from
    unit = "step"  # what is counted
    say: Callable[[], None]  # how to go on

    def __call__(self, number: int, frame: object) -> None:
        if not self.begun:  # an exception would come out of an import of torch as another, or as an abort
            self.say()
            os._exit(128 + number)
        left_to_others = self.stepping if self.number is None else several_processes()
        self.number = self.number or number
        if not left_to_others:
            raise Stopped(self.number)


asked = Asked()


@contextmanager
def heeded(say: Callable[[], None]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM are heard by `asked`.  say: prints how to go on, where a training stops."""
    vars(asked).clear()  # what was known of a training before this one
    asked.say = say
    if threading.current_thread() is not threading.main_thread():  # no other is told of signals
        yield
        return
    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Stopped:
        say()
        raise
    finally:
        asked.number = None
        for number, handler in before.items():
            signal.signal(number, handler)


def several_processes() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"
