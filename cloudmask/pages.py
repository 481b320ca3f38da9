"""The folder of an evaluation: tables, curves and the worst images."""

import csv
from pathlib import Path

import numpy as np
import xarray as xr

from cloudmask.mask import threshold
from cloudmask.paths import has_keys, unsigned
from cloudmask.plots import Tile, draw_precision_recall, draw_reliability, draw_worst
from cloudmask.results import Evaluation, Wrong
from cloudmask.write import check_folder_of, replacing, without_nan, write_json


def write_evaluation(evaluation: Evaluation, folder: Path, *, overwrite: bool = False) -> None:
    """Write tables and pictures into a folder that appears when all of them are done.

    scores.json, scores.csv (a row overall, for each set and each scene), precision_recall.png,
    reliability.png, and worst.png with the images that have the largest share of wrong pixels.

    Raises
    ------
    ValueError, OSError
        What `check_folder` refuses: without `overwrite` a folder that is there, for instance.
    """
    check_folder(folder, overwrite=overwrite)
    sets = evaluation.sets
    tiles = [_tile(wrong, evaluation.threshold) for wrong in evaluation.worst]
    with replacing(folder) as work:
        made = work / folder.name
        made.mkdir()
        write_json(made / "scores.json", without_nan(evaluation.facts()))
        with (made / "scores.csv").open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            rows = without_nan(evaluation.rows())
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        draw_precision_recall(sets, evaluation.threshold, made / "precision_recall.png")
        draw_reliability(sets, made / "reliability.png")
        draw_worst(tiles, made / "worst.png")


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that exists, is something else than an evaluation, or cannot be made."""
    if folder.name in ("", ".."):
        raise ValueError(f"{folder} is no folder to be made: give it a name")
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists: pass overwrite to replace it")
    if folder.exists() and not has_keys(folder / "scores.json", "threshold", "sets"):
        raise FileExistsError(f"{folder} is no evaluation: choose another name")
    check_folder_of(folder)


def _tile(wrong: Wrong, cut: float) -> Tile:
    pixels = np.nan_to_num(np.moveaxis(wrong.picture.to_numpy(), 0, -1))
    found = xr.DataArray(wrong.found, dims=("y", "x"))
    mask = found if found.dtype == np.uint8 else threshold(found, cut)
    name = Path(unsigned(wrong.example.image)).name
    title = f"{wrong.example.set}: {name}\n{wrong.share:.0%} wrong"
    return Tile(title, pixels.astype("uint8"), wrong.label.to_numpy(), mask.to_numpy())
