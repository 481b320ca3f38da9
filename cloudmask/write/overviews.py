"""A mask or a probability at half the resolution."""

import warnings
from dataclasses import replace

import numpy as np
import xarray as xr
from affine import Affine

from cloudmask.chunks import Block
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.grid import grid_of


def halved(array: xr.DataArray) -> xr.DataArray:
    """A (…, y, x) array of pixels twice as long, lazy, in chunks as large as those of `array`.

    Each is the most frequent value of four mask pixels (cloud before clear before nodata where
    they tie), or the mean of four probabilities that are not nodata. Beyond the last row and column
    of an odd size there is nodata, so the grid may reach a pixel further.
    """
    grid = grid_of(array)
    chunks = array.data.chunksize
    pairs = array.data.rechunk((*chunks[:-2], 2 * chunks[-2], 2 * chunks[-1]))
    data = pairs.map_blocks(
        _most_frequent if array.dtype == np.uint8 else _mean,
        chunks=(*pairs.chunks[:-2], *(_halves(lengths) for lengths in pairs.chunks[-2:])),
        dtype=array.dtype,
        meta=pairs._meta,
    )
    half = replace(
        grid,
        height=data.shape[-2],
        width=data.shape[-1],
        transform=grid.transform @ Affine.scale(2),
    )
    bare = {key: value for key, value in array.coords.items() if key not in ("x", "y")}
    result = xr.DataArray(data, dims=array.dims, coords=bare, name=array.name, attrs=array.attrs)
    return half.attach(result)


def _halves(lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-length // 2) for length in lengths)


def _fours(block: Block, fill: float) -> Block:
    """(…, y, x) → (…, y / 2, x / 2, 4)."""
    height, width = block.shape[-2:]
    pad = [(0, 0)] * (block.ndim - 2) + [(0, height % 2), (0, width % 2)]
    even = np.pad(block, pad, constant_values=fill)
    parts = [even[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return np.stack(parts, axis=-1)


def _most_frequent(block: Block) -> Block:
    values = np.array([CLOUD, CLEAR, NODATA], "uint8")
    fours = _fours(block, NODATA)
    counts = np.stack([(fours == value).sum(axis=-1) for value in values], axis=-1)
    return values[counts.argmax(axis=-1)]


def _mean(block: Block) -> Block:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # four of nodata have no mean: NaN
        return np.nanmean(_fours(block, np.nan), axis=-1).astype(block.dtype)
