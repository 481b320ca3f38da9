"""The output's place on disk: refused early, filled atomically."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that cannot become the output, before any work.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError, FileExistsError, IsADirectoryError
    """
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(f"the folder {folder} does not exist: make it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {folder} is not writable")
    if path.is_dir() and path.suffix != ".zarr":
        raise IsADirectoryError(f"{path} is a directory: name a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite to replace it")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A folder beside `path` in which to make files; on success they move into place."""
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield work
        # Sidecars first: the file itself appears last, complete.
        for made in sorted(work.iterdir(), key=lambda file: file.name == path.name):
            _move(made, path.parent / made.name, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(made: Path, final: Path, work: Path) -> None:
    if made.is_dir() and final.exists():  # a folder replaces no other folder in one step
        final.rename(work / f"{final.name}.old")
    made.replace(final)
