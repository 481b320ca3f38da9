"""A model against labelled images, or a mask against its label: chunk by chunk, then added up."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from cloudmask.checks import shown
from cloudmask.chunks import Block, edges
from cloudmask.constants import CLEAR, CLOUD, FLOAT_CHUNK, NODATA
from cloudmask.forward import Predictor
from cloudmask.grid import grid_of, in_order
from cloudmask.labelled import Reading, classes_of, labelled_chunks, open_pair
from cloudmask.manifest import Example
from cloudmask.mask import check_threshold, check_values, threshold_of
from cloudmask.paths import unsigned
from cloudmask.planes import open_label
from cloudmask.prediction import check_model, predict
from cloudmask.results import Evaluation, Wrong
from cloudmask.scores import Scores, Tally, score, tally

logger = logging.getLogger(__name__)

_WORST = 12
"""Images that are kept to be looked at."""
_SIDE = 512
"""Pixels of such an image, at most: every so many of a large one."""

Seen = tuple[xr.DataArray, xr.DataArray, xr.DataArray]
"""Of an example: a picture (band, y, x) 0–255, a mask or a probability (y, x), the label (y, x)."""


def evaluate(
    mask: xr.DataArray,
    label: xr.DataArray,
    *,
    threshold: float | None = None,
    cloud: tuple[int, ...] | None = None,
) -> Scores:
    """Compare a mask or a probability with a label of the same shape; computes both by chunk.

    Parameters
    ----------
    mask : (y, x) DataArray
        uint8: 0 clear, 1 cloud, 255 nodata; or probability, NaN where nodata.
    label : (y, x) DataArray
        uint8: 0 clear, 1 cloud, 255 not counted.
    threshold : float, optional
        Probability from which a pixel is cloud, to the nearest half percent up to 0.995; by default
        what the probability names as its own, or 0.5.
    cloud : tuple of int, optional
        Values of the label that mean cloud, where it has others than 0, 1 and 255.

    Returns
    -------
    Scores
        NaN where there is nothing to divide by.

    Raises
    ------
    ValueError
        Shapes or places differ, the label is no label, the mask no mask, or the threshold outside 0
        to 1.
    """
    mask, label = in_order(mask, "y", "x"), in_order(label, "y", "x")
    truth = classes_of(label, Reading(cloud=cloud), "the label")
    threshold = _cut(mask, threshold)
    found, _ = _tally_pair(_without_declared(mask), truth, "the label")
    _warn_of_nothing([found])
    return score([found], threshold)


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
        One line, before the model runs.
    """
    if threshold is not None:
        threshold = check_threshold(threshold)
    reading = Reading() if reading is None else reading
    if not isinstance(reading, Reading):
        raise ValueError(f"reading is {shown(reading)}: give a Reading")

    def see(example: Example) -> Seen:
        scene, label = open_pair(example, reading, FLOAT_CHUNK)
        return scene, predict(scene, model), label

    check_model(model)
    examples = () if isinstance(examples, str | Path | Example) else tuple(examples)
    if not all(isinstance(example, Example) for example in examples) or not examples:
        raise ValueError("there are no examples: give some, as read_examples(manifest) does")
    # Soon done: hours are lost if the last label has a flaw.
    if not any(chunk.cloud for chunk in labelled_chunks(examples, reading)):
        _warn_of_unscored_cloud([example.label for example in examples], reading)
    threshold = model.threshold if threshold is None else threshold
    about = getattr(model, "provenance", {"model": model.name}) | _given(reading)
    return replace(_counted(examples, see, threshold, done), about=about)


def evaluate_mask(
    mask: str, label: str, reading: Reading | None = None, *, threshold: float | None = None
) -> Evaluation:
    """Count a mask or a probability in a file against its label, as a single scene.

    Parameters
    ----------
    mask, label : str
        Path or URL of what `open_label` opens.
    reading : Reading, optional
        Values of the label.
    threshold : float, optional
        As for `evaluate`.

    Raises
    ------
    ValueError, OSError
        As for `evaluate`, or a file cannot be opened.
    """
    reading = reading or Reading()

    def see(example: Example) -> Seen:
        found = _without_declared(open_label(example.image))
        known = found.where(found != NODATA) if found.dtype == np.uint8 else found
        truth = classes_of(open_label(example.label), reading, example.label)
        return (known * 255).expand_dims(band=3), found, truth

    example = Example(mask, label, split="", scene=mask, set="mask")
    cut = _cut(open_label(mask), threshold)
    evaluation = _counted([example], see, cut, lambda: None)
    (counted,) = evaluation.tallies
    if not (counted.clear[-1] or counted.cloud[-1]) and _has_255_alone(mask):
        logger.warning(
            "%s has 255, which is nodata, and no 1, which is cloud: make it 1 if it is cloud", mask
        )
    if not counted.cloud.any():
        _warn_of_unscored_cloud([label], reading)
    about = {"mask": unsigned(str(mask)), "label": unsigned(str(label))} | _given(reading)
    return replace(evaluation, about=about)


def _given(reading: Reading) -> dict[str, Any]:
    """How images and labels are read, where that is not by what they say of themselves."""
    return {name: value for name, value in asdict(reading).items() if value is not None}


def _cut(found: xr.DataArray, threshold: float | None) -> float:
    """The threshold in force for a mask, which has been cut already, or a probability."""
    if threshold is not None:
        return check_threshold(threshold)
    own = threshold_of(found.attrs) if found.dtype.kind == "f" else None
    return 0.5 if own is None else own


def _without_declared(found: xr.DataArray) -> xr.DataArray:
    """A mask or a probability with what it declares as nodata as 255 or NaN; but for 0 and 1."""
    declared = found.attrs.get("_FillValue", math.nan)
    if declared in (CLEAR, CLOUD) or math.isnan(declared):
        return found
    if found.dtype.kind == "f":
        return found.where(found != declared)
    return found.where(found != declared, NODATA).astype("uint8")


def _warn_of_unscored_cloud(labels: Sequence[str], reading: Reading) -> None:
    """Say so where no label has cloud, but one has 255, which may stand for it."""
    if reading.cloud is None and (name := next(filter(_has_255_alone, labels), None)):
        logger.warning(
            "no label has 1, which is cloud, but %s has 255, which is not scored: give --cloud 255 "
            "(cloud=(255,)) if it is cloud",
            name,
        )


def _has_255_alone(name: str) -> bool:
    """Whether a mask without cloud has 255, and does not declare that as nodata."""
    mask = open_label(name)
    is_declared = mask.attrs.get("_FillValue") == NODATA
    return mask.dtype == np.uint8 and not is_declared and bool((mask == NODATA).any())


def _counted(
    examples: Sequence[Example],
    see: Callable[[Example], Seen],
    threshold: float,
    done: Callable[[], None],
) -> Evaluation:
    tallies: list[Tally] = []
    worst: list[Wrong] = []
    for example in examples:
        picture, found, label = see(example)
        one, thin = _tally_pair(found, label, example.label)
        tallies.append(one)
        share = 1 - score([one], threshold).accuracy if one.pixels else 0.0
        if share > 0:
            every = slice(None, None, _step(label.shape))
            few = {"y": every, "x": every}
            worst.append(Wrong(example, share, picture.isel(few), thin, label.isel(few)))
            worst = sorted(worst, key=lambda wrong: wrong.share, reverse=True)[:_WORST]
        done()
    _warn_of_nothing(tallies)
    return Evaluation(tuple(examples), tuple(tallies), threshold, tuple(worst))


def _step(shape: tuple[int, ...]) -> int:
    return -(-max(shape) // _SIDE)


def _warn_of_nothing(tallies: Sequence[Tally]) -> None:
    if not any(one.pixels for one in tallies):
        logger.warning("no pixel is scored: all are nodata, or labelled as not to be scored")


def _tally_pair(values: xr.DataArray, label: xr.DataArray, name: str) -> tuple[Tally, Block]:
    """Count, and keep every so many of the values: they are not computed again for a picture."""
    if values.shape != label.shape:
        raise ValueError(f"the mask is {values.shape}, {name} {label.shape}: give one grid")
    if grid_of(values).lies_elsewhere(grid_of(label)):
        raise ValueError(f"the mask lies elsewhere than {name}: bring them to one grid")
    found, truth = da.asarray(values.data), da.asarray(label.data)
    truth = truth.rechunk(found.chunks)
    step = _step(found.shape)

    def count(one: Block, other: Block, y: int, x: int) -> tuple[Tally, Block]:
        check_values(one)
        thin = one[-y % step :: step, -x % step :: step]
        return tally(one, other), thin.copy()  # a view would keep the whole chunk

    starts = [edges(lengths) for lengths in found.chunks]
    blocks = zip(found.to_delayed(), truth.to_delayed(), starts[0], strict=False)
    (counted,) = dask.compute(
        [
            [
                dask.delayed(count)(one, other, y, x)
                for one, other, x in zip(*row, starts[1], strict=False)
            ]
            for *row, y in blocks
        ]
    )
    total = reduce(add, [part for row in counted for part, _ in row])
    return total, np.block([[thin for _, thin in row] for row in counted])
