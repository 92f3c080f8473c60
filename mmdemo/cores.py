"""How many cores a thread computes on, where fewer are enough."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def cores(most: int) -> Iterator[None]:
    """Within it, this thread computes on so many cores, or on one, and never on more than it would have.

    torch's own set_num_threads is of no use here: threads that begin meanwhile would be given the number for good.
    """
    import torch

    with _controller().limit(limits=max(1, min(most, torch.get_num_threads())), user_api="openmp"):
        yield


@cache
def _controller():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # it looks through what is loaded, which takes a few milliseconds
