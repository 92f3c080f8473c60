"""Files that are put in place whole or not at all, and tensors that lie in a file rather than in memory."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmdemo.errors import PackError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Where to write what is to be put in the place of a file, which stays as it was until the new one is on the disk.

    Raises PackError if that cannot be written.
    """
    partial = file.with_suffix(".partial")
    try:
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("r+b") as written:
                os.fsync(written.fileno())
            os.replace(partial, file)
    finally:
        with suppress(OSError):  # it was put in place, or could not be written
            partial.unlink()


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns what an operating system refuses into a PackError that names the place."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise PackError(
            f"{place} cannot be written ({why}); what was there is as it was; "
            f"mend that, and run the command again; a training that was under way goes on with --resume"
        ) from None


@contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """Waits until no other process is in here for the same file.  Raises PackError if its folder cannot be written."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.with_suffix(".lock").open("a")
    with opened:
        if fcntl is not None:
            with suppress(OSError):  # some network drives have no locks: then two may do the same work
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def empty(file: Path, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor to be filled that is not in memory but in a file without a name, beside `file` and on its way to it.

    Filled, safetensors writes it from there without a copy. The file is gone with the last that uses the tensor.
    Raises PackError if the disk has no room: found out later, a write to memory would end the process.
    """
    size = prod(shape) * dtype.itemsize
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=file.parent) as opened:
            if hasattr(os, "posix_fallocate"):  # macOS has it not
                os.posix_fallocate(opened.fileno(), 0, size)
            mapped = np.memmap(opened, np.uint8, "r+", shape=size)
    return torch.from_numpy(mapped).view(dtype).view(shape)


def read(file: Path, *names: str) -> tuple[Tensor, ...]:
    """Tensors of a safetensors file, mapped from there: what is read of them is the system's to keep in memory or not.

    Raises SafetensorError or OSError if they cannot be.
    """
    with safe_open(file, "pt") as opened:
        return tuple(opened.get_tensor(name) for name in names)


def about(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself, and likewise raises."""
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def digest(key: str, *tensors: Tensor) -> str:
    """What a file is named by that is made of these, so that what is made of others is another."""
    made = hashlib.sha256(key.encode())
    for tensor in tensors:
        made.update(tensor.cpu().contiguous().numpy())
    return made.hexdigest()[:32]
