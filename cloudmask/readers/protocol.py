"""What a reader is, and what readers share.

A reader is small and frozen, and crosses to a worker; the open file stays there.
"""

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from cloudmask.chunks import Block
from cloudmask.grid import Grid

T = TypeVar("T")

DTYPES = ("uint8", "uint16", "int16", "float32")
"""Stored types that a scene may have."""

HANDLES = 4
"""Files kept open: rasters by each thread, stores by the process."""


class Reader(Protocol):
    """What `open_scene` asks of a file format."""

    @property
    def path(self) -> str:
        """Of a local file the absolute one: a worker may have been started in another folder."""

    @property
    def version(self) -> str:
        """As `version_of`: an overwritten file is another scene."""

    @property
    def bands(self) -> tuple[int, ...]:
        """Bands to read, counted from 1."""

    @property
    def grid(self) -> Grid:
        """The file's own grid."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""

    @property
    def can_be_nodata(self) -> bool:
        """Whether any pixel may be nodata; False only where the file rules it out."""

    @property
    def packing(self) -> str:
        """What stored values would have to be multiplied by, and are not; empty if by nothing."""

    @property
    def colours(self) -> str:
        """Which bands the file calls otherwise than they are read, with the cure; else empty."""

    def read(self, grid: Grid, rows: slice, columns: slice) -> Block:
        """(band, y, x) values of a window of `grid`, which spans this reader's bounds.

        The stored type where nothing can be nodata, else float32 with NaN in all bands.
        """

    def sample(self, side: int) -> Block:
        """The whole scene decimated to at most `side` pixels a side, NaN where nodata."""

    def is_striped(self, grid: Grid, chunk: int) -> bool:
        """Whether stored blocks are so wide that chunks beside each other share them."""

    def facts(self) -> dict[str, Any]:
        """For people: number of bands, block, nodata, overviews, scales and offsets."""


def version_of(path: str) -> str:
    """Size and time of a local file, of a store of all its files; empty for a URL.

    Not the inode: a copy that keeps its times is the same, as is a mount that numbers files anew.
    """
    local = Path(path)
    if not local.exists():
        return ""
    if local.is_dir():
        # Path.rglob takes seven times as long, of 100,000 files nearly three seconds.
        files = (f"{folder}/{name}" for folder, _, names in os.walk(local) for name in names)
        versions = sorted(
            f"{file.removeprefix(str(local))} {_size_and_time(os.lstat(file))}" for file in files
        )
        return hashlib.sha256("\n".join(versions).encode(errors="surrogateescape")).hexdigest()
    return _size_and_time(local.stat())


def _size_and_time(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def opening_of(version: str) -> str:
    """What tells one opening of what has no version, such as a URL, from the next; else empty."""
    return "" if version.strip() else uuid.uuid4().hex


def band_numbers(bands: Sequence[int]) -> tuple[int, ...]:
    """Numbers of bands as integers; a ValueError if they are none."""
    try:
        if isinstance(bands, Sequence | np.ndarray):
            numbers = tuple(map(int, bands))
            if numbers == tuple(bands):
                return numbers
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"bands is {bands!r}: give three numbers from 1 on, such as (1, 2, 3)")


def check_nodata(nodata: float | None, dtype: np.dtype[Any]) -> None:
    """Refuse a nodata value that no pixel of `dtype` can have, with a ValueError."""
    if nodata is None or dtype.kind not in "ui":
        return
    limits = np.iinfo(dtype)
    if not (limits.min <= nodata <= limits.max and float(nodata).is_integer()):
        raise ValueError(
            f"nodata is {nodata:g}, which no pixel of {dtype} is: give a whole number from "
            f"{limits.min} to {limits.max}, or leave it out"
        )


def listed(bands: tuple[int, ...]) -> str:
    """Band numbers for a message."""
    return ", ".join(map(str, bands)) or "none"


def interruptibly(call: Callable[[], T]) -> T:
    """Call what may wait for a server: meanwhile the main thread would hear of no interrupt."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # whatever it is, it is raised again
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return answer.result()
