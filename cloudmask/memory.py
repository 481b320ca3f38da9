"""What the process does with memory that it freed. Does nothing without glibc."""

import ctypes
import sys
from functools import cache
from typing import Any

KEEP_FREED_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": 2**30,
    "MALLOC_MMAP_MAX_": 0,
    "MALLOC_ARENA_MAX": 1,
}
"""What `keep_freed_memory` does, as environment of a process: mallopt(3)."""


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory, instead of returning it and faulting it in again.

    Where TensorFlow has no pool for its tensors, on CPUs without AVX-512, that took a tenth of the
    time. Memory is returned from one gigabyte on; nothing is mapped apart, however large; and all
    threads take from one heap, since their own are unmapped when empty. Takes effect for what is
    allocated afterwards.
    """
    if hasattr(_libc(), "mallopt"):
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
        parameters = (m_trim_threshold, m_mmap_max, m_arena_max)
        for parameter, value in zip(parameters, KEEP_FREED_MEMORY.values(), strict=True):
            _libc().mallopt(parameter, value)


def give_freed_memory_back() -> None:
    """Return it once (malloc_trim(3)): another kind of work begins, which will not take it."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
