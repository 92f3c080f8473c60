"""What answers leave behind, files and the memory of closed pages, and how much of it may stay."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gradio as gr

MOST = 300_000_000  # bytes of files: with uploads on their way there are never 500 MB
OLDEST = 4 * 3600  # seconds that a file may stay: a page that is open may ask for its upload again
CLOSED = 300  # seconds after which a page that was closed is forgotten; a browser may have lost its way for a moment
EVERY = 10


def sweeping(demo: gr.Blocks, folder: Path) -> Callable[[], None]:
    """Sweeps now and then from now on.  folder: where answers and uploads lie.  Returns what sweeps at once."""
    sweeps = threading.Lock()

    def sweep() -> None:
        with sweeps:
            gone = sweep_files(folder)
            for known in demo.temp_file_sets:  # gradio remembers every file that it ever wrote
                known -= gone
            forget_closed(demo.app.state_holder)

    def forever() -> None:
        while True:
            time.sleep(EVERY)
            sweep()

    threading.Thread(target=forever, daemon=True).start()
    return sweep


def sweep_files(folder: Path, most: int = MOST, oldest: float = OLDEST) -> set[str]:
    """Deletes the oldest files until few enough bytes are left, and those that are too old.  Returns their paths."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    gone, kept, now = set(), 0, time.time()
    for written, size, path in sorted(found, reverse=True):
        kept += size
        if kept > most or now - written > oldest:
            path.unlink(missing_ok=True)
            gone.add(str(path))
            with suppress(OSError):  # others are in it
                path.parent.rmdir()
    return gone


def forget_closed(holder) -> None:
    """gradio keeps half a megabyte for every page that was ever opened, up to its capacity."""
    for session, state in list(holder.session_data.items()):
        used = holder.time_last_used.get(session)
        if state.is_closed and used and time.time() - used.timestamp() > CLOSED:
            holder.session_data.pop(session, None)
            holder.time_last_used.pop(session, None)
