"""The command line: parses, calls, prints, nothing else. Heavy imports wait for their command."""

import gc
import io
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

import click

from cloudmask.cli.evaluate import evaluate
from cloudmask.cli.segment import segment
from cloudmask.cli.tools import info, models, sample
from cloudmask.cli.train import train
from cloudmask.errors import as_options, first_line
from cloudmask.paths import unsigned_in

_GARBAGE = 100_000
"""Objects between two looks for garbage; at 700, imports are looked through for 0.7 s."""


def main() -> NoReturn:
    """Run the command; a user's mistake is one line and exit code 2."""
    gc.set_threshold(_GARBAGE)
    _open_streams()
    for ended in (signal.SIGTERM, signal.SIGHUP):  # clean up as for Ctrl-C
        if signal.getsignal(ended) is not signal.SIG_IGN:  # which nohup asks for
            signal.signal(ended, signal.default_int_handler)
    # GDAL's and libtiff's own lines: what matters of them is raised.
    os.environ.setdefault("CPL_LOG", os.devnull)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A descriptor of its own: while TensorFlow is imported, which takes seconds, 2 is muted.
    stderr = os.dup(2)
    try:
        cli(sys.argv[1:] or ["--help"], standalone_mode=False)
    except click.ClickException as error:
        _fail(stderr, error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        # click hides what was said behind an empty Abort
        said = str(error.__cause__ or error)
        of_segment = ": only what --resume goes on with was kept"
        kept = of_segment if sys.argv[1:2] == ["segment"] else ""
        _fail(stderr, said or f"interrupted{kept}", 130)
    except MemoryError as error:
        _fail(stderr, as_options(str(error) or "out of memory: choose a smaller chunk"), 2)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        _fail(stderr, as_options(first_line(error)), 2)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # who read it has seen enough
    except OSError as error:
        _fail(stderr, f"stdout cannot be written to: {error.strerror}", 2)
    _exit(0)


def _open_streams() -> None:
    """Streams that whoever started this had closed; and what their encoding has no bytes for."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w"))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # In other encodings there may be no × or –: what is told is no reason to fail.
        is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "replace")


def _fail(stderr: int, line: str, code: int) -> NoReturn:
    with suppress(OSError):  # a log on a full disk
        os.write(stderr, f"cloudmask: {unsigned_in(line)}\n".encode(errors="surrogateescape"))
    _exit(code)


def _exit(code: int) -> NoReturn:
    # Not sys.exit: it would take TensorFlow apart for a second, and after a failure wait for dask's
    # threads to finish chunks that nobody needs.
    with suppress(OSError):  # a failure that has been told of is not the last one
        sys.stdout.flush()
    os._exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cloudmask")
def cli() -> None:
    """Find clouds in satellite and very-high-resolution RGB scenes of any size."""


for command in (segment, info, models, sample, train, evaluate):
    cli.add_command(command)
