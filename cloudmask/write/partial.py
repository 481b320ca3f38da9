"""A Zarr store in the making: what it is made from, and which of its chunks are done."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloudmask.errors import SchedulerGoneError, first_line
from cloudmask.locks import alone
from cloudmask.paths import is_remote, locate
from cloudmask.write.client import active_client, gone
from cloudmask.write.output import check_free, check_place, full_disk, move, remove_for_good


@dataclass(frozen=True)
class Partial:
    """A folder or prefix with an unfinished store; small enough to cross to every worker."""

    folder: str
    """Absolute path or URL."""
    name: str
    """Of the store inside."""
    level: str = ""
    """Group of an overview, such as "4"; empty for the full resolution."""
    run: str = ""
    """Of whoever fills the folder: a failed run's last tasks must not write into the next one's."""

    @classmethod
    def of(cls, path: Path) -> "Partial":
        """That of the store `path`, whether it is there or not."""
        beside = path if is_remote(path) else path.absolute()
        return cls(str(beside.with_name(f".{path.name}.partial")), path.name)

    @property
    def store(self) -> str:
        """Path or URL of the store."""
        return f"{self.folder}/{self.name}"

    @property
    def _begun(self) -> Path:
        return locate(f"{self.folder}/begun{self.level}")

    @property
    def has_begun(self) -> bool:
        """Whether all of the level but its chunks is there."""
        return self._begun.exists()

    def begin(self) -> None:
        """Note that chunks can be written."""
        if not is_remote(self.folder):
            Path(self.folder, f"done{self.level}").mkdir(exist_ok=True)
        self._begun.write_text(self.run)

    def check_run(self) -> None:
        """Refuse to write for a run that is over: another may be filling the folder by now."""
        if _read(str(self._begun)) != self.run:
            raise FileNotFoundError(f"the folder {self.folder} is gone")

    def note(self, index: tuple[int, ...]) -> None:
        """Note that a chunk is written: in a store one of nodata looks like a missing one."""
        name = ".".join(map(str, index))
        locate(f"{self.folder}/done{self.level}/{name}").write_bytes(b"")

    def done(self) -> set[tuple[int, ...]]:
        """Indices of the chunks that are written."""
        folder = locate(f"{self.folder}/done{self.level}")
        if not folder.exists():
            return set()
        return {tuple(map(int, note.name.split("."))) for note in folder.iterdir()}

    def check_workers(self) -> None:
        """Refuse workers that do not see this folder, before any work."""
        client = active_client()
        if client is None:
            return
        lost = gone(self.name, client)
        try:
            answers = client.run(_seen, str(self._begun), on_error="return")
        except OSError as error:
            raise SchedulerGoneError(lost) from error
        cure = (
            "check that it has what the store needs: its package, credentials and AWS_ENDPOINT_URL"
            if is_remote(self.folder)
            else "name a folder that all share, an object store (s3://…), or a .tif, which this "
            "process writes"
        )
        for worker, answer in answers.items():
            if isinstance(answer, OSError):  # it died: its successor sees what it saw
                continue
            failed = isinstance(answer, Exception)
            found, why = (None, f" ({first_line(answer)})") if failed else answer
            if found != self.run:
                raise OSError(f"worker {worker} does not see {self.folder}{why}: {cure}")


@contextmanager
def partial_store(path: Path, made_from: dict[str, Any], *, resume: bool) -> Iterator[Partial]:
    """The unfinished store of `path`; it becomes `path` on success.

    On failure it is kept for another run if `resume` is set, else removed. A complete one that
    could not take its place is kept in any case. On this machine one process at a time: a
    FileExistsError in all others.
    """
    with nullcontext() if is_remote(path) else alone(path, "written"):
        yield from _filled(path, made_from, resume=resume)


def _filled(path: Path, made_from: dict[str, Any], *, resume: bool) -> Iterator[Partial]:
    partial = Partial.of(path)
    folder = locate(partial.folder)
    if resume and partial.has_begun:
        check_same(locate(partial.store), folder, made_from)
        partial = replace(partial, run=_read(str(partial._begun)) or "")
    else:
        if folder.exists():
            _remove(folder)
        if not is_remote(path) and os.path.lexists(folder):  # chunks in it would be taken for done
            raise OSError(f"{folder}, of a run that was stopped, cannot be removed: remove it")
        partial = replace(partial, run=uuid.uuid4().hex)
    if not is_remote(path):
        folder.mkdir(exist_ok=True)
    try:
        yield partial
    except BaseException as error:
        if not resume:
            remove_for_good(lambda: _remove(folder))
        full_disk(path, error)
        raise
    try:
        _publish(partial, path)
    except (Exception, KeyboardInterrupt) as error:  # each store has exceptions of its own
        kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
        cause = str(error) or "interrupted"
        raise kind(
            f"{path} is complete, but could not be moved from {folder} ({cause}): the same command "
            "with --resume goes on"
        ) from error
    _remove(folder)


def check_store(path: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse a path that cannot become a store, before any work: a file, a folder of other things.

    Raises
    ------
    ValueError, OSError
        As for `check_output`.
    """
    check_place(path)
    if path.is_file():
        raise FileExistsError(f"{path} is a file, but no Zarr store: choose another name")
    if not path.exists():
        return
    # What an object store has of a run that ended while it was published.
    is_ours = (overwrite or resume) and is_remote(path) and Partial.of(path).has_begun
    check_free(path, overwrite=overwrite or is_ours or (resume and is_store(path)))
    if not (is_ours or is_store(path) or (path / ".zgroup").exists()):
        raise FileExistsError(f"{path} is a directory, but no Zarr store: choose another name")


def is_store(path: Path) -> bool:
    """Whether a complete store is there: its zarr.json comes last."""
    return (path / "zarr.json").exists()


_NAMES = {
    "overviews": "choice of overviews (multiscale)",
    "chunks": "size of chunks",
    "pixels": "array, by dask's name",
}
"""What some keys of what a store was made from are called."""


def check_same(store: Path, named: Path, made_from: dict[str, Any]) -> None:
    """Refuse to go on with a store that was made from something else."""
    try:
        found = json.loads((store / "zarr.json").read_text())["attributes"]["made_from"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{named} was not made by cloudmask: choose another name, or remove it"
        ) from error
    first = ("scene_source", "scene_version", "model", "model_sha256")
    others = [key for key in dict.fromkeys([*made_from, *found]) if key not in first]
    for key in (*first, *others):  # what a model or a scene brings with it comes behind them
        if found.get(key) != made_from.get(key):
            raise ValueError(
                f"{named} was made from another {_NAMES.get(key, key.replace('_', ' '))} "
                f"({found.get(key)}, now "
                f"{made_from.get(key)}): leave out resume and pass overwrite, or choose another "
                "name"
            )


def _read(path: str) -> str | None:
    try:
        return locate(path).read_text()
    except OSError:
        return None


def _seen(path: str) -> tuple[str | None, str]:
    """What a file says, or why it cannot be read."""
    try:
        return locate(path).read_text(), ""
    except FileNotFoundError:
        return None, ""
    except Exception as error:  # each store has exceptions of its own
        return None, f" ({first_line(error)})"


def _remove(folder: Path) -> None:
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.fs.rm(folder.path, recursive=True)  # type: ignore[attr-defined]


def _publish(partial: Partial, path: Path) -> None:
    made = locate(partial.store)
    if not is_remote(path):
        move(made, path)
        return
    # An object store renames nothing: it copies. Readers find a store by its zarr.json, which
    # therefore goes first and comes last, as those of its arrays come after their chunks.
    files, source, target = made.fs, made.path, path.path  # type: ignore[attr-defined]
    if path.exists():
        if is_store(path):
            files.rm(f"{target}/zarr.json")
        files.rm(target, recursive=True)
    names = [name[len(source) :] for name in files.find(source)]
    inner = [name for name in names if name.endswith("/zarr.json") and name != "/zarr.json"]
    chunks = [name for name in names if not name.endswith("/zarr.json")]
    for some in filter(None, (chunks, inner, ["/zarr.json"])):
        files.copy([source + name for name in some], [target + name for name in some])
