"""A model against labelled images, or a mask against its label: chunk by chunk, then added up."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from cloudmask.chunks import Block
from cloudmask.constants import FLOAT_CHUNK
from cloudmask.forward import Predictor
from cloudmask.grid import grid_of
from cloudmask.labelled import Reading, check_values, open_pair, to_classes
from cloudmask.manifest import Example
from cloudmask.mask import threshold as mask_of
from cloudmask.plots import Tile, draw_precision_recall, draw_reliability, draw_worst
from cloudmask.prediction import predict
from cloudmask.scores import (
    Scores,
    Tally,
    best_threshold,
    intervals,
    score,
    sweep,
    tally,
)
from cloudmask.write import replacing, without_nan, write_json

_WORST = 12
"""Images on the page of the worst."""
_TILE_SIDE = 512
"""Pixels of an image on that page, at most."""


@dataclass(frozen=True)
class Evaluation:
    """What was counted on each image, and the threshold that scores are made at."""

    examples: tuple[Example, ...]
    tallies: tuple[Tally, ...]
    """One for each example."""
    threshold: float
    """Probability from which a pixel is cloud."""

    @property
    def sets(self) -> dict[str, list[Tally]]:
        """One tally for each scene, by set."""
        sets: dict[str, list[Tally]] = {}
        for (name, _), members in self._by_scene().items():
            sets.setdefault(name, []).append(reduce(add, members))
        return sets

    def _by_scene(self) -> dict[tuple[str, str], list[Tally]]:
        scenes: dict[tuple[str, str], list[Tally]] = {}
        for example, one in zip(self.examples, self.tallies, strict=True):
            scenes.setdefault((example.set, example.scene), []).append(one)
        return scenes

    def worst(self, count: int) -> list[Example]:
        """The examples with the largest share of wrong pixels, the worst first."""
        wrong = [
            1 - score([one], self.threshold).accuracy if one.pixels else 0.0 for one in self.tallies
        ]
        order = np.argsort(wrong, kind="stable")[::-1][:count]
        return [self.examples[i] for i in order if wrong[i] > 0]

    def rows(self) -> list[dict[str, Any]]:
        """A table: overall, then each set, then each scene; scores, and pixels by class."""
        whole = [one for members in self.sets.values() for one in members]
        rows = [_row("overall", "", whole, self.threshold)]
        rows += [_row(name, "", members, self.threshold) for name, members in self.sets.items()]
        for (name, scene), members in self._by_scene().items():
            rows.append(_row(name, scene, members, self.threshold))
        return rows

    def facts(self) -> dict[str, Any]:
        """Everything, for JSON: scores with 95 % intervals, the sweep, the best thresholds."""
        sets = self.sets
        whole = [one for members in sets.values() for one in members]
        return {
            "threshold": self.threshold,
            "best_threshold": {"f1": best_threshold(whole), "f2": best_threshold(whole, beta=2)},
            "overall": _facts(whole, self.threshold),
            "sets": {name: _facts(members, self.threshold) for name, members in sets.items()},
            "sweep": [
                {"threshold": threshold} | asdict(scores)
                for threshold, scores in sweep(whole).items()
            ],
        }


def evaluate(
    mask: xr.DataArray,
    label: xr.DataArray,
    *,
    threshold: float = 0.5,
    cloud: tuple[int, ...] | None = None,
) -> Scores:
    """Compare a mask or a probability with a label of the same shape; computes both by chunk.

    Parameters
    ----------
    mask : (y, x) DataArray
        uint8: 0 clear, 1 cloud, 255 nodata; or probability, NaN where nodata.
    label : (y, x) DataArray
        uint8: 0 clear, 1 cloud, 255 not counted.
    threshold : float
        Probability from which a pixel is cloud.
    cloud : tuple of int, optional
        Values of the label that mean cloud, where it has others than 0, 1 and 255.

    Returns
    -------
    Scores
        NaN where there is nothing to divide by.

    Raises
    ------
    ValueError
        Shapes or places differ, or the label is no label.
    """
    return score([_tally_pair(mask, label, Reading(cloud=cloud), "the label")], threshold)


def evaluate_model(
    model: Predictor,
    examples: Sequence[Example],
    reading: Reading | None = None,
    *,
    threshold: float | None = None,
    done: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run a model over labelled images, at their own pixels, and count.

    Parameters
    ----------
    model : Predictor
        Such as `load_model()`.
    examples : sequence of Example
        As `read_examples` gives them; all headers are checked first.
    reading : Reading, optional
        Scale or stretch of what is not uint8; values of the labels.
    threshold : float, optional
        Default: the model's.
    done : callable
        Called after each image.

    Returns
    -------
    Evaluation
        What was counted on each image.

    Raises
    ------
    ValueError, OSError
        One line, before any pixel is read; for an unknown label value when it is met.
    """
    reading = reading or Reading()
    for example in examples:
        open_pair(example, reading, FLOAT_CHUNK)
    tallies = []
    for example in examples:
        scene, label = open_pair(example, reading, FLOAT_CHUNK)
        tallies.append(_tally_pair(predict(scene, model), label, reading, example.label))
        done()
    return Evaluation(
        tuple(examples), tuple(tallies), model.threshold if threshold is None else threshold
    )


def write_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    model: Predictor,
    reading: Reading | None = None,
    overwrite: bool = False,
) -> None:
    """Write tables and pictures into a folder that appears when all of them are done.

    scores.json, scores.csv (a row overall, for each set and each scene), precision_recall.png,
    reliability.png, and worst.png with the images that have the largest share of wrong pixels.

    Raises
    ------
    FileExistsError
        The folder exists.
    """
    check_folder(folder, overwrite=overwrite)
    sets, reading = evaluation.sets, reading or Reading()
    tiles = [
        _tile(example, model, reading, evaluation.threshold) for example in evaluation.worst(_WORST)
    ]
    with replacing(folder) as work:
        made = work / folder.name
        made.mkdir()
        write_json(made / "scores.json", without_nan(evaluation.facts()))
        with (made / "scores.csv").open("w", newline="") as file:
            rows = evaluation.rows()
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        draw_precision_recall(sets, evaluation.threshold, made / "precision_recall.png")
        draw_reliability(sets, made / "reliability.png")
        draw_worst(tiles, made / "worst.png")


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that exists, or that is something else than an evaluation."""
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists: pass overwrite to replace it")
    if folder.exists() and not (folder / "scores.json").exists():
        raise FileExistsError(f"{folder} is no evaluation: choose another name")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"the folder {folder.parent} does not exist: make it first")


def _tile(example: Example, model: Predictor, reading: Reading, threshold: float) -> Tile:
    """The image, at most so many pixels a side: every so many pixels of a large one."""
    scene, label = open_pair(example, reading, FLOAT_CHUNK)
    step = -(-max(label.shape) // _TILE_SIDE)
    thin = {"y": slice(None, None, step), "x": slice(None, None, step)}
    cut = mask_of(predict(scene, model).isel(thin), threshold).to_numpy()
    classes = to_classes(label.isel(thin).to_numpy(), reading)
    pixels = np.nan_to_num(np.moveaxis(scene.isel(thin).to_numpy(), 0, -1))
    accuracy = score([tally(cut, classes)], 0.5).accuracy
    title = f"{example.set}: {Path(example.image).name}, {1 - accuracy:.0%} wrong"
    return Tile(title, pixels.astype("uint8"), classes, cut)


def _tally_pair(values: xr.DataArray, label: xr.DataArray, reading: Reading, name: str) -> Tally:
    if values.shape != label.shape:
        raise ValueError(f"the mask is {values.shape}, {name} {label.shape}: give one grid")
    if grid_of(values).lies_elsewhere(grid_of(label)):
        raise ValueError(f"the mask lies elsewhere than {name}: bring them to one grid")
    if label.dtype != np.uint8:
        raise ValueError(f"{name} is {label.dtype}: a label is uint8 (0, 1, 255)")
    found, truth = da.asarray(values.data), da.asarray(label.data)
    truth = truth.rechunk(found.chunks)

    def count(one: Block, other: Block) -> Tally:
        check_values(name, reading, np.bincount(other.ravel(), minlength=256))
        return tally(one, to_classes(other, reading))

    pairs = zip(found.to_delayed().ravel(), truth.to_delayed().ravel(), strict=True)
    return reduce(add, dask.compute(*[dask.delayed(count)(*pair) for pair in pairs]))


def _row(name: str, scene: str, tallies: Sequence[Tally], threshold: float) -> dict[str, Any]:
    total = reduce(add, tallies)
    return {
        "set": name,
        "scene": scene,
        "clear": int(total.clear.sum()),
        "cloud": int(total.cloud.sum()),
        **asdict(score(tallies, threshold)),
    }


def _facts(scenes: Sequence[Tally], threshold: float) -> dict[str, Any]:
    total = reduce(add, scenes)
    return {
        "scenes": len(scenes),
        "pixels": total.pixels,
        **asdict(score(scenes, threshold)),
        "intervals": intervals(scenes, threshold),
    }
