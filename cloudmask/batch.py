"""Many scenes: one that fails does not stop the others, and one that is done is not done again."""

import csv
import glob
import io
import logging
import math
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

from cloudmask.errors import SchedulerGoneError, as_options, first_line
from cloudmask.locks import alone
from cloudmask.notes import (
    difference,
    facts_of,
    full_name,
    is_made_by,
    make_notes,
    note_of,
    read_note,
    version_of_output,
)
from cloudmask.paths import is_local, is_remote, path_in, unsigned, unsigned_in
from cloudmask.report import CloudCover
from cloudmask.write import write_json, write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A row of the summary."""

    scene: str
    """A URL without what signs it: tables are passed on."""
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


_COLUMNS = [field.name for field in fields(Outcome)]
_BETWEEN = 2.0
"""Seconds between two writings of the summary, whole each time; notes tell what is done."""


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
        A list that is no text, or a pattern of URLs.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        named: Iterable[str] = [argument]
        if argument.lower().endswith(".txt"):
            named = _read_list(argument)
        elif is_remote(argument) and "*" in urlsplit(argument).path:
            raise ValueError(f"{argument} is a pattern of URLs: list what it stands for in a .txt")
        elif _is_pattern(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  # absolute patterns too
            if not matches and ("*" in argument or "?" in argument):
                raise FileNotFoundError(f"{argument} matches nothing")
            named = matches or [argument]  # scene[1].tif, which is not there: one that fails
        for scene in named:
            found.setdefault(full_name(scene), scene)
    if not found:
        raise FileNotFoundError(f"{', '.join(arguments) or 'the command'} names no scene")
    return list(found.values())


def _is_pattern(argument: str) -> bool:
    if not is_local(argument) or not any(mark in argument for mark in "*?["):
        return False
    return not Path(argument).exists()  # a file may be called scene[1].tif


def _read_list(path: str) -> Iterator[str]:
    if is_remote(path):
        raise ValueError(f"the list {path} is a URL: name a file of this machine")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # editors on Windows begin with a mark
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the list {path} does not exist") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the list {path} is not text in UTF-8: save it as such") from error
    lines = (line.strip() for line in text.split("\n"))  # other ends of lines may be in a name
    return (line for line in lines if line and not line.startswith("#"))


def name_outputs(scenes: Sequence[str], folder: Path) -> list[Path]:
    """A .tif in `folder` for each scene, of its name; of those of one name, with their folders'.

    Raises
    ------
    ValueError
        Two scenes would become one file all the same.
    """
    full = [Path(os.path.abspath(path_in(scene))) for scene in scenes]  # noqa: PTH100  # with no ..
    parts = [(*path.parent.parts[1:], path.stem) for path in full]
    taken = [1] * len(scenes)
    while True:
        names = ["_".join(of[-count:]) for of, count in zip(parts, taken, strict=True)]
        same = {name for name, count in Counter(names).items() if count > 1}
        longer = [i for i, of in enumerate(parts) if names[i] in same and taken[i] < len(of)]
        if not longer:
            break
        for i in longer:
            taken[i] += 1
    if same:
        one, other, *_ = (s for s, name in zip(scenes, names, strict=True) if name == min(same))
        raise ValueError(f"{one} and {other} would become the same file: run them apart")
    return [folder / f"{name}.tif" for name in names]


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
        Keep outputs that were finished from the same scene with the same options, and rows of the
        summary on others.
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
    make_notes(folder)

    def one(scene: str, output: Path) -> Outcome:
        begun = time.perf_counter()
        try:
            return _segment_one(scene, output, segment, options, resume=resume)
        except SchedulerGoneError:
            raise  # all scenes to come would fail of it
        except Exception as error:  # whatever it is, it is this scene's
            logger.debug("traceback", exc_info=True)
            seconds = round(time.perf_counter() - begun, 2)
            named = unsigned(scene)
            said = unsigned_in(as_options(first_line(error)).replace(scene, named))
            return Outcome(named, str(output), None, None, seconds, "failed", said)

    rows = _read_summary(folder / "summary.csv") if resume else {}
    order = {output.name: number for number, output in enumerate(outputs)}
    outcomes = _beside(pool, one, scenes, outputs) if pool else map(one, scenes, outputs)

    def write() -> None:
        ordered = sorted(rows, key=lambda name: order.get(name, -1))
        _write_summary(folder / "summary.csv", [rows[name] for name in ordered])

    written, is_written = -math.inf, True
    try:
        for outcome in outcomes:
            rows[Path(outcome.output).name] = asdict(outcome)
            is_written = time.monotonic() - written > _BETWEEN
            if is_written:
                write()
                written = time.monotonic()
            yield outcome
    finally:
        if not is_written:
            write()


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
    note = note_of(output)
    made_from = facts_of(scene, options)
    known = read_note(note, _COLUMNS) if resume and output.exists() else None
    if known and known["made_from"] == made_from:
        if known["outcome"] is None and is_made_by(output, options):
            output.unlink()  # ours, but a run was killed before it could say so
        elif known.get("output") == version_of_output(output):  # not what a later run put there
            here = {"scene": unsigned(scene), "output": str(output), "status": "kept"}
            return Outcome(**known["outcome"] | here)
    is_new = not output.exists()
    if is_new:
        write_json(note, {"made_from": made_from, "outcome": None})
    try:
        cover = segment(scene, output)
    except Exception as error:  # whatever it is, it is raised; an interrupt leaves the note
        if is_new:
            note.unlink(missing_ok=True)  # or what somebody else puts there would be taken for ours
        if isinstance(error, FileExistsError) and known and known["made_from"] != made_from:
            raise FileExistsError(
                f"{output} was made from another {difference(known['made_from'], made_from)}: "
                "give --overwrite to replace it"
            ) from error
        raise
    seconds = round(time.perf_counter() - begun, 2)
    percents = cover.cloud_percent, cover.nodata_percent
    outcome = Outcome(unsigned(scene), str(output), *percents, seconds, "done")
    made = {"output": version_of_output(output), "outcome": asdict(outcome)}
    write_json(note, {"made_from": made_from} | made)
    return outcome


def check_summary(path: Path) -> None:
    """Refuse to replace a table that is not of a batch, with a FileExistsError."""
    if path.exists() and not _read_summary(path) and path.stat().st_size:
        raise FileExistsError(f"{path} is no summary of a batch: move it, or name another folder")


def _read_summary(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run by the name of their output; none of a table that is not ours."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")  # as `write_text` encodes
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error):
        return {}
    whole = [row for row in rows if row.keys() == set(_COLUMNS) and None not in row.values()]
    return {Path(row["output"]).name: dict(row) for row in whole}


def _write_summary(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())
