"""The folder of a training run: refused early, made late, and taken back if nothing came of it."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from cloudmask.locks import alone
from cloudmask.paths import has_keys, read_json
from cloudmask.registry import CARD
from cloudmask.weightfile import file_sha256
from cloudmask.write import check_folder_of, full_disk, write_json

CONFIG, HISTORY = "config.json", "history.json"
BEST = "best.weights.h5"
"""In a run's checkpoint folder: of the lowest validation loss, in float32."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{2,29}")
_BYTES_PER_WEIGHT = 46
"""On disk while a run goes on: two checkpoints of weights, their average and the optimiser's two
moments; the best weights twice, and those of the phase before; the model in float16."""


def read_history(folder: Path) -> list[dict[str, float]]:
    """What each finished epoch of a run gave."""
    file = folder / HISTORY
    if not file.exists():
        return []
    epochs: list[dict[str, float]] = read_json(file, "epochs", cure="begin the run again")["epochs"]
    return epochs


def check_run(
    runs: Path, name: str, config: dict[str, Any], *, resume: bool, overwrite: bool
) -> Path:
    """Refuse a name, a place or a run that cannot be begun or resumed.

    Parameters
    ----------
    runs : Path
        Where the run's folder lies, or is to.
    name : str
        The run's.
    config : dict
        What the run depends on: recipe, manifest, and the hash of its examples.
    resume, overwrite : bool
        As for `train`.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"run name is {name!r}: give 3 to 30 characters of A-Z, a-z, 0-9, _ or ., "
            "which it may not begin with"
        )
    if runs.exists() and not runs.is_dir():
        raise NotADirectoryError(f"{runs} is no folder: name another for the runs")
    folder = runs / name
    if resume and overwrite:
        raise ValueError("resume and overwrite are both given: choose one")
    if resume:
        _check_same(folder, config)
    elif folder.exists() and not overwrite:
        raise FileExistsError(_exists(folder))
    elif folder.exists() and not has_keys(folder / CONFIG, "recipe", "manifest"):
        raise FileExistsError(f"{folder} is no run: choose another name")
    check_folder_of(_there(folder) / name)
    return folder


def _there(folder: Path) -> Path:
    """The nearest folder above that exists."""
    return next(parent for parent in folder.absolute().parents if parent.exists())


def _exists(folder: Path) -> str:
    return f"{folder} exists: resume it, overwrite it, or choose another name"


def _check_same(folder: Path, config: dict[str, Any]) -> None:
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder} holds no run to resume: leave out resume")
    before = read_json(folder / CONFIG, "recipe", "manifest", cure="begin the run again")
    wanted = json.loads(json.dumps(config["recipe"]))
    for key, value in _flat(before["recipe"]).items():
        if (now := _flat(wanted).get(key)) != value:
            raise ValueError(
                f"{folder} was begun with {key.replace('_', ' ')} {value}, not {now}: "
                "resume it with the same options"
            )
    if before.get("examples", config["examples"]) != config["examples"]:
        raise ValueError(
            f"{folder} was begun with other images or labels than those of {config['manifest']}: "
            f"resume it with {before['manifest']} as it was"
        )


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    """The parts of what has parts, too: of the sampling and of the reading."""
    inner = [_flat(value) for value in recipe.values() if isinstance(value, dict)]
    flat = {key: value for key, value in recipe.items() if not isinstance(value, dict)}
    return reduce(or_, inner, flat)


def check_disk(folder: Path, weights: int, *, resume: bool) -> None:
    """Refuse a disk without room for a run of a network of so many weights, with an OSError."""
    there = _there(folder)
    free, need = shutil.disk_usage(there).free, _BYTES_PER_WEIGHT * weights
    if resume:  # part of it is there
        need -= sum(file.stat().st_size for file in folder.rglob("*.h5"))
    if free < need:
        raise OSError(
            f"{there} has {free / 1e6:.0f} MB free, a run takes {need / 1e6:.0f} MB: make room, or "
            "name another folder for the runs"
        )


def leave_finished(folder: Path) -> bool:
    """Whether a run is finished and whole; what it replaced goes, if that was still there."""
    if not has_keys(folder / CARD, "file", "sha256"):
        return False
    card = read_json(folder / CARD, cure="")
    weights = folder / card["file"]
    if not weights.is_file() or file_sha256(weights) != card["sha256"]:
        return False
    _tidy(folder)
    return True


def _tidy(folder: Path) -> None:
    """Of a finished run: remove the run it replaced, and its checkpoints, but for the best.

    With the optimiser's two moments those take ten times as much as the model.
    """
    shutil.rmtree(_replaced(folder), ignore_errors=True)
    for file in folder.glob("checkpoint/*"):
        if file.name != BEST and file.is_file():
            with suppress(OSError):  # it takes room, and does no harm
                file.unlink()


def _replaced(folder: Path) -> Path:
    """Where a run lies that is being replaced."""
    return folder.with_name(f".{folder.name}.replaced")


@contextmanager
def run_folder(
    folder: Path, config: dict[str, Any], *, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Make the folder, which a run fills while this is entered.

    A run of its name is set aside in .NAME.replaced until the new one is finished. After a failure
    or an interrupt before the first epoch was, all is as before; after it, the run can be resumed.
    One process at a time: a FileExistsError in all others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder, "trained"):
        yield from _filling(folder, config, resume=resume, overwrite=overwrite)


def _filling(
    folder: Path, config: dict[str, Any], *, resume: bool, overwrite: bool
) -> Iterator[None]:
    replaced = _replaced(folder)
    if folder.exists() and not resume:
        if not overwrite:  # another run took the name while labels were read
            raise FileExistsError(_exists(folder))
        if replaced.exists() and not (folder / CARD).exists():
            shutil.rmtree(folder)  # unfinished; what may be finished was set aside before it
        else:
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
    try:
        (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, config)
        yield
    except (Exception, KeyboardInterrupt) as error:  # whatever it is, it is raised again
        has_begun = resume or (folder / HISTORY).exists()
        if not has_begun:
            shutil.rmtree(folder, ignore_errors=True)
            if replaced.exists():
                replaced.rename(folder)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(_interrupted(replaced, has_begun=has_begun)) from error
        full_disk(folder, error, cure=f"make room{', then --resume goes on' * has_begun}")
        raise
    _tidy(folder)


def _interrupted(replaced: Path, *, has_begun: bool) -> str:
    if not has_begun:
        return "interrupted before the first epoch was done: nothing was kept of it"
    before = f"; until it is finished, the run before is in {replaced}" * replaced.exists()
    return f"interrupted: the same command with --resume (in place of --overwrite) goes on{before}"
