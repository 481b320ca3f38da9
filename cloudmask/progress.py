"""Progress of a dask computation on stderr: a bar on a terminal, a line now and then in a log."""

import sys
import time
from typing import Any

from dask.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cloudmask.stopwatch import chunks_done

_SECONDS_BETWEEN_LINES = 30.0


class ChunkProgress(Callback):  # type: ignore[misc]  # dask.callbacks is untyped
    """Shows how many of `total` chunks have been through the network, while it is entered."""

    def __init__(self, title: str, total: int, *, quiet: bool = False) -> None:
        self._title, self._total = title, total
        self._before = chunks_done()
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
        super().__init__(posttask=self._finished)

    def __enter__(self) -> Any:
        self._bar.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._bar.stop()

    def _finished(self, *_: Any) -> None:
        # Dask fuses tasks and renames them, so their names do not tell which is a chunk.
        done = chunks_done() - self._before
        self._bar.update(self._task, completed=done)
        now = time.monotonic()
        if self._plain and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(f"{self._title}: {done} of {self._total} chunks", file=sys.stderr)
