"""From a coarser grid to the scene's own over the same bounds: bilinear or nearest."""

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.core import Array

from cloudmask import chunks
from cloudmask.chunks import Block
from cloudmask.grid import Grid, grid_of
from cloudmask.interpolation import constant_of, dtype_of, enlarge_patch, nodata_of
from cloudmask.mask import check_threshold, mask_attributes
from cloudmask.stopwatch import timed
from cloudmask.windows import WINDOWS, Chunks, Load, all_valid

FINE_CHUNK = 2048
"""Chunk height and width of an enlarged array: four blocks of a COG."""

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

    pieces = _squares(coarse, fine)
    lengths = _fine_lengths(coarse, fine, pieces)
    valid, is_striped = _validity(like)
    if isinstance(valid, Array):
        valid = valid.rechunk(lengths)
    elif is_striped:
        pieces = _whole_rows(coarse, fine)
    source = da.asarray(array.data).rechunk(pieces)
    out_type = dtype_of(array, threshold)
    data = da.map_blocks(
        _enlarge_block,
        da.overlap.overlap(source, depth={0: 1, 1: 1}, boundary="none"),
        valid,
        dtype=out_type,
        meta=np.empty((0, 0), out_type),
        chunks=_fine_lengths(coarse, fine, pieces),
        edges=_fine_edges(coarse, fine, pieces),
        coarse_starts=tuple(map(_starts, pieces)),
        factors=(fine.height / coarse.height, fine.width / coarse.width),
        nearest=is_mask or resampling == "nearest",
        threshold=threshold,
    ).rechunk(lengths)
    name, attributes = array.name, array.attrs
    if threshold is not None:
        name, attributes = "mask", mask_attributes(array.attrs, threshold)
    return fine.attach(xr.DataArray(data, dims=("y", "x"), attrs=attributes, name=name))


def _squares(coarse: Grid, fine: Grid) -> Chunks:
    """Chunks of the coarse grid that become about `FINE_CHUNK` pixels each on the fine one."""
    return (
        chunks.layout(coarse.height, max(1, FINE_CHUNK * coarse.height // fine.height)),
        chunks.layout(coarse.width, max(1, FINE_CHUNK * coarse.width // fine.width)),
    )


def _whole_rows(coarse: Grid, fine: Grid) -> Chunks:
    """Chunks of as many pixels that span the scene, as its strips do: each is decoded once."""
    rows = FINE_CHUNK**2 // fine.width * coarse.height // fine.height
    return chunks.layout(coarse.height, max(1, rows)), (coarse.width,)


def _starts(lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist())


def _fine_edges(coarse: Grid, fine: Grid, pieces: Chunks) -> Chunks:
    """Fine pixel where each coarse chunk begins, and the end: integers, so no pixel is lost."""
    sizes = ((coarse.height, fine.height), (coarse.width, fine.width))
    rows, columns = (
        tuple(edge * large // small for edge in (*_starts(lengths), small))
        for lengths, (small, large) in zip(pieces, sizes, strict=True)
    )
    return rows, columns


def _fine_lengths(coarse: Grid, fine: Grid, pieces: Chunks) -> Chunks:
    rows, columns = (tuple(np.diff(edges).tolist()) for edges in _fine_edges(coarse, fine, pieces))
    return rows, columns


def _validity(like: xr.DataArray) -> tuple[Load | Array, bool]:
    """Where `like` is valid, and whether its file is in strips.

    Something that each task calls, where there is such: tasks of their own would run ahead of the
    network, and what they read would wait in memory, up to the whole of the scene.
    """
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
    block: Block,
    valid: Block | Load,
    *,
    edges: Chunks,
    block_id: tuple[int, int],
    **how: Any,
) -> Block:
    """One chunk on the fine grid, from one of the coarse grid with a pixel of halo."""
    (top, bottom), (left, right) = (
        at[number : number + 2] for at, number in zip(edges, block_id, strict=True)
    )
    is_valid = (
        _is_valid(valid(slice(top, bottom), slice(left, right))) if callable(valid) else valid
    )
    return _enlarged(block, is_valid, (top, left), block_id, **how)


@timed("enlarge")
def _enlarged(
    block: Block,
    valid: Block,
    first: tuple[int, int],
    block_id: tuple[int, int],
    *,
    coarse_starts: Chunks,
    factors: tuple[float, float],
    nearest: bool,
    threshold: float | None,
) -> Block:
    positions = []
    for axis, number in enumerate(block_id):
        fine = first[axis] + np.arange(valid.shape[axis])
        # In coarse pixels of this block, whose halo begins one pixel before the chunk.
        halo = 1 if number else 0
        positions.append((fine + 0.5) / factors[axis] - coarse_starts[axis][number] + halo)
    out = np.empty(valid.shape, dtype_of(block, threshold))
    constant = constant_of(block, threshold)
    if constant is not None:
        out[:] = constant
    else:
        for y in range(0, out.shape[0], _PATCH):
            for x in range(0, out.shape[1], _PATCH):
                rows, columns = slice(y, y + _PATCH), slice(x, x + _PATCH)
                at_y, at_x = positions[0][rows], positions[1][columns]
                out[rows, columns] = enlarge_patch(block, at_y, at_x, nearest, threshold)
    if not valid.all():
        out[~valid] = nodata_of(out.dtype)
    return out
