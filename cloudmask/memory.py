"""What the process does with memory that it freed. Does nothing without glibc."""

import ctypes
import sys
from functools import cache
from typing import Any


def keep_freed_memory() -> None:
    """Tell glibc to keep freed chunks instead of returning and faulting them in again.

    Tensors lie in a pool of TensorFlow's own, which keeps them anyway. Takes effect for what is
    allocated afterwards. The thresholds are malloc(3)'s M_MMAP_THRESHOLD, at its largest allowed,
    and M_TRIM_THRESHOLD.
    """
    if hasattr(_libc(), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        _libc().mallopt(m_mmap_threshold, 32 * 2**20)
        _libc().mallopt(m_trim_threshold, 2**30)


def give_freed_memory_back() -> None:
    """Return it once (malloc_trim(3)): another kind of work begins, which will not take it."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
