"""What the process does with memory that it freed. Does nothing without glibc."""

import ctypes
import os
import sys
from functools import cache
from typing import Any

_KEEP = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**30),
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""Variables of the environment, and the same for mallopt(3): memory is returned from one gigabyte
on; nothing is mapped apart, however large; and all threads take from one heap, since their own are
unmapped when empty."""


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory, instead of returning it and faulting it in again.

    Where TensorFlow has no pool for its tensors, on CPUs without VNNI or AMX, that took a tenth of
    the time. Takes effect for threads and for memory that come afterwards.
    """
    if hasattr(_libc(), "mallopt"):
        for parameter, value in _KEEP.values():
            _libc().mallopt(parameter, value)


def keep_freed_memory_in_children() -> None:
    """The same in processes that this one starts from now on."""
    os.environ.update({name: str(value) for name, (_, value) in _KEEP.items()})


def give_freed_memory_back() -> None:
    """Return it once (malloc_trim(3)): another kind of work begins, which will not take it."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
