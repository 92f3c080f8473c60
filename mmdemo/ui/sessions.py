"""What the app remembers of each visitor, which is little: gradio's sessions without what only its deep links need."""

import time
from collections.abc import Callable
from types import SimpleNamespace

from gradio.state_holder import SessionState, StateHolder

FORGOTTEN = 300  # seconds after its last request at which a page that is no longer open is forgotten
LONGEST = 100  # characters of a session's name


class Session(SessionState):
    def __init__(self, blocks):
        # Of a page without components nothing is kept: of ours it would be half a megabyte, and 20 ms.
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))
        self.config_values = _Unkept()


class _Unkept(dict):
    """Every component's last value is put here by gradio, each page's pictures among them, and read by nobody."""

    def __contains__(self, key) -> bool:
        return True

    def __missing__(self, key) -> dict:
        return {}

    def __setitem__(self, key, value) -> None:
        pass


class Sessions(StateHolder):
    """is_open: whether a session's page is open, as its heartbeat shows."""

    def __init__(self, is_open: Callable[[str], bool]):
        super().__init__()
        self._is_open = is_open

    def __getitem__(self, session_id: str) -> SessionState:
        if not isinstance(session_id, str) or len(session_id) > LONGEST:
            raise KeyError("no such session")
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)

    def update(self, session_id: str) -> None:
        """Where there are too many, one goes whose page is not open: nobody's is lost to a stranger's requests."""
        with self.lock:
            self.session_data.move_to_end(session_id)
            if len(self.session_data) > self.capacity:
                self.forget(next(filter(lambda one: not self._is_open(one), self.session_data), session_id))

    def forget(self, session_id: str) -> None:
        self.session_data.pop(session_id, None)
        self.time_last_used.pop(session_id, None)

    def sweep(self) -> None:
        for session in list(self.session_data):
            used = self.time_last_used.get(session)
            if used and time.time() - used.timestamp() > FORGOTTEN and not self._is_open(session):
                self.forget(session)
