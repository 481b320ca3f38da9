"""Progress on stderr: a bar on a terminal, a line now and then in a log."""

import sys
import time
from typing import Any, Self

from dask.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cloudmask.stopwatch import chunks_done

_SECONDS_BETWEEN_LINES = 30.0


class CountProgress:
    """Shows how many of `total` are done, while it is entered."""

    def __init__(
        self, title: str, total: int, *, unit: str = "images", quiet: bool = False
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self._plain = not quiet and not sys.stderr.isatty()
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self) -> None:
        """One more is done."""
        self.show(self._done + 1)

    def show(self, done: int) -> None:
        """So many are done."""
        self._done = done
        self._bar.update(self._task, completed=done)
        now = time.monotonic()
        if self._plain and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(f"{self._title}: {done} of {self._total} {self._unit}", file=sys.stderr)


class ChunkProgress(Callback):  # type: ignore[misc]  # dask.callbacks is untyped
    """Shows how many of `total` chunks have been through the network, while it is entered."""

    def __init__(self, title: str, total: int, *, quiet: bool = False) -> None:
        self._count = CountProgress(title, total, unit="chunks", quiet=quiet)
        self._before = chunks_done()
        super().__init__(posttask=self._finished)

    def __enter__(self) -> Any:
        self._count.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._count.__exit__()

    def _finished(self, *_: Any) -> None:
        # Dask fuses tasks and renames them, so their names do not tell which is a chunk.
        self._count.show(chunks_done() - self._before)
