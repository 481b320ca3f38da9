"""Open a scene, whatever GDAL or Zarr it is in, as a lazy DataArray on a known grid."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cloudmask import stretch as radiometry
from cloudmask.checks import path_of, real, shown
from cloudmask.chunks import Block
from cloudmask.constants import CHUNK, FLOAT_CHUNK, LONGEST_CHUNK
from cloudmask.grid import Grid
from cloudmask.origin import as_made
from cloudmask.readers import Reader, open_reader
from cloudmask.windows import WINDOWS, Chunk, Windows, open_lazily

logger = logging.getLogger(__name__)

# A percentile from a million pixels is exact to a tenth of a percent.
_SAMPLE_SIDE = 1024


@dataclass(frozen=True)
class _Pixels:
    """Reads windows of a scene on a grid, on the 0–255 scale."""

    reader: Reader
    grid: Grid
    limits: radiometry.Stretch | None
    dtype: np.dtype[Any]

    def __call__(self, rows: slice, columns: slice) -> Block:
        values = self.reader.read(self.grid, rows, columns)
        return (self.limits(values) if self.limits else values).astype(self.dtype, copy=False)


def open_scene(
    path: str | Path,
    *,
    bands: Sequence[int] = (1, 2, 3),
    gsd: float | None = None,
    resize_factor: float | None = None,
    scale: float | None = None,
    stretch: float | None = None,
    nodata: float | None = None,
    grid: Grid | None = None,
    chunk: Chunk | None = None,
) -> xr.DataArray:
    """Open a scene lazily, on the 0–255 scale that the models take.

    Parameters
    ----------
    path : str or Path
        GeoTIFF, COG, VRT, JPEG 2000 or anything else that GDAL reads, by path, ``/vsi…`` name or
        http(s) URL; or a Zarr store with one (band, y, x) array.
    bands : sequence of int
        Red, green and blue, counted from 1.
    gsd : float, optional
        Ground sample distance to read at, in metres (in pixels without a CRS): GDAL averages, from
        overviews where there are any. In a geographic CRS it is reckoned at the scene's centre.
    resize_factor : float, optional
        The same as a multiple of the scene's own pixels; at least 1.
    scale : float, optional
        Value that maps to 255, in the scene's units; needed unless the scene is uint8.
    stretch : float, optional
        Instead of `scale`: percentile, 0 to 49, clipped at both ends of each band over the whole
        scene (2 is light, 5 medium, 10 heavy). Reads the scene once, decimated.
    nodata : float, optional
        Value to take for nodata besides what the file declares (nodata value, mask, alpha, NaN).
    grid : Grid, optional
        Instead of `gsd` and `resize_factor`: the very grid, such as `cloudmask.scene.model_grid`
        gives.
    chunk : int or tuple of tuples
        Chunk height and width in pixels of the grid returned, by default 3,840 for uint8 (up to
        5,120 where two of these cover the scene) and 3,456 for float32; or dask chunks for (y, x).

    Returns
    -------
    (band, y, x) DataArray
        uint8 where no pixel can be nodata and no radiometry is asked for, else float32 with NaN in
        all bands where any band is nodata. A pixel of a coarser grid is the mean of what is valid
        in each band, as GDAL has it. It spans exactly the scene's bounds. Memory while it is
        computed: one chunk a thread, for striped files a row of chunks.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        With one line that names the value and the cure; before any pixel is read.
    """
    if grid is not None and (gsd is not None or resize_factor is not None):
        raise ValueError("grid is given with gsd or resize_factor: choose one")
    if grid is not None and not isinstance(grid, Grid):
        raise ValueError(
            f"grid is {shown(grid)}: give a Grid, such as `cloudmask.scene.model_grid` gives"
        )
    reader = open_reader(path_of(path), bands, nodata)
    if grid is None:
        grid = model_grid(reader.grid, gsd, resize_factor)
    elif not reader.grid.same_bounds(grid) or grid.is_finer(reader.grid):
        raise ValueError(
            f"the grid of {grid.height} × {grid.width} px is finer than the scene's, or elsewhere: "
            "leave it out, and give gsd or resize_factor"
        )
    limits = _radiometry(reader, scale, stretch)
    dtype = scene_dtype(reader, is_rescaled=limits is not None)
    chunk = default_chunk(dtype, max(grid.height, grid.width)) if chunk is None else chunk

    pixels = _Pixels(reader, grid, limits, dtype)
    data, is_striped = open_lazily(pixels, reader, grid, chunk, bands=len(bands), dtype=dtype)
    coords = {"band": list(reader.bands)}
    array = xr.DataArray(data, dims=("band", "y", "x"), coords=coords, name="scene")
    array.encoding["source"] = reader.path
    if grid == reader.grid:
        array.encoding[WINDOWS] = Windows(data.name, pixels, is_striped)
    # Whoever reads or compares it later may have another working folder.
    array.attrs["scene_source"] = reader.path
    array.attrs["scene_version"] = reader.version
    if limits is not None:
        array.attrs["scene_radiometry"] = [*limits.low, *limits.high]  # flat: netCDF takes it
    # So that write_cog(like=path) sees the nodata that this scene has.
    array.attrs["scene_bands"] = list(reader.bands)
    if nodata is not None:
        array.attrs["scene_nodata"] = float(nodata)
    return grid.attach(as_made(array))


def default_chunk(dtype: np.dtype[Any], side: int) -> int:
    """Longest height and width of the chunks of a scene in `dtype` whose longer side is `side`."""
    if dtype != np.uint8:
        return FLOAT_CHUNK
    return LONGEST_CHUNK if side <= 2 * LONGEST_CHUNK else CHUNK


def scene_dtype(reader: Reader, *, is_rescaled: bool) -> np.dtype[Any]:
    """The type in which `open_scene` returns what a reader reads."""
    has_nan = is_rescaled or reader.dtype != np.uint8 or reader.can_be_nodata
    return np.dtype("float32" if has_nan else "uint8")


def describe(
    path: str | Path, bands: Sequence[int] = (1, 2, 3), nodata: float | None = None
) -> dict[str, Any]:
    """What the header of a scene tells: for people and JSON."""
    reader = open_reader(path_of(path), bands, nodata)
    native = reader.grid
    facts = reader.facts()
    if isinstance(facts["nodata"], float | np.number):
        value = float(facts["nodata"])
        facts["nodata"] = value if math.isfinite(value) else str(value)  # JSON has no NaN
    return {
        "height": native.height,
        "width": native.width,
        "crs": native.crs.to_string() if native.crs else None,
        "transform": list(native.transform)[:6],
        "gsd": list(native.gsd),
        "dtype": str(reader.dtype),
        **facts,
    }


def model_grid(native: Grid, gsd: float | None, resize_factor: float | None) -> Grid:
    """The grid that a scene is read at: `gsd` or `resize_factor` as for `open_scene`, or neither.

    Raises
    ------
    ValueError
        Both are given, or one is finer than the scene.
    """
    check_resolution(gsd, resize_factor)
    if resize_factor is not None:
        return native.coarser(resize_factor, resize_factor)
    if gsd is None:
        return native
    finest = min(native.gsd)
    if gsd < finest * (1 - 1e-3):
        raise ValueError(
            f"gsd is {gsd:g}, finer than the scene's own {finest:.4g}: detail cannot be added, "
            f"give {finest:.4g} or more"
        )
    if not native.is_placed:
        missing = "CRS" if native.crs is None else "transform"
        logger.warning("the scene has no %s: a pixel is the unit of gsd", missing)
    return native.coarser(*(max(1.0, gsd / own) for own in native.gsd))


def check_resolution(gsd: float | None, resize_factor: float | None) -> None:
    """Refuse what is no resolution of any scene, and both at once, with a ValueError."""
    if gsd is not None and resize_factor is not None:
        raise ValueError("gsd and resize_factor are both given: choose one")
    if resize_factor is not None and not 1 <= real("resize_factor", resize_factor) < math.inf:
        raise ValueError(f"resize_factor is {resize_factor}: it must be 1 or more")
    if isinstance(gsd, str):
        raise ValueError(f"gsd is {gsd!r}: give metres, or leave it out for the scene's own pixels")
    if gsd is not None and not 0 < real("gsd", gsd) < math.inf:
        raise ValueError(f"gsd is {gsd}: give metres above 0")


def check_radiometry(dtype: np.dtype[Any], scale: float | None, stretch: float | None) -> None:
    """Refuse a scale or a stretch that cannot be, and a scene of `dtype` that needs one.

    Raises
    ------
    ValueError
    """
    radiometry.check_stretch(scale, stretch)
    if scale is None and stretch is None and dtype != np.uint8:
        raise ValueError(
            f"the scene is {dtype}, not uint8: give the value that maps to 255 (scale=10000 for "
            "reflectance × 10,000), or a percentile to clip (stretch=2)"
        )


def _radiometry(
    reader: Reader, scale: float | None, percent: float | None
) -> radiometry.Stretch | None:
    check_radiometry(reader.dtype, scale, percent)
    if scale is not None:
        return radiometry.from_scale(scale, len(reader.bands))
    if percent is not None:
        return radiometry.from_percentiles(reader.sample(_SAMPLE_SIDE), percent)
    return None
