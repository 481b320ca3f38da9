"""Pictures of scores and of training, as PNG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cloudmask.chunks import Block
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.scores import BINS, Tally, bin_of
from cloudmask.stretch import brightened

_MISSED, _FALSE, _FOUND = (255, 140, 0), (230, 0, 120), (90, 170, 255)
_RELIABILITY_BINS = 20
_TITLE = 40
"""Letters of a line above a picture."""


@dataclass(frozen=True)
class Tile:
    """An image with its label and what was found, to be looked at."""

    title: str
    pixels: Block
    """(y, x, 3) RGB 0–255."""
    label: Block
    """(y, x) 0, 1, 255."""
    mask: Block
    """(y, x) 0, 1, 255."""


def draw_precision_recall(
    sets: Mapping[str, Sequence[Tally]], threshold: float, path: Path
) -> None:
    """Draw a curve for each set with cloud, and a dot at the threshold."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1.01),
        ylim=(0, 1.01),
        title="Precision and recall",
    )
    for f1 in (0.6, 0.7, 0.8, 0.9, 0.95):
        recall = np.linspace(f1 / (2 - f1), 1, 50)
        axes.plot(recall, f1 * recall / (2 * recall - f1), color="0.85", linewidth=0.8)
        axes.annotate(f"F1 {f1}", (1.0, f1 / (2 - f1)), fontsize=7, color="0.5", ha="right")
    for name, tallies in sets.items():
        total = reduce(add, tallies)
        if not total.cloud.sum():
            continue
        found = total.cloud[::-1].cumsum()[::-1]
        false = total.clear[::-1].cumsum()[::-1]
        with np.errstate(invalid="ignore"):
            precision = found / (found + false)  # NaN, and no line, where nothing is found
        recall = found / total.cloud.sum()
        (line,) = axes.plot(recall, precision, label=name)
        at = bin_of(threshold)
        axes.plot(recall[at], precision[at], "o", color=line.get_color())
    if axes.get_legend_handles_labels()[0]:  # none where no set has cloud
        axes.legend(loc="lower left", title=f"dot: threshold {threshold:g}")
    figure.savefig(path, dpi=110, format="png")


def draw_reliability(sets: Mapping[str, Sequence[Tally]], path: Path) -> None:
    """Draw, against the probability, how often it was cloud: on the diagonal it is calibrated."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(
        xlabel="probability",
        ylabel="share labelled cloud",
        xlim=(0, 1),
        ylim=(0, 1),
        title="Reliability",
    )
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    centres = ((np.arange(BINS) + 0.5) / BINS).reshape(_RELIABILITY_BINS, -1)
    for name, tallies in sets.items():
        total = reduce(add, tallies)
        if total.cloud.any():
            counts = (total.clear + total.cloud).reshape(centres.shape)
            count = counts.sum(axis=1)
            count = np.where(count >= 100, count, np.nan)  # no line where few are
            # Most probabilities are near 0 or 1, and none is at the middle of such a bin.
            mean = (counts * centres).sum(axis=1) / count
            share = total.cloud.reshape(centres.shape).sum(axis=1) / count
            axes.plot(mean, share, marker=".", label=name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=110, format="png")


def draw_worst(tiles: Sequence[Tile], path: Path) -> None:
    """Draw for each tile the image, its label and the errors: missed orange, false magenta."""
    figure = Figure(figsize=(14, 2.55 * max(1, -(-len(tiles) // 2)) + 0.4), layout="constrained")
    figure.suptitle(
        "image · label · found blue, missed orange, false magenta, not scored grey", fontsize=10
    )
    axes = figure.subplots(max(1, -(-len(tiles) // 2)), 6, squeeze=False)
    for axis in axes.ravel()[3 * len(tiles) :]:
        axis.set_axis_off()
    for i, tile in enumerate(tiles):
        row, first = divmod(i, 2)
        known = (tile.label != NODATA) & (tile.mask != NODATA)
        label = np.repeat(np.where(known, tile.label * 255, 128)[..., None], 3, axis=2)
        image = brightened(tile.pixels)
        errors = (image * 0.5).astype("uint8")
        for colour, at in [
            (_FOUND, (tile.label == CLOUD) & (tile.mask == CLOUD)),
            (_MISSED, (tile.label == CLOUD) & (tile.mask == CLEAR)),
            (_FALSE, (tile.label == CLEAR) & (tile.mask == CLOUD)),
            ((128, 128, 128), ~known),
        ]:
            errors[at] = (0.4 * errors[at] + 0.6 * np.array(colour)).astype("uint8")
        for axis, picture in zip(
            axes[row, 3 * first : 3 * first + 3], (image, label, errors), strict=True
        ):
            axis.imshow(picture.astype("uint8"), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        # A longer line would push the pictures apart.
        lines = (
            line if len(line) <= _TITLE else f"{line[: _TITLE - 1]}…"
            for line in tile.title.split("\n")
        )
        axes[row, 3 * first].set_title("\n".join(lines), fontsize=7, loc="left")
    figure.savefig(path, dpi=90, format="png")


def draw_history(epochs: Sequence[dict[str, float]], path: Path) -> None:
    """Draw loss, scores and learning rate over the epochs of a training run."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)
    numbers = np.arange(1, len(epochs) + 1)

    def curve(axes: Any, key: str, label: str) -> None:
        axes.plot(numbers, [entry[key] for entry in epochs], marker=".", label=label)

    curve(losses, "loss", "training")
    curve(losses, "val_loss", "validation")
    losses.set(title="loss", xlabel="epoch")
    losses.legend()
    for key in ("precision", "recall", "f1", "f2", "iou"):
        curve(scores, f"val_{key}", key)
    scores.set(title="validation, threshold 0.5", xlabel="epoch")
    scores.legend()
    curve(rates, "learning_rate", "learning rate")
    rates.set(title="learning rate", xlabel="epoch", yscale="log")
    for axes in (losses, scores, rates):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=90, format="png")
