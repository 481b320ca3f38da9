"""Where the time goes and how far the work is: for this process, all threads together."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_seconds: defaultdict[str, float] = defaultdict(float)
_chunks = 0
_lock = threading.Lock()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time spent inside towards `name`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        with _lock:
            _seconds[name] += time.perf_counter() - start


def seconds() -> dict[str, float]:
    """Thread seconds of each stage since the process began; threads add up."""
    with _lock:
        return dict(_seconds)


def chunk_done() -> None:
    """Count a chunk that has its probabilities."""
    global _chunks
    with _lock:
        _chunks += 1


def chunks_done() -> int:
    """Chunks that have got their probabilities since the process began."""
    return _chunks
