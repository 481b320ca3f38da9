"""What every command prints the same way."""

import json
import logging
import os
import sys
import warnings
from typing import Any

from cloudmask.paths import unsigned_in


def print_json(value: Any) -> None:
    """On stdout; NaN as null."""
    from cloudmask.write import without_nan

    tell(json.dumps(without_nan(value), indent=2))


class _Unsigned(logging.Formatter):
    """Logs are kept, and read by others than those whom a URL was signed for."""

    def format(self, record: logging.LogRecord) -> str:
        return unsigned_in(super().format(record))


def log_to_stderr(*, quiet: bool) -> None:
    """A line for each thing a user should know; if quiet, only what went wrong."""
    # The library says it once, in words that tell what follows.
    warnings.filterwarnings(
        "ignore", message="Dataset has no geotransform|The given matrix is equal"
    )
    handler = logging.StreamHandler()
    handler.setFormatter(_Unsigned("cloudmask: %(message)s"))
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)  # of fonts, and of its own folder
    logger = logging.getLogger("cloudmask")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.ERROR if quiet else logging.INFO)


def tell(line: str) -> None:
    """A result, on stdout. Who reads no further has seen enough; a full disk is a failure."""
    try:
        print(line)
    except BrokenPipeError:
        _leave_stdout()
    except OSError as error:
        raise OSError(f"stdout cannot be written to: {error.strerror}") from error


def say(line: str) -> None:
    """On stdout at once; a pipe that was closed, or a full disk, does not end the run."""
    try:
        print(line, flush=True)
    except OSError as error:
        logging.getLogger("cloudmask").warning(
            "stdout cannot be written to (%s): the run goes on without it", error.strerror
        )
        _leave_stdout()


def _leave_stdout() -> None:
    """What is printed from now on goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
