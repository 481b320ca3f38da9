"""Write a mask or a probability as Zarr, from wherever its chunks are made."""

import hashlib
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.core import slices_from_chunks

from cloudmask.chunks import Block
from cloudmask.constants import BLOCK, NODATA
from cloudmask.errors import first_line
from cloudmask.grid import Grid, check_array, grid_of, without_places
from cloudmask.mask import check_values, mask_or_probability
from cloudmask.origin import is_as_made
from cloudmask.paths import destination, unsigned
from cloudmask.stopwatch import timed
from cloudmask.write.geozarr import multiscales, place_attributes
from cloudmask.write.output import PROVENANCE, check_ending, without_nan
from cloudmask.write.overviews import halved
from cloudmask.write.partial import Partial, check_same, check_store, is_store, partial_store
from cloudmask.write.stream import Window, stream

_OF_VALUES = ("dtype", "units", "calendar", "_FillValue", "scale_factor", "add_offset")
"""What of a coordinate's encoding says what its values mean, and not how a store has them."""


def write_zarr(
    array: xr.DataArray,
    path: str | Path,
    *,
    multiscale: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Write a mask or a probability as a Zarr v3 group for xarray, rioxarray and GDAL from 3.11.

    Parameters
    ----------
    array : (…, y, x) DataArray
        Mask or probability, as for `write_cog`, lazy or not. Coordinates are computed first, and
        overviews have those alone that have neither y nor x.
    path : str or Path
        The store to make, in an existing folder; or a URL, such as ``s3://bucket/mask.zarr``.
    multiscale : bool
        Add overviews, each half as large as the last, down to 512 px: groups ``2``, ``4``, …, of
        the most frequent value of a mask, the mean of a probability. `xarray.open_zarr` opens each
        by its ``group``; `xarray.open_datatree` none, since their coordinates are not the store's.
    overwrite : bool
        Replace an existing store, once the new one is complete.
    resume : bool
        Go on with a run that was stopped, and keep what is done if this one fails; a complete store
        made from the same is left as it is. Scenes that `open_scene` opened are told apart by their
        files, other arrays, and what was made of a mask since, by the names that dask gives them:
        these go by how they were made, and behind a URL are others each time.

    Raises
    ------
    FileExistsError, FileNotFoundError, ValueError, OSError
        As for `write_cog`; and where `resume` finds what was made from another scene, model,
        threshold or grid.

    Notes
    -----
    One Zarr chunk a dask chunk, written by the task that made it: from the workers of a cluster,
    which must see `path`. CRS as ``spatial_ref`` (CF) and as ``proj:`` and ``spatial:`` attributes,
    overviews by ``multiscales`` (GeoZarr). Until it is complete the store is ``.NAME.partial``
    beside `path`.
    """
    check_ending(path, ".zarr")
    path = destination(path)
    check_array(array)
    if array.dims[-2:] != ("y", "x"):
        raise ValueError(
            f"the array has dimensions {', '.join(map(str, array.dims))}: let them end in y, x, "
            "for instance with DataArray.transpose"
        )
    is_known = is_as_made(array)
    array = mask_or_probability(array)
    name = "mask" if array.dtype == np.uint8 else "probability"
    if name == "probability":
        array = array.astype("float32")
    grid, pixels = grid_of(array), array.data.name
    # They are written as they are, and not with the chunks.
    lazy = {key: value for key, value in array.coords.items() if value.chunks is not None}
    array = array.assign_coords({key: value.compute() for key, value in lazy.items()})
    array = without_places(grid.attach(_uniform_chunks(array))).rename(name)
    if (source := array.attrs.get("scene_source")) is not None:
        array = array.assign_attrs(scene_source=unsigned(source))
    levels = _levels(grid) if multiscale else []
    made_from = _made_from(array, grid) | {"overviews": levels}
    if not is_known:
        made_from["pixels"] = pixels
    check_store(path, overwrite=overwrite, resume=resume)
    if resume and is_store(path) and not overwrite:
        check_same(path, path, made_from)
        return
    with partial_store(path, made_from, resume=resume) as partial:
        root = {"made_from": made_from} | (multiscales(name, levels) if levels else {})
        _write_level(array, partial, str(path), root, check_workers=True)
        for level in levels:
            fine = xr.open_zarr(
                partial.store, group=partial.level, consolidated=False, mask_and_scale=False
            )[name]
            partial = replace(partial, level=level)
            _write_level(halved(fine), partial, str(path), {})
        for group in (*reversed(levels), ""):
            _consolidate(partial.store, group)


def _consolidate(store: str, group: str) -> None:
    """Gather a group's metadata in its own file, as xarray does and looks for."""
    import zarr

    # That Zarr 3's specification is silent on it. For good: filters that are taken back in one
    # thread are mixed up with those of others.
    warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
    zarr.consolidate_metadata(store, path=group, zarr_format=3)


def _write_level(
    array: xr.DataArray,
    partial: Partial,
    name: str,
    attributes: dict[str, Any],
    *,
    check_workers: bool = False,
) -> None:
    """Write an array into its group, chunk by chunk, but for the chunks that are done."""
    if not partial.has_begun:
        try:
            _write_metadata(array, partial, attributes)
        except (TypeError, ValueError) as error:  # xarray's, of what a notebook adds
            raise ValueError(
                f"{name} cannot hold a coordinate or an attribute ({first_line(error)}): leave it "
                "out (drop_vars, del array.attrs[…])"
            ) from error
        partial.begin()
    if check_workers:
        partial.check_workers()
    data = array.data
    written = data.map_blocks(
        _write_chunk,
        partial=partial,
        variable=f"{partial.level}/{array.name}".strip("/"),
        chunks=tuple((1,) * count for count in data.numblocks),
        dtype="uint8",
        meta=np.empty((0,) * data.ndim, "uint8"),
    )
    windows = slices_from_chunks(data.chunks)
    stream(written, _nothing_more, name, windows=windows, done=partial.done())


def _nothing_more(window: Window, block: Block) -> None:
    """The task wrote the chunk itself."""


def _write_chunk(
    block: Block, *, partial: Partial, variable: str, block_id: tuple[int, ...] = ()
) -> Block:
    """Write one chunk where it was made, then note that it is done."""
    import zarr  # in 0.2 s, which a COG does not need

    # After a failure dask's threads and workers finish the chunks that they have begun: Zarr would
    # make the folder anew for them, and another run may have made one.
    partial.check_run()
    check_values(block)
    with timed("write"):
        zarr.open_array(partial.store, path=variable, mode="r+").blocks[block_id] = block
        partial.note(block_id)
    return np.zeros((1,) * block.ndim, "uint8")


def _write_metadata(array: xr.DataArray, partial: Partial, attributes: dict[str, Any]) -> None:
    """All of a level but its pixels."""
    name = str(array.name)
    nodata = np.uint8(NODATA) if name == "mask" else np.float32(np.nan)
    placed = place_attributes(grid_of(array))
    conventions = placed["zarr_conventions"] + attributes.get("zarr_conventions", [])
    dataset = array.to_dataset(promote_attrs=False)
    dataset.attrs = placed | attributes | {"zarr_conventions": conventions}
    dataset[name].attrs.pop("_FillValue", None)  # of an array that was read from a store
    dataset[name].attrs = without_nan(dataset[name].attrs)
    for coordinate in dataset.coords.values():  # which may have been one of Zarr v2
        coordinate.encoding = {k: v for k, v in coordinate.encoding.items() if k in _OF_VALUES}
    dataset[name].encoding = {
        "chunks": tuple(lengths[0] for lengths in array.data.chunks),
        "_FillValue": nodata,  # for CF readers; the next for GDAL
        "fill_value": nodata,
        # GDAL finds the CRS by the first, xarray by the second.
        "grid_mapping": array.rio.grid_mapping,
        "coordinates": array.rio.grid_mapping,
    }
    dataset.to_zarr(
        partial.store,
        mode="w",  # a run may have ended within these lines
        group=partial.level,
        zarr_format=3,
        consolidated=False,
        compute=False,
    )


def _levels(grid: Grid) -> list[str]:
    """Names of the groups of overviews: how much coarser they are."""
    count = max(0, math.ceil(math.log2(max(grid.height, grid.width) / BLOCK)))
    return [str(2**level) for level in range(1, count + 1)]


def _made_from(array: xr.DataArray, grid: Grid) -> dict[str, Any]:
    """What a store depends on, as far as its array tells, in JSON's types."""
    keys = (*PROVENANCE, "threshold", "overlap", "model_grid", "resampling")
    facts = {
        **{k: v for k, v in array.attrs.items() if k in keys or str(k).startswith("scene_")},
        "array": f"{array.dtype} {array.name}",
        "grid": [grid.height, grid.width, *grid.transform[:6]],
        "crs": grid.crs.to_string() if grid.crs else None,
        "coordinates": {
            str(key): _digest(value)
            for key, value in array.coords.items()
            if key not in ("y", "x", array.rio.grid_mapping)
        },
        "chunks": [lengths[0] for lengths in array.data.chunks],
    }
    read_back: dict[str, Any] = json.loads(json.dumps(without_nan(facts), default=str))
    return read_back


def _digest(values: xr.DataArray) -> str:
    """A few digits that tell coordinates from others."""
    held = values.to_numpy()
    if held.dtype == object:
        return hashlib.sha256(repr(held.tolist()).encode()).hexdigest()[:8]
    told = hashlib.sha256(f"{held.dtype} {held.shape}".encode())
    told.update(held.tobytes())
    return told.hexdigest()[:8]


def _uniform_chunks(array: xr.DataArray) -> xr.DataArray:
    """Zarr's chunks are all equal, but for the last: so must dask's be, one task for each."""
    data = da.asarray(array.data)
    wanted = tuple(
        min(max(lengths), size)
        if len(set(lengths[:-1])) > 1 or lengths[-1] > lengths[0]
        else lengths[0]
        for lengths, size in zip(data.chunks, data.shape, strict=True)
    )
    return array.copy(data=data.rechunk(wanted))
