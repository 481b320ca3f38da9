"""Many scenes: one that fails does not stop the others, and one that is done is not done again."""

import csv
import glob
import hashlib
import io
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rasterio

from cloudmask.errors import first_line
from cloudmask.locks import alone
from cloudmask.paths import is_local, is_remote, read_json
from cloudmask.readers.files import files_of
from cloudmask.readers.protocol import version_of
from cloudmask.report import CloudCover
from cloudmask.write import PROVENANCE, tags_of, write_json, write_text

logger = logging.getLogger(__name__)

_NOTES = ".cloudmask"
"""Folder beside the outputs, with a note on each: what it was made from, and what it says."""


@dataclass(frozen=True)
class Outcome:
    """A row of the summary."""

    scene: str
    output: str
    cloud_percent: float | None
    """Among valid pixels, 0 to 100."""
    nodata_percent: float | None
    """Among all pixels, 0 to 100."""
    seconds: float
    status: str
    """"done", "kept" (finished before) or "failed"."""
    error: str = ""
    """One line."""


def find_scenes(arguments: Sequence[str]) -> list[str]:
    """Expand patterns, and text files that list a path or URL a line.

    Parameters
    ----------
    arguments : sequence of str
        Paths, URLs, glob patterns; names that end in .txt are lists, where empty lines and those
        that begin with # are left out. A scene that is named twice is taken once.

    Raises
    ------
    FileNotFoundError
        A list, or what a pattern stands for.
    ValueError
        A list that is no text.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        named: Iterable[str] = [argument]
        if argument.lower().endswith(".txt"):
            named = _read_list(Path(argument))
        elif _is_pattern(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  # absolute patterns too
            if not matches:
                raise FileNotFoundError(f"{argument} matches nothing")
            named = matches
        for scene in named:
            found.setdefault(_full_name(scene), scene)
    if not found:
        raise FileNotFoundError(f"{', '.join(arguments) or 'the command'} names no scene")
    return list(found.values())


def _full_name(scene: str) -> str:
    """The same from wherever it is named; a link is a name of its own, which its output has."""
    return os.path.abspath(scene) if is_local(scene) else scene  # noqa: PTH100  # with no ..


def _is_pattern(argument: str) -> bool:
    if is_remote(argument) or not any(mark in argument for mark in "*?["):
        return False
    return not Path(argument).exists()  # a file may be called scene[1].tif


def _read_list(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin with a mark
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the list {path} does not exist") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the list {path} is not text in UTF-8: save it as such") from error
    lines = (line.strip() for line in text.splitlines())
    return (line for line in lines if line and not line.startswith("#"))


def name_outputs(scenes: Sequence[str], folder: Path) -> list[Path]:
    """A .tif in `folder` for each scene, of its name; a ValueError if two have the same."""
    # Of a URL without its query: what signs it says nothing of the scene.
    paths = [urlsplit(scene).path if is_remote(scene) else scene for scene in scenes]
    outputs = [folder / f"{Path(path.rstrip('/')).stem}.tif" for path in paths]
    twice = [path for path, count in Counter(outputs).items() if count > 1]
    if twice:
        same = [scene for scene, path in zip(scenes, outputs, strict=True) if path == twice[0]]
        raise ValueError(f"{' and '.join(same)} would both become {twice[0]}: rename one")
    return outputs


def segment_many(
    scenes: Sequence[str],
    outputs: Sequence[Path],
    segment: Callable[[str, Path], CloudCover],
    options: dict[str, Any],
    *,
    resume: bool = False,
    pool: Executor | None = None,
) -> Iterator[Outcome]:
    """Segment scene after scene, and keep summary.csv beside the outputs up to date.

    Parameters
    ----------
    scenes, outputs : sequence of str, of Path
        What to read, and what to write.
    segment : callable
        Makes one output; what it raises is the scene's error.
    options : dict
        All that the outputs depend on besides the scene, such as the model's sha256.
    resume : bool
        Keep outputs that were finished from the same scene with the same options.
    pool : concurrent.futures.Executor, optional
        Threads for scenes side by side; without one they go one after the other, in this thread.

    Yields
    ------
    Outcome
        As soon as it is known.
    """
    folder = outputs[0].parent
    with nullcontext() if is_remote(folder) else alone(folder / "summary.csv", "written"):
        yield from _outcomes(scenes, outputs, segment, options, resume=resume, pool=pool)


def _outcomes(
    scenes: Sequence[str],
    outputs: Sequence[Path],
    segment: Callable[[str, Path], CloudCover],
    options: dict[str, Any],
    *,
    resume: bool,
    pool: Executor | None,
) -> Iterator[Outcome]:
    folder = outputs[0].parent
    (folder / _NOTES).mkdir(exist_ok=True)

    def one(scene: str, output: Path) -> Outcome:
        begun = time.perf_counter()
        try:
            return _segment_one(scene, output, segment, options, resume=resume)
        except Exception as error:  # whatever it is, it is this scene's
            logger.debug("traceback", exc_info=True)
            seconds = round(time.perf_counter() - begun, 2)
            return Outcome(scene, str(output), None, None, seconds, "failed", first_line(error))

    done: list[Outcome] = []
    order = {scene: number for number, scene in enumerate(scenes)}
    outcomes = _beside(pool, one, scenes, outputs) if pool else map(one, scenes, outputs)
    for outcome in outcomes:
        done.append(outcome)
        done.sort(key=lambda outcome: order[outcome.scene])
        _write_summary(folder / "summary.csv", done)
        yield outcome


def _beside(
    pool: Executor,
    one: Callable[[str, Path], Outcome],
    scenes: Sequence[str],
    outputs: Sequence[Path],
) -> Iterator[Outcome]:
    running = [pool.submit(one, scene, out) for scene, out in zip(scenes, outputs, strict=True)]
    try:
        for future in as_completed(running):
            yield future.result()
    finally:
        for future in running:
            future.cancel()


def _segment_one(
    scene: str,
    output: Path,
    segment: Callable[[str, Path], CloudCover],
    options: dict[str, Any],
    *,
    resume: bool,
) -> Outcome:
    """Make an output, with a note on it; or keep it, where its note says that it is finished."""
    begun = time.perf_counter()
    note = output.parent / _NOTES / f"{output.name}.json"
    made_from = _fingerprint(scene, options)
    if resume and output.exists() and (known := _read_note(note, made_from)):
        if known["outcome"] is None and _is_made_by(output, options):
            output.unlink()  # ours, but a run was killed before it could say so
        elif known.get("output") == _version(output):  # not what a later run put there
            here = {"scene": scene, "output": str(output), "status": "kept"}
            return Outcome(**known["outcome"] | here)
    is_new = not output.exists()
    if is_new:
        write_json(note, {"made_from": made_from, "outcome": None})
    try:
        cover = segment(scene, output)
    except Exception:  # whatever it is, it is raised again; an interrupt leaves the note
        if is_new:
            note.unlink(missing_ok=True)  # or what somebody else puts there would be taken for ours
        raise
    seconds = round(time.perf_counter() - begun, 2)
    outcome = Outcome(
        scene, str(output), cover.cloud_percent, cover.nodata_percent, seconds, "done"
    )
    made = {"output": _version(output), "outcome": asdict(outcome)}
    write_json(note, {"made_from": made_from} | made)
    return outcome


def _fingerprint(scene: str, options: dict[str, Any]) -> str:
    """Of what an output depends on; local files by their size and time of change."""
    version = " ".join(map(version_of, files_of(scene)))
    text = json.dumps([_full_name(scene), version, options], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_made_by(output: Path, options: dict[str, Any]) -> bool:
    """Whether it is a mask that tells of the same model and threshold."""
    if is_remote(output):
        return True
    asked = tags_of({key: options[key] for key in options.keys() & {*PROVENANCE, "threshold"}})
    try:
        with rasterio.open(output) as dataset:
            return bool(asked) and asked.items() <= dataset.tags().items()
    except rasterio.errors.RasterioIOError:
        return False


def _version(output: Path) -> str:
    """What tells an output from another that took its place."""
    if is_remote(output):
        return str(output.fs.info(output.path).get("ETag", ""))  # type: ignore[attr-defined]
    return version_of(str(output))


def _read_note(note: Path, made_from: str) -> dict[str, Any] | None:
    """A note on an output that was made, or begun, from the same; none that cannot be read."""
    try:
        known = read_json(note, "made_from", "outcome", cure="remove it")
    except (OSError, ValueError):
        return None
    return known if known["made_from"] == made_from else None


def _write_summary(path: Path, outcomes: Sequence[Outcome]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Outcome)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(outcome) for outcome in outcomes)
    write_text(path, table.getvalue())
