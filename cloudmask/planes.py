"""Open what has one plane, lazily: where a scene is valid, and labels and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dask.array as da
import numpy as np
import xarray as xr

from cloudmask.checks import path_of
from cloudmask.chunks import Block
from cloudmask.constants import BLOCK
from cloudmask.errors import first_line
from cloudmask.mask import THRESHOLD_TAG, threshold_of
from cloudmask.origin import as_made
from cloudmask.paths import is_remote, is_zarr
from cloudmask.readers import Reader, open_reader
from cloudmask.readers.raster import RasterReader
from cloudmask.readers.zarr import open_store
from cloudmask.windows import WINDOWS, Chunk, Load, Windows, all_valid, open_lazily, square_chunks

_CHUNK = 4 * BLOCK
"""Default chunk height and width: whole blocks, each of which is then decoded once."""


@dataclass(frozen=True)
class _Valid:
    """Reads where a scene is valid, on its own grid."""

    reader: Reader

    def __call__(self, rows: slice, columns: slice) -> Block:
        values = self.reader.read(self.reader.grid, rows, columns)
        return np.asarray(~np.isnan(values).any(axis=0, keepdims=True))


@dataclass(frozen=True)
class _Stored:
    """Reads windows of a file as it is."""

    reader: RasterReader

    def __call__(self, rows: slice, columns: slice) -> Block:
        return self.reader.stored(rows, columns)


def open_valid(
    path: str | Path,
    *,
    bands: Sequence[int] = (1, 2, 3),
    nodata: float | None = None,
    chunk: Chunk = _CHUNK,
) -> xr.DataArray:
    """Open where a scene is valid, lazily, on the scene's own grid.

    Costs nothing where the file declares no nodata, and needs no radiometry.

    Parameters
    ----------
    path, bands, nodata
        As for `open_scene`.
    chunk : int or tuple of tuples
        Chunk height and width in pixels, or dask chunks for (y, x).

    Returns
    -------
    (y, x) DataArray
        bool: False where `open_scene` gives NaN.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As for `open_scene`.
    """
    reader = open_reader(path_of(path), bands, nodata)
    grid = reader.grid
    dtype = np.dtype(bool)
    load: Load
    if reader.can_be_nodata:
        load = _Valid(reader)
        whole, is_striped = open_lazily(load, reader, grid, chunk, bands=1, dtype=dtype)
        data = whole[0]
    else:
        load, is_striped = all_valid, False
        data = da.ones((grid.height, grid.width), dtype=dtype, chunks=square_chunks(grid, chunk))
    array = xr.DataArray(data, dims=("y", "x"), name="valid")
    array.encoding[WINDOWS] = Windows(data.name, load, is_striped)
    return grid.attach(as_made(array))


def open_label(path: str | Path, *, chunk: int = _CHUNK) -> xr.DataArray:
    """Open a label or a mask that was written before, lazily.

    Parameters
    ----------
    path : str or Path
        One band of a raster; or a Zarr store that `write_zarr` or xarray made of a mask or a
        probability.
    chunk : int
        Chunk height and width in pixels; a Zarr store keeps its own.

    Returns
    -------
    (y, x) DataArray, or (…, y, x) of a store that has more
        As stored: uint8 for a mask, 0 clear, 1 cloud, 255 nodata; float32 for a probability. A
        nodata value that the file declares is its attribute `_FillValue`, the threshold of a
        probability or mask that cloudmask wrote its attribute `threshold`.

    Raises
    ------
    ValueError
        Several bands, or a store with neither a mask nor a probability.
    OSError
        It cannot be opened.
    """
    path = path_of(path)
    if is_zarr(path):
        try:
            dataset = open_store(path, mask_and_scale=False)
        except Exception as error:  # stores of other machines have exceptions of their own
            raise OSError(f"{path} cannot be opened as Zarr: {first_line(error)}") from error
        for name in ("mask", "probability"):
            if name in dataset:
                return dataset[name]
        unless = ", or its server lists no folders" if is_remote(path) else ""
        raise ValueError(
            f"{path} holds neither a mask nor a probability{unless}: name a store that does"
        )
    reader = cast("RasterReader", open_reader(path, (1,), None))  # no store
    facts = reader.facts()
    if facts["bands"] != 1:
        raise ValueError(f"{path} has {facts['bands']} bands: a label or a mask has one")
    # Through a reader, which bounds what GDAL keeps: by itself it would fill a share of all memory.
    stored, _ = open_lazily(
        _Stored(reader), reader, reader.grid, chunk, bands=1, dtype=reader.dtype
    )
    array = xr.DataArray(stored[0], dims=("y", "x"), name="label")
    if isinstance(facts["nodata"], float):
        array.attrs["_FillValue"] = facts["nodata"]
    if (own := threshold_of({"threshold": reader.tags().get(THRESHOLD_TAG)})) is not None:
        array.attrs["threshold"] = own
    return reader.grid.attach(array)
