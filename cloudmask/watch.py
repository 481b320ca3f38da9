"""How far a long piece of work is: told by those who do it, heard by whoever asked in time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[int, int], None]
"""Told how many chunks are done, and of how many."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: Watcher | None) -> Iterator[None]:
    """Let `watcher` be told of the work that this thread starts inside; None: nobody."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def counter(total: int) -> Callable[[], None]:
    """A function to call, from any thread, whenever one of `total` is done."""
    watcher = _watcher.get()
    done = iter(range(1, total + 1))  # next() is atomic

    def step() -> None:
        if watcher is not None:
            watcher(next(done), total)

    return step
