"""What answers leave behind, and how much of it may stay."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gradio as gr

MOST = 300_000_000  # bytes of files: with uploads on their way there are never 500 MB
OLDEST = 4 * 3600  # seconds that a file may stay: a page that is open may ask for its upload again
MANY = 5000  # files: a slow disk takes a millisecond for each in the end
EVERY, AT_MOST_EVERY = 10, 1  # seconds


def sweeping(demo: gr.Blocks, folder: Path) -> Callable[[], None]:
    """Sweeps now and then from now on.  folder: where answers and uploads lie.  Returns what sweeps at once."""
    sweeps, swept = threading.Lock(), 0.0

    def sweep() -> None:
        nonlocal swept
        with sweeps:
            if time.monotonic() - swept < AT_MOST_EVERY:
                return
            swept = time.monotonic()
            gone = sweep_files(folder)
            for known in demo.temp_file_sets:  # gradio remembers every file that it ever wrote
                known -= gone
            demo.app.state_holder.sweep()
            demo.line.sweep()

    def forever() -> None:
        while True:
            time.sleep(EVERY)
            sweep()

    threading.Thread(target=forever, daemon=True).start()
    return sweep


def sweep_files(folder: Path, most: int = MOST, oldest: float = OLDEST, many: int = MANY) -> set[str]:
    """Deletes the oldest files until few enough and few enough bytes are left, and those that are too old.  Returns
    their paths."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    gone, kept, now = set(), 0, time.time()
    for place, (written, size, path) in enumerate(sorted(found, reverse=True)):
        kept += size
        if kept > most or place >= many or now - written > oldest:
            path.unlink(missing_ok=True)
            gone.add(str(path))
            with suppress(OSError):  # others are in it
                path.parent.rmdir()
    return gone
