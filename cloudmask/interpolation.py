"""Values between the centres of coarse pixels: nearest or bilinear, cut or not; NumPy only."""

import math
from typing import Any

import numpy as np

from cloudmask.chunks import Block
from cloudmask.constants import CLEAR, CLOUD, NODATA

# Rounding moves an interpolated probability by less than this beyond those that it lies between.
_ROUNDING = np.float32(1e-5)


def dtype_of(array: Any, threshold: float | None) -> np.dtype[Any]:
    """The type of what `array` becomes: a mask, or a probability still."""
    return np.dtype("uint8" if array.dtype == np.uint8 or threshold is not None else "float32")


def nodata_of(dtype: np.dtype[Any]) -> Any:
    """Nodata of a mask, or of a probability."""
    return np.uint8(NODATA) if dtype == np.uint8 else np.float32(np.nan)


def constant_of(block: Block, threshold: float | None) -> Any:
    """What all fine pixels between these coarse ones are, None where they differ."""
    lowest, highest = block.min(), block.max()  # NaN if any is
    if np.isnan(lowest):
        return nodata_of(dtype_of(block, threshold)) if np.isnan(block).all() else None
    if threshold is None:
        return lowest if lowest == highest else None
    if lowest >= threshold + _ROUNDING:
        return CLOUD
    return CLEAR if highest < threshold - _ROUNDING else None


def enlarge_patch(
    block: Block, at_y: Block, at_x: Block, nearest: bool, threshold: float | None
) -> Any:
    """Values at pixel positions of `block`; a single one where all pixels around lead to it."""
    rows, columns = _between(at_y, block.shape[0]), _between(at_x, block.shape[1])
    around = block[rows, columns]
    constant = constant_of(around, threshold)
    if constant is not None:
        return constant
    at_y, at_x = at_y - rows.start, at_x - columns.start
    values = (_nearest if nearest else _bilinear)(around, at_y, at_x)
    if threshold is not None:
        values = np.where(values >= threshold, np.uint8(CLOUD), np.uint8(CLEAR))
    is_nodata = np.isnan(around)
    if is_nodata.any():
        values = np.where(_nearest(is_nodata, at_y, at_x), nodata_of(values.dtype), values)
    return values


def fill_lost(
    out: Block, valid: Block, block: Block, at_y: Block, at_x: Block, threshold: float | None
) -> None:
    """Give valid pixels in a coarse one that is nodata the mean of what is known around that.

    A coarse pixel that was taken from the nearest one, as many overviews are, may be nodata where
    most of it is valid. Where all of it is, who made the array made it nodata: it stays so.
    """
    if np.isnan(block).all():
        return
    lost = valid & (out == NODATA if out.dtype == np.uint8 else np.isnan(out))
    if not lost.any():
        return
    cell_y, cell_x = _cells(at_y, at_x, block)
    rows, columns = np.nonzero(~valid)
    is_partly = np.zeros(block.shape, bool)
    is_partly[cell_y[rows], cell_x[columns]] = True
    rows, columns = np.nonzero(lost)
    kept = is_partly[cell_y[rows], cell_x[columns]]
    rows, columns = rows[kept], columns[kept]
    known = np.pad(~np.isnan(block), 1)
    values = np.pad(np.where(np.isnan(block), 0, block), 1)
    height, width = block.shape
    total, count = (
        sum(of[y : y + height, x : x + width] for y in range(3) for x in range(3))
        for of in (values, known.astype("float32"))
    )
    mean = np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan))
    found = mean[cell_y[rows], cell_x[columns]]
    if threshold is not None:
        kinds = np.where(found >= threshold, np.uint8(CLOUD), np.uint8(CLEAR))
        found = np.where(np.isnan(found), np.uint8(NODATA), kinds)
    out[rows, columns] = found


def _between(at: Block, size: int) -> slice:
    """Which of `size` coarse pixels have centres around these rising positions."""
    return slice(max(0, math.floor(at[0]) - 1), min(size, math.floor(at[-1]) + 2))


def _nearest(block: Block, at_y: Block, at_x: Block) -> Block:
    """Values of `block` at pixel positions."""
    cell_y, cell_x = _cells(at_y, at_x, block)
    return block.take(cell_x, axis=1).take(cell_y, axis=0)


def _cells(at_y: Block, at_x: Block, block: Block) -> tuple[Block, Block]:
    """Rows and columns of `block` that pixel positions lie in."""
    rows, columns = (
        np.clip(np.floor(at + 1e-9).astype(int), 0, size - 1)
        for at, size in zip((at_y, at_x), block.shape, strict=True)
    )
    return rows, columns


def _bilinear(block: Block, at_y: Block, at_x: Block) -> Block:
    """Bilinear values of `block` at pixel positions; NaN has no weight."""
    valid = ~np.isnan(block)
    values = _lerp(_lerp(np.where(valid, block, 0), at_y).T, at_x).T
    if valid.all():
        return values
    weight = _lerp(_lerp(valid.astype("float32"), at_y).T, at_x).T
    return values / np.maximum(weight, np.float32(1e-6))


def _lerp(block: Block, at: Block) -> Block:
    """Linear interpolation between rows at pixel positions (0.5 is the first row's centre)."""
    last = block.shape[0] - 1
    position = np.clip(at - 0.5, 0, last)
    lower = np.minimum(position.astype(int), max(last - 1, 0))
    weight = (position - lower).astype("float32")[:, None]
    step = np.diff(block, axis=0, append=block[-1:])  # of few rows, each of which is taken often
    return block.take(lower, axis=0) + weight * step.take(lower, axis=0)
