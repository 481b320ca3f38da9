"""Notes that a batch keeps on its outputs: what each was made from, and what came out."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio

from cloudmask.paths import is_local, is_remote, read_json, unsigned, without_scheme
from cloudmask.readers.files import files_of
from cloudmask.readers.protocol import version_of
from cloudmask.write import PROVENANCE, tags_of, without_nan

_NOTES = ".cloudmask"
"""Folder beside the outputs, with a note on each."""


def make_notes(folder: Path) -> None:
    """Make the folder for notes on outputs in `folder`."""
    notes = folder / _NOTES
    try:
        notes.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise FileExistsError(f"{notes} is a file: move it, notes on the masks go there") from error


def note_of(output: Path) -> Path:
    """Where the note on an output is."""
    return output.parent / _NOTES / f"{output.name}.json"


def full_name(scene: str) -> str:
    """The same from wherever it is named; a link is a name of its own, which its output has."""
    scene = without_scheme(scene)
    return os.path.abspath(scene) if is_local(scene) else unsigned(scene)  # noqa: PTH100  # with no ..


def facts_of(scene: str, options: dict[str, Any]) -> dict[str, Any]:
    """What an output depends on, in JSON's types; local files by their size and time of change."""
    versions = " ".join(map(version_of, files_of(scene)))  # of a VRT there may be thousands
    version = hashlib.sha256(versions.encode()).hexdigest()
    facts = {"scene": full_name(scene), "version of the scene": version, **without_nan(options)}
    read_back: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return read_back


def difference(known: Any, made_from: dict[str, Any]) -> str:
    """The first fact that is another."""
    if not isinstance(known, dict):  # of an earlier version
        return "scene, or with other options"
    key = next(key for key in {**made_from, **known} if known.get(key) != made_from.get(key))
    name = key.replace("_", " ")
    if key in ("scene", "version of the scene"):
        return name
    return f"{name} ({known.get(key)}, now {made_from.get(key)})"


def is_made_by(output: Path, options: dict[str, Any]) -> bool:
    """Whether it is a mask that tells of the same model and threshold, or such a probability."""
    if is_remote(output):
        return True
    told = {*PROVENANCE} if options.get("probability") else {*PROVENANCE, "threshold"}
    asked = tags_of({key: options[key] for key in options.keys() & told})
    try:
        with rasterio.open(output) as dataset:
            return bool(asked) and asked.items() <= dataset.tags().items()
    except rasterio.errors.RasterioIOError:
        return False


def version_of_output(output: Path) -> str:
    """What tells an output from another that took its place."""
    if is_remote(output):
        return str(output.fs.info(output.path).get("ETag", ""))  # type: ignore[attr-defined]
    return version_of(str(output))


def read_note(note: Path, told: Sequence[str]) -> dict[str, Any] | None:
    """A note on an output that was made, or begun; none that is damaged or tells other things."""
    try:
        known = read_json(note, "made_from", "outcome", cure="remove it")
    except (OSError, ValueError):
        return None
    outcome = known["outcome"]
    is_ours = outcome is None or (isinstance(outcome, dict) and outcome.keys() == set(told))
    return known if is_ours else None
