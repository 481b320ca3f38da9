"""Read a Zarr store through xarray, and average as GDAL does."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rioxarray.exceptions import MissingSpatialDimensionError

from cloudmask import resample
from cloudmask.chunks import Block
from cloudmask.errors import first_line
from cloudmask.grid import Grid, grid_of
from cloudmask.paths import unsigned_in
from cloudmask.readers.protocol import (
    DTYPES,
    HANDLES,
    check_nodata,
    listed,
    opening_of,
    version_of,
)
from cloudmask.stopwatch import timed


@dataclass(frozen=True)
class ZarrReader:
    """Reads through zarr and xarray, and averages as GDAL does."""

    path: str
    version: str
    variable: str
    bands: tuple[int, ...]
    grid: Grid
    dtype: np.dtype[Any]
    can_be_nodata: bool
    nodata: tuple[float, ...]
    """What the user gave, and what is declared without being decoded, as odc-stac does."""
    opened: str
    """As `opening_of` tells: what is kept is not for who opens a URL later."""
    packing: str = ""  # values are seen unpacked
    colours: str = ""  # it has names of none

    def read(self, grid: Grid, rows: slice, columns: slice) -> Block:
        if grid == self.grid:
            return resample.nan_in_all_bands(self._values(rows, columns))
        factor_y, factor_x = self.grid.height / grid.height, self.grid.width / grid.width
        mean = resample.average_of(self._values, self.grid, rows, columns, factor_y, factor_x)
        if self.dtype.kind in "ui":
            mean = resample.rounded(mean)
        return resample.nan_in_all_bands(mean if self.can_be_nodata else mean.astype(self.dtype))

    def sample(self, side: int) -> Block:
        step = [max(1, -(-size // side)) for size in (self.grid.height, self.grid.width)]
        values = self._values(slice(None, None, step[0]), slice(None, None, step[1]))
        return resample.nan_in_all_bands(values.astype("float32"))

    def is_striped(self, grid: Grid, chunk: int) -> bool:
        return self.facts()["block"][1] > max(1024, chunk * self.grid.width / grid.width)

    def facts(self) -> dict[str, Any]:
        array = _zarr_array(self.path, self.version + self.opened, self.variable)
        block = array.encoding.get("preferred_chunks", array.sizes)
        return {
            "bands": array.shape[0],
            "block": [block[dim] for dim in array.dims[-2:]],
            "nodata": array.encoding.get("_FillValue", next(iter(self.nodata), None)),
            "overviews": [],
            "scales": [1.0] * len(self.bands),  # of values as they are seen, unpacked
            "offsets": [0.0] * len(self.bands),
        }

    def _values(self, rows: slice, columns: slice) -> Block:
        """Values, NaN where a band is nodata."""
        array = _zarr_array(self.path, self.version + self.opened, self.variable)
        with timed("read"):
            try:
                values = array[[band - 1 for band in self.bands], rows, columns].values
            except Exception as error:  # stores of other machines and codecs have their own
                height, width = self.grid.height, self.grid.width
                (top, bottom, _), (left, right, _) = rows.indices(height), columns.indices(width)
                raise OSError(
                    unsigned_in(
                        f"{self.path} cannot be read at rows {top}–{bottom}, columns {left}–"
                        f"{right}, a chunk is damaged or not given: {first_line(error)}"
                    )
                ) from None  # some cannot be sent from a worker, and tell of passwords
        if not self.can_be_nodata:
            return values.astype(self.dtype, copy=False)
        values = values.astype("float32", copy=False)
        invalid = ~np.isfinite(values)
        for value in self.nodata:
            invalid |= values == value
        return np.where(invalid, np.float32(np.nan), values)


@lru_cache(maxsize=HANDLES)
def _zarr_array(path: str, version: str, variable: str) -> xr.DataArray:  # noqa: ARG001
    array = _open(path)[variable]
    y, x = array.rio.y_dim, array.rio.x_dim
    return array.transpose(..., y, x)


def open_store(path: str, **how: Any) -> xr.Dataset:
    """A store, by its consolidated metadata if it has them; without, as usual in Zarr 3."""
    try:
        return xr.open_zarr(path, decode_coords="all", consolidated=True, **how)
    except (ValueError, KeyError):
        return xr.open_zarr(path, decode_coords="all", consolidated=False, **how)


def _open(path: str) -> xr.Dataset:
    dataset = open_store(path, chunks=None)
    # `to_zarr` with an encoding of one's own drops the attribute that ties the CRS to the array.
    return dataset.set_coords([name for name in ("spatial_ref",) if name in dataset])


def open_zarr(path: str, bands: tuple[int, ...], nodata: float | None) -> ZarrReader:
    """Open a Zarr store by its metadata; errors as for `open_reader`."""
    if path.startswith("/vsi"):
        raise ValueError(f"{path} is a name of GDAL's: name a store s3://… or https://…")
    try:
        dataset = _open(path)
    except Exception as error:  # stores of other machines have exceptions of their own
        raise OSError(
            unsigned_in(f"{path} cannot be opened as Zarr: {first_line(error)}")
        ) from error
    cubes = sorted(str(name) for name, variable in dataset.items() if variable.ndim == 3)
    if len(cubes) != 1:
        planes = sorted(str(name) for name, variable in dataset.items() if variable.ndim == 2)
        named = cubes or [f"none, but {', '.join(planes[:5])} with two" if planes else "none"]
        raise ValueError(
            f"{path} holds {len(cubes)} arrays with three dimensions "
            f"({', '.join(named)}): a scene is one array (band, y, x), write one date of "
            "a series, and one array of several (xarray's to_array)"
        )
    version = version_of(path)
    opened = opening_of(version)
    try:
        array = _zarr_array(path, version + opened, cubes[0])
    except MissingSpatialDimensionError as error:
        dims = ", ".join(map(str, dataset[cubes[0]].dims))
        raise ValueError(
            f"{path} has dimensions {dims}: a scene is one array (band, y, x), rename them"
        ) from error
    if not array.size:
        raise ValueError(f"{path} has no pixel: its shape is {array.shape}")
    if array.dims[0] == "time" or np.issubdtype(array[array.dims[0]].dtype, np.datetime64):
        raise ValueError(
            f"{path} is a series ({', '.join(map(str, array.dims))}): a scene is one array "
            "(band, y, x), write one date of it"
        )
    if max(bands) > array.shape[0]:
        raise ValueError(
            f"{path} has {array.shape[0]} bands, bands {listed(bands)} were asked for: pass "
            f"bands within 1 to {array.shape[0]}"
        )
    y, x = array.dims[-2:]
    grid = grid_of(array.rename({y: "y", x: "x"}))
    if grid.crs is None and not {y, x} & array.coords.keys():
        grid = _told_grid(dataset.attrs, grid)
    # Numbers that are packed are seen unpacked; those that became float for NaN's sake are not, nor
    # those that rioxarray says to be packed by nothing.
    packing = array.encoding.get("scale_factor", 1), array.encoding.get("add_offset", 0)
    is_packed = packing != (1, 0)
    stored = np.dtype(array.dtype if is_packed else array.encoding.get("dtype", array.dtype))
    if array.encoding.get("_Unsigned") == "true" and stored.kind == "i":
        stored = np.dtype(f"u{stored.itemsize}")  # as netCDF has them
    if stored.name not in DTYPES and stored.kind != "f":
        raise ValueError(f"{path} holds {stored}: convert it to one of {', '.join(DTYPES)}")
    check_nodata(nodata, np.dtype(array.encoding["dtype"]) if is_packed else stored)
    if nodata is not None and is_packed:  # it is a stored value, as for GDAL; others are decoded
        nodata = float(np.asarray(nodata, array.dtype) * packing[0] + packing[1])
    is_filled = bool({"_FillValue", "missing_value"} & array.encoding.keys())
    declared = None if is_filled else _declared(array)
    values = tuple(float(value) for value in (nodata, declared) if value is not None)
    can_be_nodata = stored.kind == "f" or is_filled or bool(values)
    return ZarrReader(path, version, cubes[0], bands, grid, stored, can_be_nodata, values, opened)


def _told_grid(attributes: dict[str, Any], grid: Grid) -> Grid:
    """Where GeoZarr's ``proj:`` and ``spatial:`` put an array, as `write_zarr` writes them."""
    try:
        transform = Affine(*attributes["spatial:transform"][:6])
        crs = CRS.from_user_input(attributes.get("proj:code") or attributes["proj:wkt2"])
    except (KeyError, TypeError, ValueError, CRSError):  # not told, or otherwise
        return grid
    return replace(grid, transform=transform, crs=crs)


def _declared(array: xr.DataArray) -> float | None:
    """Nodata that an attribute names, as for rioxarray; None if no pixel can be it."""
    try:
        value = array.rio.nodata
    except (OverflowError, ValueError):  # it is of another type
        return None
    return None if value is None or math.isnan(value) else value
