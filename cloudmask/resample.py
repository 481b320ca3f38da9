"""From finer pixels to coarser ones over the same bounds: the area average, as GDAL has it."""

import math
from collections.abc import Callable

import numpy as np

from cloudmask.chunks import Block
from cloudmask.grid import Grid

_PIXELS = 4096 * 4096
"""Of a source that is averaged, read at a time: what a task reads at once, anyway."""
_SIDE = 64
"""Of a source that is averaged at once: most weights of a longer one would be nothing, and NumPy
would take threads of its own for them, beside dask's."""


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


def average_of(
    read: Callable[[slice, slice], Block],
    source: Grid,
    rows: slice,
    columns: slice,
    factor_y: float,
    factor_x: float,
) -> Block:
    """Area average of a window of coarse pixels; `read` gives (band, y, x) of the source's own."""
    across, source_x = _pieces(columns, factor_x, source.width)
    # Few rows at a time: a chunk's whole source would be factor² as large. All of their columns, or
    # strips would be decoded for each piece of them.
    step = max(1, int(_PIXELS / (source_x.stop - source_x.start) / factor_y))
    parts = []
    for start in range(rows.start, rows.stop, step):
        down, source_y = _pieces(
            slice(start, min(start + step, rows.stop)), factor_y, source.height
        )
        values = read(source_y, source_x).astype("float32", copy=False)
        for y, weights_y in down:
            row = [average(values[:, y, x], weights_y, weights_x) for x, weights_x in across]
            parts.append(np.concatenate(row, axis=2))
    return np.concatenate(parts, axis=1)


def _pieces(coarse: slice, factor: float, size: int) -> tuple[list[tuple[slice, Block]], slice]:
    """Along one axis: pieces of the source that `coarse` needs, with their weights; all of it."""
    step = max(1, int(_SIDE / factor))
    pieces = [
        average_weights(start, min(start + step, coarse.stop), factor, size)
        for start in range(coarse.start, coarse.stop, step)
    ]
    first, last = pieces[0][0].start, pieces[-1][0].stop
    within = [(slice(at.start - first, at.stop - first), weights) for at, weights in pieces]
    return within, slice(first, last)


def rounded(mean: Block) -> Block:
    """Whole numbers, halves away from zero, as GDAL rounds the mean of integers; NaN stays."""
    return np.trunc(mean + np.copysign(np.float32(0.5), mean))


def nan_in_all_bands(values: Block) -> Block:
    """NaN in all bands of (band, y, x) `values` where it is in one; in place."""
    if values.dtype.kind == "f":
        values[:, np.isnan(values).any(axis=0)] = np.nan
    return values
