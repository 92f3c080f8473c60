"""The parts of long work, kept in files until all of it is done: stopped and begun again, it goes on where it was."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mmdemo import files


class Unfinished:
    """A context: its parts are gone once it ends well, and stay if it does not.

    folder: None = nothing is kept.  key: what all parts depend on, but for the code: whoever changes how they are made
    removes the folder.  seconds: those that earlier runs spent on the parts that were found.
    """

    def __init__(self, folder: Path | None = None, key: object = None):
        self.folder, self.key, self.seconds = folder, key, 0.0
        self._files: set[Path] = set()

    def __enter__(self) -> "Unfinished":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            with suppress(OSError):  # others may be there, of other work, or gone
                for file in self._files:
                    file.unlink(missing_ok=True)
                if self.folder is not None:
                    self.folder.rmdir()

    def part(self, make: Callable[[], Tensor], key: object, *tensors: Tensor) -> Tensor:
        """What `make` gives, or gave in an earlier run.  key, tensors: all else that it depends on."""
        if self.folder is None:
            return make()
        file = self.folder / f"{files.digest(repr((self.key, key)), *tensors)}.safetensors"
        self._files |= {file, file.with_suffix(".lock")}
        asked = time.perf_counter()
        with files.one_at_a_time(file):  # the same command elsewhere may be at it
            try:
                waited = time.perf_counter() - asked  # which is on this run's clock already
                (made,), seconds = files.read(file, "made"), float(files.about(file)["seconds"])
                self.seconds += max(0.0, seconds - waited)
            except (OSError, SafetensorError):
                began, made = time.perf_counter(), make()
                with files.replacing(file) as partial:
                    save_file({"made": made.contiguous()}, partial, {"seconds": str(time.perf_counter() - began)})
        return made


AT_ONCE = Unfinished()  # of which nothing is kept
