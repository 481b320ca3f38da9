"""A mask or a probability at half the resolution."""

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
    bare = {key: value for key, value in array.coords.items() if not {"x", "y"} & {*value.dims}}
    result = xr.DataArray(data, dims=array.dims, coords=bare, name=array.name, attrs=array.attrs)
    return half.attach(result)


def _halves(lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-length // 2) for length in lengths)


def _even(block: Block, fill: float) -> Block:
    """An even number of rows and of columns."""
    height, width = block.shape[-2:]
    pad = [(0, 0)] * (block.ndim - 2) + [(0, height % 2), (0, width % 2)]
    return np.pad(block, pad, constant_values=fill)


def _most_frequent(block: Block) -> Block:
    even = _even(block, NODATA)
    lowest = even.min()
    if lowest == even.max():
        return np.full_like(even[..., ::2, ::2], lowest)
    cloud, nodata = (_sum_of_four((even == value).view("uint8")) for value in (CLOUD, NODATA))
    clear = 4 - cloud - nodata
    valid = np.where(cloud >= clear, np.uint8(CLOUD), np.uint8(CLEAR))
    return np.where(np.maximum(cloud, clear) >= nodata, valid, np.uint8(NODATA))


def _sum_of_four(counts: Block) -> Block:
    """Rows first: they lie in one piece."""
    pairs = counts[..., ::2, :] + counts[..., 1::2, :]
    return pairs[..., ::2] + pairs[..., 1::2]


def _mean(block: Block) -> Block:
    even = _even(block, np.nan)
    fours = np.stack([even[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])
    total = np.nansum(fours, axis=0)
    count = np.isfinite(fours).sum(axis=0, dtype=total.dtype)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
