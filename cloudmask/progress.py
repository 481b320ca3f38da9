"""Progress on stderr: bars on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from cloudmask.paths import unsigned
from cloudmask.watch import watched_by

_SECONDS_BETWEEN_LINES = 30.0


class Bars:
    """The bars of a command, while it is entered."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.is_plain = not quiet and not sys.stderr.isatty()
        self.rich = Progress(
            TextColumn("{task.description}", markup=False),  # a scene may be called a[/b].tif
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # rich would have what goes to a file or a pipe
            disable=quiet or not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        self.rich.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.rich.stop()

    @contextmanager
    def bar(self, title: str, total: int | None = None, unit: str = "images") -> Iterator["Bar"]:
        """A bar that is there while it is entered."""
        task = self.rich.add_task(title, total=total)
        try:
            yield Bar(self, task, title, total, unit)
        finally:
            self.rich.remove_task(task)

    @contextmanager
    def scene(self, title: str) -> Iterator[None]:
        """A bar of the chunks that are written by what this thread starts inside."""
        with self.bar(unsigned(title), unit="chunks") as bar, watched_by(bar.show):
            yield


class Bar:
    """One bar, or its lines in a log."""

    def __init__(self, bars: Bars, task: TaskID, title: str, total: int | None, unit: str) -> None:
        self._bars, self._task = bars, task
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self._last_line = time.monotonic()

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        self.show(self._done, self._total or self._done)

    def show(self, done: int, total: int) -> None:
        """So many are done, of so many."""
        self._bars.rich.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if self._bars.is_plain and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            with suppress(OSError):  # a log on a full disk
                print(f"{self._title}: {done} of {total} {self._unit}", file=sys.stderr)
