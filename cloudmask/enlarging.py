"""From a coarser grid to the scene's own over the same bounds: bilinear or nearest."""

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.core import Array
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from cloudmask.chunks import Block
from cloudmask.grid import Grid, check_array, grid_of
from cloudmask.interpolation import constant_of, dtype_of, enlarge_patch, fill_lost, nodata_of
from cloudmask.mask import (
    check_threshold,
    in_chunks,
    mask_attributes,
    mask_or_probability,
    nan_where_declared,
)
from cloudmask.origin import as_made, is_as_made
from cloudmask.pieces import Piece, fine_edges, lengths_of, pieces_of, squares, whole_rows
from cloudmask.stopwatch import timed
from cloudmask.windows import WINDOWS, Chunks, Load, all_valid

_PATCH = 256
"""Side in pixels of the fine grid of the patch that is interpolated, or found constant, at once."""


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
        On the grid of `like`; its chunks are about `FINE_CHUNK` long (of `pieces`) and start on
        coarse pixels. Coordinates without dimensions, such as a time, are kept.

    Raises
    ------
    ValueError
        `like` covers another area, has another CRS, is coarser, or `resampling` is not known;
        `array` has other dimensions, or is neither a mask nor a probability.
    """
    check_array(array)
    check_array(like)
    if array.dims != ("y", "x"):
        raise ValueError(
            f"the array has dimensions {', '.join(map(str, array.dims))}: enlarge one (y, x) array "
            "after the other"
        )
    if len(like.dims) > 3 or not {"y", "x"} <= set(like.dims):
        raise ValueError(
            f"the scene has dimensions {', '.join(map(str, like.dims))}: give one of (band, y, x) "
            "or (y, x), select or rename first"
        )
    is_known = is_as_made(array) and is_as_made(like)
    like = like.transpose(..., "y", "x")
    array = mask_or_probability(array)
    is_mask = array.dtype == np.uint8
    if threshold is not None:
        threshold = check_threshold(threshold)
        if is_mask:
            raise ValueError("a mask has been cut already: leave out the threshold")
    check_resampling(resampling)
    coarse, fine = grid_of(array), grid_of(like)
    _check_same_ground(coarse, fine)
    pieces = squares(coarse, fine)
    edges = fine_edges(coarse, fine, pieces)
    lengths = lengths_of(edges)
    valid, is_striped = _validity(like)
    if isinstance(valid, Array):
        valid = valid.rechunk(lengths)
    elif is_striped:
        pieces = whole_rows(coarse, fine)
        edges = fine_edges(coarse, fine, pieces)
    cut = partial(
        _enlarge_block,
        factors=(fine.height / coarse.height, fine.width / coarse.width),
        nearest=is_mask or resampling == "nearest",
        threshold=threshold,
    )
    data = _map_pieces(
        cut, da.asarray(array.data), valid, pieces, edges, dtype_of(array, threshold)
    ).rechunk(lengths)
    name, attributes = array.name, array.attrs
    if not is_mask:
        attributes = {**attributes, "resampling": resampling}
    if threshold is not None:
        name, attributes = "mask", mask_attributes(attributes, threshold)
    kept = {
        key: value
        for key, value in array.coords.items()
        if not value.dims and key != array.rio.grid_mapping
    }
    enlarged = xr.DataArray(data, kept, ("y", "x"), attrs=attributes, name=name)
    return fine.attach(as_made(enlarged) if is_known else enlarged)


def _check_same_ground(coarse: Grid, fine: Grid) -> None:
    """Refuse a scene that an array was not made from, with a ValueError."""
    if coarse.crs != fine.crs:
        raise ValueError(
            f"the CRS of the array is {coarse.crs}, that of the scene {fine.crs}: give one the "
            "other's with rio.write_crs (xarray reads it with decode_coords='all')"
        )
    if not coarse.same_bounds(fine):
        if coarse.same_bounds(fine.flipped):
            raise ValueError(
                "rows of the array and of the scene are in opposite order: turn one round "
                "(sortby('y', ascending=False))"
            )
        raise ValueError(
            f"the array of {coarse.height} × {coarse.width} px and the scene of "
            f"{fine.height} × {fine.width} px do not cover the same area: pass the scene that "
            "the array was made from"
        )
    if coarse.is_finer(fine):
        raise ValueError("the scene is coarser than the array: leave out `like`")


def check_resampling(resampling: str) -> None:
    """Refuse what is no way to enlarge a probability, with a ValueError."""
    if resampling not in ("bilinear", "nearest"):
        raise ValueError(f"resampling is {resampling!r}: choose 'bilinear' or 'nearest'")


def _map_pieces(
    cut: Callable[..., Block],
    source: Array,
    valid: Load | Array,
    pieces: Chunks,
    edges: Chunks,
    dtype: np.dtype[Any],
) -> Array:
    """A chunk of the fine grid from each piece of the coarse one.

    Each task takes its coarse pixels from the chunks that have them. If tasks of their own took
    them, dask would follow those that neighbours share through the scene, and leave rows of the
    mask half made.
    """
    key = f"enlarge-{tokenize(cut, source, valid, pieces, edges)}"
    tasks = {
        (key, i, j): (
            cut,
            [[(source.name, y, x) for x in columns.chunks] for y in rows.chunks],
            (valid.name, i, j) if isinstance(valid, Array) else valid,
            (rows, columns),
        )
        for i, rows in enumerate(pieces_of(source.chunks[0], pieces[0], edges[0]))
        for j, columns in enumerate(pieces_of(source.chunks[1], pieces[1], edges[1]))
    }
    needed = [source, valid] if isinstance(valid, Array) else [source]
    graph = HighLevelGraph.from_collections(key, tasks, needed)
    return Array(graph, key, lengths_of(edges), meta=np.empty((0, 0), dtype))


def _validity(like: xr.DataArray) -> tuple[Load | Array, bool]:
    """Where `like` is valid, and whether its file is in strips.

    Something that each task calls, where there is such: tasks of their own would run ahead of the
    network, and what they read would wait in memory, up to the whole of the scene.
    """
    if like.dtype != bool:
        like = nan_where_declared(in_chunks(like))
    if like.dtype.kind not in "bf":
        return all_valid, False
    data = da.asarray(like.data)
    windows = like.encoding.get(WINDOWS)
    if windows is not None and windows.are_of(data):
        return windows.load, windows.is_striped
    return _is_valid(data), False


def _is_valid(values: Any) -> Any:
    """(y, x) of bool: no band is NaN, or all are true."""
    valid = values if values.dtype == bool else ~np.isnan(values)
    return valid.all(axis=0) if valid.ndim == 3 else valid


def _enlarge_block(
    parts: list[list[Block]],
    valid: Block | Load,
    at: tuple[Piece, Piece],
    **how: Any,
) -> Block:
    """One chunk on the fine grid, from the chunks of the coarse one that have its pixels."""
    rows, columns = at
    block = np.block(
        [
            [part[y, x] for part, x in zip(row, columns.slices, strict=True)]
            for row, y in zip(parts, rows.slices, strict=True)
        ]
    )
    is_valid = (
        _is_valid(valid(slice(rows.start, rows.stop), slice(columns.start, columns.stop)))
        if callable(valid)
        else valid
    )
    return _enlarged(block, is_valid, at, **how)


@timed("enlarge")
def _enlarged(
    block: Block,
    valid: Block,
    at: tuple[Piece, Piece],
    *,
    factors: tuple[float, float],
    nearest: bool,
    threshold: float | None,
) -> Block:
    out = np.empty(valid.shape, dtype_of(block, threshold))
    # In coarse pixels of the block.
    down, along = (
        (np.arange(piece.start, piece.stop) + 0.5) / factor - piece.first
        for piece, factor in zip(at, factors, strict=True)
    )
    constant = constant_of(block, threshold)
    if constant is not None:
        out[:] = constant
    else:
        for y in range(0, out.shape[0], _PATCH):
            for x in range(0, out.shape[1], _PATCH):
                rows, columns = slice(y, y + _PATCH), slice(x, x + _PATCH)
                out[rows, columns] = enlarge_patch(
                    block, down[rows], along[columns], nearest, threshold
                )
    if not valid.all():
        out[~valid] = nodata_of(out.dtype)
        if block.dtype != np.uint8:
            fill_lost(out, valid, block, down, along, threshold)
    return out
