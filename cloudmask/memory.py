"""What the process does with memory that it freed. Does nothing without glibc."""

import ctypes
import sys
from functools import cache
from typing import Any


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory, instead of returning it and faulting it in again.

    Where TensorFlow has no pool for its tensors, on CPUs without AVX-512, that took a tenth of the
    time. Takes effect for what is allocated afterwards. By mallopt(3), memory is returned from one
    gigabyte on, nothing is mapped apart, however large, and all threads take from one heap: those
    of threads are unmapped as soon as they are empty.
    """
    if hasattr(_libc(), "mallopt"):
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
        _libc().mallopt(m_trim_threshold, 2**30)
        _libc().mallopt(m_mmap_max, 0)
        _libc().mallopt(m_arena_max, 1)


def give_freed_memory_back() -> None:
    """Return it once (malloc_trim(3)): another kind of work begins, which will not take it."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
