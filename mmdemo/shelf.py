"""The packs that there are, in folders and on the Hub, and the models of those that were used last.

Packs on the Hub are fetched in the background; models are loaded when they are first used, and held within a bound.
torch and diffusers are imported only then, so that a page can be up first.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmdemo import loading, packs
from mmdemo.errors import PackError
from mmdemo.hub import Fetch, parts
from mmdemo.kinds import choice, number, shown
from mmdemo.packs import Pack

if TYPE_CHECKING:
    from mmdemo.pipeline import ClassPipeline

DEVICES = ("auto", "cpu", "cuda", "mps")
RETRY = 60  # seconds after which a verb asks again for a pack that could not be fetched from the Hub


class Shelf:
    """Packs, by name. Safe to use from many threads.

    weights: folders that hold packs.  hub: repositories `owner/name[@revision]`.  device: one of DEVICES.
    memory: GB that the models held may take together; beyond it the least recently used go, never those just asked for.
    """

    def __init__(
        self,
        weights: Sequence[str | Path] = ("weights",),
        hub: Sequence[str] = (),  # fetched when first asked for
        device: str = "auto",
        memory: float = 2.0,
        lend: Callable[[Callable], Callable] | None = None,  # what lends a GPU to a function, as ZeroGPU does
    ):
        self._weights = tuple(Path(folder) for folder in weights)
        self._lent = lend(_on_a_lent_device) if lend else None
        # By repository; None = not asked for yet.
        self._hub: dict[str, Fetch | None] = dict.fromkeys([*packs.repositories(self._weights), *hub])
        for repo in self._hub:
            parts(repo)  # refuses what names no repository: it would hide a pack of that name
        self._named = frozenset(self._hub)  # the others were asked for later
        self._device = choice("device", device, DEVICES)
        self._memory = number("memory", memory, 0, inf) * 1e9
        self._pipelines: OrderedDict[str, _Held] = OrderedDict()  # by name, the least recently used first
        # A pack waits for nothing but itself: each has a lock to be loaded under.
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._importing, self._holding, self._fetching = threading.Lock(), threading.Lock(), threading.Lock()

    def packs(self) -> list[Pack]:
        """Every pack: its classes, how many codes it has, the samplers that fit it; a damaged one with its problem.

        One on the Hub that is not here has as its problem that it is on its way, and how far, or why it did not come.
        """
        found = {pack.name: pack for pack in packs.find(self._weights)}
        for repo, fetch in self._hub.copy().items():
            found[repo] = fetch.pack if fetch else Pack(repo, Path(repo), "not fetched yet")
        return list(found.values())

    def pack(self, name: str) -> Pack:
        """The description of one pack, found without reading the others; one on the Hub is waited for.

        Raises PackError if it cannot be used.
        """
        found = None
        if isinstance(name, str):
            found = self._fetched(name) if name in self._hub else next(iter(packs.find(self._weights, name)), None)
        if found is None:
            usable = ", ".join(pack.name for pack in self.packs() if not pack.problem) or "none yet: train one"
            raise PackError(f"pack is {shown(name)}; it must be one of: {usable}")
        if found.problem:
            raise PackError(f"pack {name!r} cannot be used: {found.problem}")
        return found

    def fetch(self, repo: str) -> None:
        """Begin to fetch a Hub repository, or try again, in the background; packs() says how far it is.

        Does nothing while it is on its way, or when it is here. Any repository may be given, so a visitor may not.
        With one that is new, those that were asked for before and did not come leave the list: they may be mistyped.
        """
        self._begun(repo)

    @property
    def hub(self) -> list[str]:
        """The repositories that it opens from the Hub."""
        return list(self._hub)

    @property
    def fetching(self) -> dict[str, float]:
        """The repositories on their way, and what share of each has come, from 0 to 1."""
        return {repo: fetch.share for repo, fetch in self._hub.copy().items() if fetch and not fetch.ended}

    def is_loaded(self, pack: str) -> bool:
        """Whether the pack's models are in memory."""
        return isinstance(pack, str) and pack in self._pipelines

    def load(self, pack: str) -> None:
        """Bring the pack's models into memory: seconds the first time, for torch and diffusers; then nothing."""
        self._pipeline(self.pack(pack))

    # ------------------------------------------------------------------------------------------------------ models

    def _with_models(self, pack: Pack, work: Callable, *arguments):
        """The work with the pack's pipeline, loaded when the first of it is asked for."""
        if self._lent is None:
            return (yield from work(self._pipeline(pack), *arguments))
        for one in self._lent(work, self._pipeline(pack), *arguments):
            if isinstance(one, _Returned):
                return one.result
            yield one

    def _begun(self, repo: str) -> Fetch:
        with self._fetching:
            if repo not in self._hub:
                for other, fetch in self._hub.copy().items():
                    if other not in self._named and fetch.ended and fetch.pack.problem:
                        del self._hub[other]
            last = self._hub.get(repo)
            if last is None or (last.ended and last.pack.problem):
                last = Fetch(repo)
                last.start()
                self._hub[repo] = last
            return last

    def _fetched(self, repo: str) -> Pack:
        """A Hub repository's pack, once it is here. One that could not be fetched is asked for again after a while."""
        fetch = self._hub.get(repo)
        if fetch is None or (fetch.ended and time.monotonic() - fetch.ended > RETRY):
            fetch = self._begun(repo)
        fetch.join()
        return fetch.pack

    def _pipeline(self, pack: Pack) -> ClassPipeline:
        with self._importing:  # two threads at their first import of diffusers would both fail
            import mmdemo.pipeline  # noqa: F401
        with self._loading[pack.name]:
            held = self._pipelines.get(pack.name)
            if held is None or held.stamp != pack.stamp:  # never loaded, dropped, or trained anew since
                pipeline = loading.load(pack, self._device)
                held = _Held(pack.stamp, pipeline, _bytes(pipeline))
            with self._holding:
                self._hold(pack.name, held)
        return held.pipeline

    def _hold(self, name: str, held: _Held) -> None:
        """Keeps a pipeline as the one used last, and lets go of those that are too many."""
        self._pipelines[name] = held
        self._pipelines.move_to_end(name)
        while len(self._pipelines) > 1 and sum(one.bytes for one in self._pipelines.values()) > self._memory:
            self._pipelines.popitem(last=False)  # a request still at work with it keeps it until it is done


class _Held(NamedTuple):
    stamp: int  # of the pack when it was loaded
    pipeline: ClassPipeline
    bytes: int  # of its weights


@dataclass(frozen=True)
class _Returned:
    """What work returned, where it could only yield."""

    result: Any


def _on_a_lent_device(work: Callable, pipeline: ClassPipeline, *arguments) -> Iterator:
    """Work where a device is lent for as long as it goes on, perhaps in a process of its own, which only yields."""
    result = yield from work(pipeline.to(loading.pick_device("auto")), *arguments)
    yield _Returned(result)


def _bytes(pipeline: ClassPipeline) -> int:
    models = filter(None, (pipeline.vae, pipeline.transformer, pipeline.student))
    return sum(tensor.nbytes for model in models for tensor in (*model.parameters(), *model.buffers()))
