"""Where the time goes: for this process, all threads together."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_seconds: defaultdict[str, float] = defaultdict(float)
_lock = threading.Lock()


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Count the time spent inside towards `name`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        with _lock:
            _seconds[name] += time.perf_counter() - start


def seconds() -> dict[str, float]:
    """Thread seconds by name since the process began; threads add up."""
    with _lock:
        return dict(_seconds)
