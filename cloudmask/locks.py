"""One process at a time for what two would take from each other."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import locket

logger = logging.getLogger(__name__)


@contextmanager
def alone(path: Path, doing: str) -> Iterator[bool]:
    """Hold `path`, a file or a folder that is there or is to be, for this process.

    The lock is ``.NAME.lock`` beside it, and goes with the process that has it, however that ends.

    Yields
    ------
    bool
        Whether no other process of this machine has it: not known where the file system has no
        locks.

    Raises
    ------
    FileExistsError
        Another one has it, and is `doing` it, such as "written".
    PermissionError
        Another user's process has it, or had it and was killed.
    """
    path = path.absolute()
    lock_file = path.with_name(f".{path.name}.lock")
    lock = locket.lock_file(str(lock_file), timeout=0)
    try:
        lock.acquire()
    except locket.LockError as error:
        raise FileExistsError(
            f"{path} is being {doing} by another process: wait for it, or choose another name"
        ) from error
    except PermissionError as error:
        if not lock_file.exists():
            raise PermissionError(f"the folder {path.parent} is not writable") from error
        raise PermissionError(
            f"{lock_file} is another user's: wait until {path} is {doing}, or remove it"
        ) from error
    except OSError as error:
        lock_file.unlink(missing_ok=True)
        _tell_of_no_locks(path.parent, str(error))
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # somebody removed it; or Windows, which keeps what is open
            lock_file.unlink()
        lock.release()


@lru_cache
def _tell_of_no_locks(folder: Path, why: str) -> None:
    """Once, not for each of a thousand masks."""
    logger.warning("%s is on a file system without locks: write a name but once (%s)", folder, why)
