"""The output's place on disk: refused early, filled atomically."""

import errno
import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import rasterio
from rasterio._err import CPLE_BaseError

from cloudmask.errors import first_line
from cloudmask.locks import alone
from cloudmask.paths import destination, is_remote

PROVENANCE = ("model", "model_sha256", "precision", "cloudmask_version")
"""Attributes by which a result tells what made it."""

_PATTERN = frozenset("*?[]#")
"""Characters that fsspec and GDAL would not take as they are."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_ending(path: str | Path, *endings: str) -> None:
    """Refuse a name that readers would take for another kind of file, with a ValueError."""
    names = Path(str(path)), destination(path)  # of a link, one of both
    if not names[1].name:
        return  # a bucket, which has no name: `check_place` tells of it
    if not {name.suffix.lower() for name in names} & set(endings):
        raise ValueError(
            f"{path} ends in {names[0].suffix!r}: let it end in {' or '.join(endings)}"
        )


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that cannot become an output file, before any work.

    Raises
    ------
    ValueError, OSError, ImportError
        What `check_place` refuses, a folder, or a file that is there without `overwrite`.
    """
    check_place(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file")
    check_free(path, overwrite=overwrite)


def check_place(path: Path) -> None:
    """Refuse a path at which nothing can be written, before any work.

    Raises
    ------
    ValueError, OSError, ImportError
        Of a URL the bucket alone, a character that stores take for a pattern, what cannot be
        written to, or what needs a package; of a path what `check_folder_of` refuses.
    """
    if is_remote(path):
        _check_remote(path)
    else:
        check_folder_of(path)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse what exists, unless it is to be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite to replace it")


def check_folder_of(path: Path) -> None:
    """Refuse a path whose folder is not there or cannot be written in, and devices and pipes."""
    folder = destination(path).parent
    if not folder.exists():
        cure = "name it s3://…, as fsspec does" if str(path).startswith("/vsi") else "make it first"
        raise FileNotFoundError(f"the folder {folder} does not exist: {cure}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {folder} is not writable")
    if path.exists() and not (path.is_file() or path.is_dir()):  # root could replace /dev/null
        raise FileExistsError(f"{path} is a device or a pipe, which stays: name a file")


def _check_remote(path: Path) -> None:
    """Object stores tell what they allow when they are asked to do it."""
    if not path.name:
        raise ValueError(f"{path} is a whole bucket: name what to make in it")
    if found := sorted(_PATTERN & set(str(path))):
        raise ValueError(
            f"{path} has {' '.join(found)}, which stores take for a pattern or a part of a URL: "
            "choose another name"
        )
    probe = path.with_name(f".{path.name}.probe")
    try:
        probe.write_bytes(b"cloudmask")
        probe.unlink()
    except ImportError as error:
        raise ImportError(f"{path} needs a package: {error}") from error
    except Exception as error:  # each store has exceptions of its own
        raise OSError(
            f"{path} cannot be written to: {first_line(error)}; check the bucket, its rights and "
            "the credentials"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A folder beside `path` in which to make files; on success they move into place.

    For a URL a local one, from which they are sent: an object appears when it is complete. On this
    machine one process at a time: a FileExistsError in all others. What one of them left that was
    killed is removed.
    """
    with nullcontext(False) if is_remote(path) else alone(path, "written") as is_alone:
        beside = None if is_remote(path) else path.parent
        # Its locks may be this machine's own, so what it removes must be, too.
        prefix = f".{path.name}.{zlib.crc32(platform.node().encode()):08x}."
        if is_alone:
            _sweep(path.parent, prefix)
        try:
            work = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
        except OSError as error:
            raise OSError(f"the folder {path.parent} is not writable: {error.strerror}") from error
        try:
            yield work
            _publish(work, path)
        except BaseException as error:
            remove_for_good(lambda: shutil.rmtree(work, ignore_errors=True))
            full_disk(path, error)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove what `tempfile.mkdtemp` made and nobody removed: a whole mask, uncompressed."""
    named = re.compile(re.escape(prefix) + "[a-z0-9_]{8}")
    with suppress(PermissionError):  # a folder may be written to and not be listed
        for folder in parent.iterdir():
            if named.fullmatch(folder.name) and folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)


def _publish(work: Path, path: Path) -> None:
    # Sidecars first: the file itself appears last, complete.
    files = sorted(work.iterdir(), key=lambda file: file.name == path.name)
    for made in files:
        if is_remote(path):
            target: Any = path.with_name(made.name)
            target.fs.put(str(made), target.path)
        else:
            move(made, path.parent / made.name)
    names = {made.name for made in files}
    for name in (name for name in names if not name.endswith(".aux.xml")):
        for kind in (".aux.xml", ".ovr", ".msk", ".msk.ovr"):  # GDAL's, of what was replaced
            if f"{name}{kind}" not in names:
                path.with_name(f"{name}{kind}").unlink(missing_ok=True)


def remove_for_good(remove: Callable[[], object]) -> None:
    """Threads cannot be stopped: one may be writing a last chunk, which is to go as well."""
    for _ in range(5):
        remove()
        time.sleep(0.04)


def full_disk(path: Path, error: BaseException, *, cure: str = "") -> None:
    """Raise the error that names `path`, where `error` says that its disk is full."""
    if isinstance(error, OSError) and error.errno in _FULL:
        cause = cure or os.strerror(error.errno)
        raise OSError(f"{path} cannot be written, the disk is full: {cause}") from error


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; see `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that is either the old or the new one, never half of it."""
    # Names of files may be no UTF-8: Python has their bytes as surrogates.
    content = text.encode("utf-8", "surrogateescape")
    if is_remote(path):  # an object appears whole
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        full_disk(path, error)
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what GDAL raises while it makes a file into one line about `path`."""
    try:
        yield
    except (CPLE_BaseError, rasterio.errors.RasterioError) as error:
        # GDAL tells a full disk from other failures in its log only.
        cause = first_line(error.__cause__ or error)
        raise OSError(f"{path} cannot be written, is the disk full? {cause}") from error


def move(made: Path, final: Path) -> None:
    """Replace `final` by `made`, in one step for a file."""
    if not (made.is_dir() and final.exists()):
        made.replace(final)
        return
    # A folder replaces no other folder in one step.
    old = made.with_name(f"{final.name}.old")
    final.rename(old)
    try:
        made.replace(final)
    except (OSError, KeyboardInterrupt):
        old.rename(final)
        raise
