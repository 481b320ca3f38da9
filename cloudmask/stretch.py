"""Radiometry: from a scene's own values to 0–255, by one rule for the whole scene."""

import math
from dataclasses import dataclass

import numpy as np

from cloudmask.checks import real
from cloudmask.chunks import Block


@dataclass(frozen=True)
class Stretch:
    """A linear map per band; values outside it are clipped."""

    low: tuple[float, ...]
    """Value that becomes 0, for each band."""
    high: tuple[float, ...]
    """Value that becomes 255, for each band."""

    def __call__(self, values: Block) -> Block:
        """Map (band, y, x) values to 0–255 float32; NaN stays NaN."""
        low = np.asarray(self.low, "float32")[:, None, None]
        high = np.asarray(self.high, "float32")[:, None, None]
        scaled = (values.astype("float32") - low) * (255 / (high - low))
        return np.clip(scaled, 0, 255, out=scaled)


def check_stretch(scale: float | None, percent: float | None) -> None:
    """Refuse what is no scale, no percentile to clip at both ends, or both, with a ValueError."""
    if scale is not None and percent is not None:
        raise ValueError("scale and stretch are both given: choose one")
    if scale is not None and not 0 < real("scale", scale) < math.inf:
        raise ValueError(
            f"scale is {scale}: give the positive value that maps to 255, such as 10000"
        )
    if percent is not None and not 0 <= real("stretch", percent) <= 49:
        raise ValueError(
            f"stretch is {percent}: give the percentile to clip at each end, 0 to 49 "
            "(2 is light, 5 medium, 10 heavy)"
        )


def from_scale(scale: float, bands: int) -> Stretch:
    """Map 0 … `scale` to 0 … 255 in every band, `scale` in the scene's own units.

    Raises
    ------
    ValueError
        `scale` is not a positive number.
    """
    check_stretch(scale, None)
    return Stretch((0.0,) * bands, (float(scale),) * bands)


def brightened(pixels: Block) -> Block:
    """Pixels 0–255, all bands alike so bright that a person sees a dark scene: uint8, NaN as 0."""
    values = pixels.astype("float32")
    known = values[np.isfinite(values)]
    brightest = max(1.0, float(np.percentile(known, 99.5))) if known.size else 255.0
    return np.nan_to_num(np.clip(values * (255 / brightest), 0, 255)).astype("uint8")


def from_percentiles(sample: Block, percent: float) -> Stretch:
    """Clip the lowest and the highest `percent` of each band's values.

    Parameters
    ----------
    sample : (band, y, x) float array
        The whole scene, decimated; NaN is left out.
    percent : float
        0 to 49; 2 is light, 5 medium, 10 heavy.
    """
    check_stretch(None, percent)
    low, high = [], []
    for band in sample:
        values = band[np.isfinite(band)]
        ends = np.percentile(values, [percent, 100 - percent]) if values.size else np.array([0, 1])
        ends = ends.astype("float32")  # as which they are used
        low.append(float(ends[0]))
        # A constant band has nothing to stretch: it becomes 0, in float32, too.
        least = low[-1] + max(1.0, abs(low[-1]) * 1e-6)
        high.append(float(ends[1]) if ends[1] > ends[0] else least)
    return Stretch(tuple(low), tuple(high))
