"""Write a mask or a probability as Zarr."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import rasterio
import xarray as xr

from cloudmask.chunks import Block
from cloudmask.constants import NODATA
from cloudmask.grid import Grid, grid_of
from cloudmask.write.output import check_kind, check_output, replacing

_SPATIAL = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial:",
    "description": "Spatial coordinate information",
}
_PROJ = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "description": "Coordinate reference system information for geospatial data",
}


def write_zarr(array: xr.DataArray, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a mask or a probability as a Zarr v3 group that GDAL, xarray and rioxarray place.

    Parameters
    ----------
    array : (…, y, x) DataArray
        Mask (uint8) or probability (float32, NaN where nodata), lazy or not.
    path : str or Path
        The store to make, in an existing folder.
    overwrite : bool
        Replace an existing store, once the new one is complete.

    Raises
    ------
    FileExistsError, FileNotFoundError, ValueError, OSError
        As for `write_cog`.

    Notes
    -----
    One Zarr chunk a dask chunk, written by the task that made it. CRS as ``spatial_ref`` (CF) and
    as ``proj:`` and ``spatial:`` attributes (GeoZarr).
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    check_kind(array)
    name = "mask" if array.dtype == np.uint8 else "probability"
    grid = grid_of(array)
    array = grid.attach(_uniform_chunks(array))
    nodata = np.uint8(NODATA) if name == "mask" else np.float32(np.nan)
    dataset = array.rename(name).to_dataset(promote_attrs=False)
    dataset.attrs = _geozarr_attributes(grid)
    dataset[name].encoding = {
        "chunks": tuple(lengths[0] for lengths in array.data.chunks),
        "_FillValue": nodata,  # for CF readers; the next for GDAL
        "fill_value": nodata,
        # GDAL finds the CRS by the first, xarray by the second.
        "grid_mapping": array.rio.grid_mapping,
        "coordinates": array.rio.grid_mapping,
    }
    with replacing(path) as work:
        dataset[name].data = array.data.map_blocks(
            _while_wanted, folder=work.resolve(), dtype=array.dtype, meta=array.data._meta
        )
        dataset.to_zarr(work / path.name, zarr_format=3, consolidated=False)


def _while_wanted(block: Block, *, folder: Path) -> Block:
    """Hold a chunk back once its output was given up.

    After a failure dask's threads and workers finish the chunks that they have begun, and Zarr
    would make the folder anew for them.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} is gone, or is not seen from this worker")
    return block


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


def _geozarr_attributes(grid: Grid) -> dict[str, Any]:
    """Attributes by which GeoZarr readers place the arrays of a group.

    Conventions ``proj:`` and ``spatial:``, https://github.com/zarr-conventions.
    """
    west, south, east, north = rasterio.transform.array_bounds(
        grid.height, grid.width, grid.transform
    )
    attributes: dict[str, Any] = {
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [grid.height, grid.width],
        "spatial:transform": list(grid.transform)[:6],
        "spatial:bbox": [west, south, east, north],
        "spatial:registration": "pixel",
        "zarr_conventions": [_SPATIAL],
    }
    if grid.crs is not None:
        attributes["zarr_conventions"].append(_PROJ)
        code = grid.crs.to_authority()
        attributes |= {"proj:code": ":".join(code)} if code else {"proj:wkt2": grid.crs.to_wkt()}
    return attributes
