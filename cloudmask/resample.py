"""From finer pixels to coarser ones over the same bounds: the area average, as GDAL has it."""

import math

import numpy as np

from cloudmask.chunks import Block


def average_weights(start: int, stop: int, factor: float, size: int) -> tuple[slice, Block]:
    """Weights of source pixels in coarse pixels `start` … `stop` along one axis.

    Returns
    -------
    slice
        The source pixels needed.
    (stop - start, source) float64 array
        Length of each source pixel inside each coarse pixel.
    """
    first = math.floor(start * factor + 1e-9)
    last = min(size, max(first + 1, math.ceil(stop * factor - 1e-9)))
    edges = np.arange(first, last + 1, dtype="float64")
    lower = np.arange(start, stop, dtype="float64")[:, None] * factor
    inside = np.minimum(edges[1:], lower + factor) - np.maximum(edges[:-1], lower)
    return slice(first, last), np.clip(inside, 0, None)


def average(values: Block, weights_y: Block, weights_x: Block) -> Block:
    """Area-weighted mean of (band, y, x) `values`; NaN is left out, and stays where alone."""
    valid = ~np.isnan(values)
    total = weights_y @ np.where(valid, values, 0) @ weights_x.T
    weight = weights_y @ valid.astype("float64") @ weights_x.T
    known = weight > 1e-9
    out = np.full(total.shape, np.nan, "float32")
    np.divide(total, weight, out=out, where=known, casting="unsafe")
    return out
