"""From one grid to another over the same bounds: area average down, bilinear or nearest up."""

import math

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.core import Array

from cloudmask import chunks
from cloudmask.chunks import Block
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.grid import Grid, grid_of
from cloudmask.mask import check_threshold, mask_attributes

FINE_CHUNK = 2048
"""Chunk height and width of an enlarged array: four blocks of a COG."""


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


def enlarge(
    array: xr.DataArray,
    like: xr.DataArray,
    *,
    threshold: float | None = None,
    resampling: str = "bilinear",
) -> xr.DataArray:
    """Bring a mask or a probability onto the finer grid of the scene it came from, lazily.

    Parameters
    ----------
    array : (y, x) DataArray
        Probability (float, NaN where nodata) or mask (uint8, 255 where nodata).
    like : (band, y, x) or (y, x) DataArray
        The scene on its own grid (`open_scene`), or where it is valid (`open_valid`, bool). Its
        nodata pixels are nodata in the result, whatever the coarse grid says.
    threshold : float, optional
        Cut an enlarged probability here: the result is a mask.
    resampling : {"bilinear", "nearest"}
        For probabilities; a mask is always enlarged by nearest.

    Returns
    -------
    (y, x) DataArray
        On the grid of `like`; its chunks are about `FINE_CHUNK` long and start on coarse pixels.

    Raises
    ------
    ValueError
        `like` covers another area, is coarser, or `resampling` is not known.
    """
    is_mask = array.dtype == np.uint8
    if threshold is not None:
        check_threshold(threshold)
        if is_mask:
            raise ValueError("a mask has been cut already: leave out the threshold")
    if resampling not in ("bilinear", "nearest"):
        raise ValueError(f"resampling is {resampling!r}: choose 'bilinear' or 'nearest'")
    coarse, fine = grid_of(array), grid_of(like)
    if not coarse.same_bounds(fine):
        raise ValueError(
            f"the array of {coarse.height} × {coarse.width} px and the scene of "
            f"{fine.height} × {fine.width} px do not cover the same area: pass the scene that "
            "the array was made from"
        )
    if fine.height < coarse.height or fine.width < coarse.width:
        raise ValueError("the scene is coarser than the array: leave out `like`")

    rows, columns = _coarse_chunks(coarse, fine)
    edges = (
        _fine_edges(rows, coarse.height, fine.height),
        _fine_edges(columns, coarse.width, fine.width),
    )
    lengths = fine_chunks(coarse, fine)
    source = da.asarray(array.data).rechunk((rows, columns))
    out_type = np.dtype("uint8" if is_mask or threshold is not None else "float32")
    data = da.map_blocks(
        _enlarge_block,
        da.overlap.overlap(source, depth={0: 1, 1: 1}, boundary="none"),
        _valid(like).rechunk(lengths),
        dtype=out_type,
        meta=np.empty((0, 0), out_type),
        chunks=lengths,
        edges=edges,
        coarse_starts=(_starts(rows), _starts(columns)),
        factors=(fine.height / coarse.height, fine.width / coarse.width),
        nearest=is_mask or resampling == "nearest",
        threshold=threshold,
    )
    name, attributes = array.name, array.attrs
    if threshold is not None:
        name, attributes = "mask", mask_attributes(array.attrs, threshold)
    return fine.attach(xr.DataArray(data, dims=("y", "x"), attrs=attributes, name=name))


def fine_chunks(coarse: Grid, fine: Grid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks that `enlarge` gives; open `like` with them, and nothing is rechunked."""
    rows, columns = _coarse_chunks(coarse, fine)
    return (
        tuple(np.diff(_fine_edges(rows, coarse.height, fine.height)).tolist()),
        tuple(np.diff(_fine_edges(columns, coarse.width, fine.width)).tolist()),
    )


def _coarse_chunks(coarse: Grid, fine: Grid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks of the coarse grid that become about `FINE_CHUNK` pixels each on the fine one."""
    return (
        chunks.layout(coarse.height, max(1, FINE_CHUNK * coarse.height // fine.height)),
        chunks.layout(coarse.width, max(1, FINE_CHUNK * coarse.width // fine.width)),
    )


def _starts(lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist())


def _fine_edges(lengths: tuple[int, ...], coarse: int, fine: int) -> tuple[int, ...]:
    """Fine pixel where each coarse chunk begins, and the end: integers, so no pixel is lost."""
    return tuple((edge * fine) // coarse for edge in (*_starts(lengths), coarse))


def _valid(like: xr.DataArray) -> Array:
    """Dask array (y, x) of bool: no band is NaN."""
    data = da.asarray(like.data)
    if like.dtype == bool:
        return data
    if like.dtype.kind != "f":
        return da.ones(like.shape[-2:], dtype=bool, chunks=data.chunks[-2:])
    valid = ~da.isnan(data)
    return valid.all(axis=0) if like.ndim == 3 else valid


def _enlarge_block(
    block: Block,
    valid: Block,
    *,
    edges: tuple[tuple[int, ...], tuple[int, ...]],
    coarse_starts: tuple[tuple[int, ...], tuple[int, ...]],
    factors: tuple[float, float],
    nearest: bool,
    threshold: float | None,
    block_id: tuple[int, int],
) -> Block:
    """One chunk on the fine grid, from one of the coarse grid with a pixel of halo."""
    is_mask = block.dtype == np.uint8
    positions = []
    for axis, number in enumerate(block_id):
        fine = np.arange(edges[axis][number], edges[axis][number + 1])
        # In coarse pixels of this block, whose halo begins one pixel before the chunk.
        halo = 1 if number else 0
        positions.append((fine + 0.5) / factors[axis] - coarse_starts[axis][number] + halo)
    cell_y, cell_x = (
        np.clip(np.floor(at + 1e-9).astype(int), 0, size - 1)
        for at, size in zip(positions, block.shape, strict=True)
    )
    own = block[np.ix_(cell_y, cell_x)]
    if is_mask:
        return np.where(valid, own, np.uint8(NODATA))
    known = valid & ~np.isnan(own)
    values = own if nearest else _bilinear(block, *positions)
    if threshold is None:
        return np.where(known, values, np.float32(np.nan)).astype("float32")
    cut = np.where(values >= threshold, np.uint8(CLOUD), np.uint8(CLEAR))
    return np.where(known, cut, np.uint8(NODATA))


def _bilinear(block: Block, at_y: Block, at_x: Block) -> Block:
    """Bilinear values of `block` at pixel positions; NaN has no weight."""
    valid = ~np.isnan(block)
    values = _lerp(_lerp(np.where(valid, block, 0), at_y, 0), at_x, 1)
    if valid.all():
        return values
    weight = _lerp(_lerp(valid.astype("float32"), at_y, 0), at_x, 1)
    return values / np.maximum(weight, np.float32(1e-6))


def _lerp(block: Block, at: Block, axis: int) -> Block:
    """Linear interpolation along one axis at pixel positions (0.5 is the first pixel's centre)."""
    last = block.shape[axis] - 1
    position = np.clip(at - 0.5, 0, last)
    lower = np.minimum(position.astype(int), max(last - 1, 0))
    weight = (position - lower).astype("float32")
    weight = weight[:, None] if axis == 0 else weight
    low = block.take(lower, axis)
    return low + weight * (block.take(np.minimum(lower + 1, last), axis) - low)
