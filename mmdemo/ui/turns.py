"""Who may compute, and when: what waits is bounded, everybody has a share, and nothing is computed for nobody.

gradio's queue holds what was asked; a run takes a turn before every step, so that whoever asks for little need not wait
until somebody's long run is done, and a run ends as soon as nobody listens to it. A picture that a tab draws before
anybody asks for one goes on in what time the others leave.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from gradio.context import LocalContext
from gradio.exceptions import Error
from gradio.queueing import Event, Queue
from gradio.route_utils import get_fn
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mmdemo.results import Run
from mmdemo.ui.sessions import LONGEST

T = TypeVar("T")
R = TypeVar("R")

WIDTH = 4  # runs that compute at once
ALONE = 2  # of those, if all are one client's: they keep the cores busy, and more would hold up what answers
SHORT = 5.0  # seconds of computing, after which a run lets shorter ones go first
QUIET = 1.0  # seconds since the last run that was asked for, after which the time is for what nobody did
# What runs are: somebody asked for them; likewise, for a picture that follows a hand; nobody asked.
ASKED, FOLLOWING, UNASKED = "asked", "following", "unasked"
SPARE = {ASKED: 4.0, FOLLOWING: 30.0}  # until then what is UNASKED waits so many times as long as its last step took
UNHEARD = 3.0  # seconds in which somebody must begin to listen for an answer
UNFETCHED = 60.0  # seconds for which an answer is kept that nobody came for
LATER = 10  # seconds after which whoever is refused may ask again
MODELS = {"concurrency_id": "models", "concurrency_limit": 32}  # whatever computes; more of it waits in the queue
# How much may run and wait at once, in all and from one address, behind which there may be a whole class.
MOST, SHARE = {"models": 128, "": 2000}, {"models": 48, "": 1000}


class Line(Queue):
    """gradio's queue, which refuses at once what it would not answer soon, and knows who listens."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.closing = False  # whether all that is new is refused
        self.ANALYTICS_MAX_EVENTS = 1  # gradio would keep ten thousand, which nobody reads
        self.sleep_when_free = 0.005  # to look a thousand times a second, as gradio does, takes 4 % of a core
        self._listeners: Counter[str] = Counter()  # of an event, of a session, or to keep a page's session
        self._unheard: dict[str, float] = {}  # sessions that nobody listens to, and since when

    async def push(self, body, request, username):
        if body.session_hash is not None and not 0 < len(body.session_hash) <= LONGEST:
            raise HTTPException(400, f"session_hash has 1 to {LONGEST} characters; or leave it out")
        if body.fn_index is not None:
            function = get_fn(self.blocks, None, body)
            if function.fn is None:
                raise HTTPException(400, f"function {body.fn_index} is the browser's own; there is nothing to ask")
            self._admit(function.concurrency_id, client(request))
        return await super().push(body, request, username)

    async def process_events(self, events, *more):
        try:
            await super().process_events(events, *more)
        finally:
            for event in events:
                if event.session_hash == event._id:  # asked without a session, for which gradio made one
                    self.blocks.state_holder.forget(event._id)

    def compute_analytics_summary(self, records):
        """Nothing: nobody reads it, and gradio would import pandas for it and count anew at every event."""

    def admit(self, endpoint: str, asker: str) -> None:
        """Raises HTTPException, as push would later, if there is no room for a call of an endpoint's."""
        for function in self.blocks.fns.values():
            if function.api_name == endpoint:
                return self._admit(function.concurrency_id, asker)

    def _admit(self, kind: str, asker: str) -> None:
        kind = kind if kind in MOST else ""
        going = [event for event in self.event_ids_to_events.copy().values() if kind in ("", event.concurrency_id)]
        if len(going) >= MOST[kind]:
            raise refusal(503, f"the app is busy: {len(going)} requests wait; come back in {LATER} seconds")
        own = sum(client(event.request) == asker for event in going)
        if own >= SHARE[kind]:
            raise refusal(429, f"{own} requests of yours are not answered yet; come back in {LATER} seconds")

    @contextmanager
    def listened_to(self, key: str) -> Iterator[None]:
        """While somebody listens to an event or a session; "" = to nothing."""
        self._listeners[key] += 1
        try:
            yield
        finally:
            self._listeners[key] -= 1
            if not self._listeners[key]:
                del self._listeners[key]

    def knows(self, key: str) -> bool:
        """Whether there is, or was a moment ago, such an event or session to listen to."""
        return (
            key in self.event_ids_to_events
            or key in self.pending_messages_per_session
            or any(key in events for events in self.pending_event_ids_session.copy().values())
        )

    def is_open(self, session: str) -> bool:
        """Whether a page's heartbeat is heard."""
        return heartbeat(session) in self._listeners

    def sweep(self) -> None:
        """Forgets answers that nobody came for, and what gradio keeps of those that were given."""
        asked = {event.session_hash for event in self.event_ids_to_events.copy().values()}
        left = {*self.pending_messages_per_session, *self.pending_event_ids_session} - asked - {*self._listeners}
        self._unheard = {one: self._unheard.get(one, time.monotonic()) for one in left}
        for session, since in self._unheard.items():
            if time.monotonic() - since > UNFETCHED:
                self.pending_messages_per_session.pop(session, None)
                self.pending_event_ids_session.pop(session, None)

    def wants(self, event_id: str) -> bool:
        """Whether anybody listens for the event's answer, or may be about to."""
        event: Event | None = self.event_ids_to_events.get(event_id)
        if event is None or not event.alive:
            return False
        heard = event_id in self._listeners or event.session_hash in self._listeners
        return heard or time.monotonic() - event.enqueue_time < UNHEARD

    def close_to_new(self, patience: float) -> None:
        """Refuses all that is new, and waits until what runs is answered, or for so many seconds."""
        self.closing, until = True, time.monotonic() + patience
        while time.monotonic() < until and (any(map(self.wants, self.event_ids_to_events.copy())) or self._telling()):
            time.sleep(0.02)

    def _telling(self) -> bool:
        """Whether a listener has not been told yet of something that is done."""
        return any(
            events and session in self._listeners for session, events in self.pending_event_ids_session.copy().items()
        )


def heartbeat(session: str) -> str:
    """What is listened to by a page, for as long as it is open."""
    return f"heartbeat of {session}"


def refusal(status: int, why: str) -> HTTPException:
    return HTTPException(status, why, {"Retry-After": str(LATER)})


def client(request: Request | None) -> str:
    """The address that asks. Behind a proxy it is the proxy's own, unless FORWARDED_ALLOW_IPS says to trust it."""
    return request.client.host if request is not None and request.client else ""


class Turns:
    """Places for those that compute, given step by step."""

    def __init__(self, width: int = WIDTH):
        self._width, self._changed = width, threading.Condition()
        self._runs: list[_Run] = []  # by arrival
        self._asked, self._spare = 0.0, 0.0  # when there was last a run that somebody asked for, and its SPARE

    @contextmanager
    def run(self, asker: str, wanted: Callable[[], bool], kind: str = ASKED) -> Iterator[Callable[[], None]]:
        """A run of one client's.  Gives what waits for its next turn, and raises Error once it is not wanted.

        kind: ASKED, FOLLOWING or UNASKED.
        """
        me = _Run(asker, kind)

        def wait() -> None:
            with self._changed:
                me.rest()
                while me not in self._going():
                    if not wanted():
                        break
                    self._changed.wait(0.2)  # or until then: others grow long, and listeners leave, without a word
            if not wanted():
                raise Error("nobody listens for the answer any more", print_exception=False)
            me.begun = time.monotonic()

        with self._changed:
            self._runs.append(me)
        try:
            yield wait
        finally:
            with self._changed:
                self._runs.remove(me)
                self._changed.notify_all()

    def _going(self) -> list["_Run"]:
        """Those that may take a step: one of each client's, short ones first; ALONE of a client's who is alone."""
        ranks, order, now = Counter(), [], time.monotonic()
        for place, run in enumerate(self._runs):
            if run.kind != UNASKED:
                order.append((ranks[run.client], run.served > SHORT, place, run))
                ranks[run.client] += 1
        if order:
            self._asked, self._spare = now, max(SPARE[run.kind] for *_, run in order)
        share = 1 if len(ranks) > 1 else ALONE
        going = [run for rank, _, _, run in sorted(order) if rank < share][: self._width]
        quiet = now - self._asked > QUIET
        spare = 0.0 if quiet else self._spare
        return going + [run for run in self._runs if run.kind == UNASKED and now > run.rested + spare * run.step]


class _Run:
    def __init__(self, asker: str, kind: str = ASKED):
        self.client, self.kind, self.served, self.begun = asker, kind, 0.0, None
        self.step, self.rested = 0.0, time.monotonic()  # how long its last one took, and when that ended

    def rest(self) -> None:
        self.rested = time.monotonic()
        self.step = 0.0 if self.begun is None else self.rested - self.begun
        self.served += self.step
        self.begun = None


TURNS = Turns()
_KIND = ContextVar("kind", default=ASKED)


@contextmanager
def turns_of(kind: str) -> Iterator[None]:
    """Within it, turns are of such runs. What is UNASKED is for whoever comes, and so ends with nobody's leaving."""
    before = _KIND.set(kind)
    try:
        yield
    finally:
        _KIND.reset(before)


@contextmanager
def turn() -> Iterator[Callable[[], None]]:
    """The first turn of whoever asks now, in a handler of gradio's.  Gives what waits for the next."""
    page, event = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    request = LocalContext.request.get(None)
    if _KIND.get() == UNASKED:
        wanted = lambda: True  # noqa: E731
    elif page and event:
        wanted = lambda: page.line.wants(event)  # noqa: E731
    else:  # a function that a script calls, and waits for; or nobody
        wanted = lambda: request is None or not request.scope["gone"].is_set()  # noqa: E731
    with TURNS.run(client(request), wanted, _KIND.get()) as wait:
        wait()
        yield wait


def in_turns(run: Run[T, Any]) -> Iterator[T]:
    """The run, each step in its turn; it ends with whoever asked for it."""
    with turn() as wait, closing(run):
        for one in run:
            yield one
            wait()


def result_in_turns(run: Run[Any, R]) -> R:
    """What comes of the run, each step of it in its turn."""
    for _ in in_turns(run):
        pass
    return run.result()
