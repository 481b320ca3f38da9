"""How well probabilities agree with labels: counts that add up, and scores made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cloudmask.chunks import Block
from cloudmask.constants import CLEAR, CLOUD, NODATA

BINS = 200
"""Of probability: thresholds are told apart to half a percent."""
_ROUNDING = 1e-4
"""Of a bin: 0.29 times 200 is less than 58 in floating point."""
_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)
_OF_CLOUD = ("precision", "recall", "f1", "f2", "iou", "miou")


@dataclass(frozen=True)
class Tally:
    """Scored pixels by label and by probability; adds up over chunks, images and sets."""

    clear: NDArray[np.int64]
    """(BINS,) pixels labelled clear."""
    cloud: NDArray[np.int64]
    """(BINS,) pixels labelled cloud."""
    squared_error: float
    """Sum of (probability − label)²."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.clear + other.clear,
            self.cloud + other.cloud,
            self.squared_error + other.squared_error,
        )

    @property
    def pixels(self) -> int:
        """How many were scored."""
        return int(self.clear.sum() + self.cloud.sum())


@dataclass(frozen=True)
class Scores:
    """Agreement with labels at one threshold; NaN where there is nothing to divide by."""

    precision: float
    """Share of the cloud found that is cloud."""
    recall: float
    """Share of the cloud that was found."""
    f1: float
    """Harmonic mean of precision and recall."""
    f2: float
    """The same, a missed cloud weighing as much as four false ones."""
    iou: float
    """Of cloud: found and true, over found or true."""
    miou: float
    """Mean of the IoU of cloud and that of clear."""
    accuracy: float
    """Share of pixels that are right."""
    brier: float
    """Mean squared error of the probability (Brier 1950); for a mask the share that is wrong."""
    false_cloud: float
    """Share of cloud found on scenes that have none."""


def tally(probability: Block, label: Block) -> Tally:
    """Count the pixels of a chunk.

    Parameters
    ----------
    probability : array
        0–1, NaN where nodata; or a mask of 0, 1 and 255.
    label : array
        0, 1, and 255 where not scored.
    """
    values = np.asarray(probability)
    valid = np.isfinite(values) if values.dtype.kind == "f" else values != NODATA
    known = valid & (label != NODATA)
    p = values[known].astype("float64")
    bins = np.minimum((p * BINS + _ROUNDING).astype(int), BINS - 1)
    truth = label[known]
    return Tally(
        np.bincount(bins[truth == CLEAR], minlength=BINS),
        np.bincount(bins[truth == CLOUD], minlength=BINS),
        float(((p - truth) ** 2).sum()),
    )


def bin_of(threshold: float) -> int:
    """The first bin that is cloud; that of the surest pixels at 1."""
    return min(round(threshold * BINS), BINS - 1)


def score(tallies: Sequence[Tally], threshold: float) -> Scores:
    """Score images together, pixels pooled, at a threshold (to the nearest half percent)."""
    return _scores(_counts(tallies, threshold).sum(axis=0))


def intervals(tallies: Sequence[Tally], threshold: float) -> dict[str, tuple[float, float]]:
    """95 % intervals of each score, by bootstrap over scenes (Efron 1979).

    Parameters
    ----------
    tallies : sequence of Tally
        One for each scene, since pixels of one scene are not independent. A score has an interval
        if two of them or more tell of it: with cloud, of scores of cloud; without, of false cloud.
        What is drawn without any cloud counts for the others; one without a scored pixel tells
        nothing.
    """
    tallies = [one for one in tallies if one.pixels]
    if len(tallies) < 2:
        return {}
    cloudy = sum(bool(one.cloud.sum()) for one in tallies)
    telling = dict.fromkeys(_OF_CLOUD, cloudy) | {"false_cloud": len(tallies) - cloudy}
    counts = _counts(tallies, threshold)
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(tallies), size=(_RESAMPLES, len(tallies)))
    resampled = [_scores(counts[rows].sum(axis=0)) for rows in drawn]
    result = {}
    for field in fields(Scores):
        if telling.get(field.name, len(tallies)) < 2:
            continue
        with_cloud = field.name in _OF_CLOUD
        drawn_ones = [s for s in resampled if not with_cloud or np.isfinite(s.recall)]
        values = np.array([getattr(scores, field.name) for scores in drawn_ones])
        values = values[np.isfinite(values)]
        if values.size:
            low, high = np.percentile(values, _INTERVAL)
            result[field.name] = (float(low), float(high))
    return result


def sweep(tallies: Sequence[Tally]) -> dict[float, Scores]:
    """Scores at thresholds 0.05, 0.10 … 0.95."""
    return {step / 20: score(tallies, step / 20) for step in range(1, 20)}


def best_threshold(tallies: Sequence[Tally], beta: float = 1.0) -> float:
    """Of 0.05 … 0.95, the threshold with the highest F-beta; 0.5 where none has one.

    The middle one of several that are as good.
    """
    values = {}
    for threshold, scores in sweep(tallies).items():
        p, r = scores.precision, scores.recall
        values[threshold] = (1 + beta**2) * p * r / (beta**2 * p + r) if p * r > 0 else 0.0
    highest = max(values.values())
    best = [threshold for threshold, value in values.items() if value == highest]
    return best[len(best) // 2] if highest > 0 else 0.5


def _counts(tallies: Sequence[Tally], threshold: float) -> NDArray[np.float64]:
    """A row for each: found, false, missed, right clear, squared error, false and all on clear."""
    first = bin_of(threshold)
    rows = []
    for one in tallies:
        found, false = one.cloud[first:].sum(), one.clear[first:].sum()
        missed, right = one.cloud[:first].sum(), one.clear[:first].sum()
        cloudless = found + missed == 0
        rows.append(
            [
                found, false, missed, right, one.squared_error,
                false * cloudless, (false + right) * cloudless,
            ]
        )  # fmt: skip
    return np.array(rows, "float64")


def _scores(counts: NDArray[np.float64]) -> Scores:
    found, false, missed, right, squared_error, false_on_clear, on_clear = counts
    iou = _ratio(found, found + false + missed)
    clear_iou = _ratio(right, right + false + missed)
    return Scores(
        precision=_ratio(found, found + false),
        recall=_ratio(found, found + missed),
        f1=_ratio(2 * found, 2 * found + false + missed),
        f2=_ratio(5 * found, 5 * found + false + 4 * missed),
        iou=iou,
        miou=(iou + clear_iou) / 2,
        accuracy=_ratio(found + right, found + false + missed + right),
        brier=_ratio(squared_error, found + false + missed + right),
        false_cloud=_ratio(false_on_clear, on_clear),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
