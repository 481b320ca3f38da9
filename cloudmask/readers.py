"""Windows of pixels from GDAL and from Zarr: all that touches a file that is read.

A reader is small and frozen, and crosses to a worker; the open file stays there.
"""

import logging
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.windows import Window

from cloudmask import resample
from cloudmask.chunks import Block
from cloudmask.constants import GDAL_CACHE
from cloudmask.grid import Grid, grid_of
from cloudmask.stopwatch import stage

logger = logging.getLogger(__name__)

# GDAL's defaults suit one process with one thread: here each dask thread has its own handle, so
# that GDAL's own threads and a cache of 5 % of the memory would only get in the way.
_GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": GDAL_CACHE,
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "3",
}
_HANDLES_PER_THREAD = 4
_DTYPES = ("uint8", "uint16", "int16", "float32")


class Reader(Protocol):
    """What `open_scene` asks of a file format."""

    @property
    def bands(self) -> tuple[int, ...]:
        """Bands to read, counted from 1."""

    @property
    def grid(self) -> Grid:
        """The file's own grid."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""

    @property
    def can_be_nodata(self) -> bool:
        """Whether any pixel may be nodata; False only where the file rules it out."""

    def read(self, grid: Grid, rows: slice, columns: slice) -> Block:
        """(band, y, x) values of a window of `grid`, which spans this reader's bounds.

        The stored type where nothing can be nodata, else float32 with NaN in all bands.
        """

    def sample(self, side: int) -> NDArray[np.float32]:
        """The whole scene decimated to at most `side` pixels a side, NaN where nodata."""

    def is_striped(self, grid: Grid, chunk: int) -> bool:
        """Whether stored blocks are so wide that chunks beside each other share them."""

    def facts(self) -> dict[str, Any]:
        """For people: number of bands, block, nodata and overviews."""


def open_reader(path: str, bands: tuple[int, ...], nodata: float | None) -> Reader:
    """Choose a reader by what `path` is, and refuse what cannot be read.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
    """
    if not bands or min(bands) < 1:
        raise ValueError(f"bands are {_listed(bands)}: they count from 1")
    is_remote = "://" in path or path.startswith("/vsi")
    if path.rstrip("/").endswith(".zarr"):
        if not is_remote and not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist")
        return _open_zarr(path, bands, nodata)
    if not is_remote:
        if Path(path).is_dir():
            raise IsADirectoryError(
                f"{path} is a directory: name a scene in it (gdalbuildvrt -separate joins files "
                "of one band each)"
            )
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist")
    return _open_raster(path, bands, nodata)


@dataclass(frozen=True)
class RasterReader:
    """Reads through GDAL."""

    path: str
    """As the user gave it."""
    name: str
    """What GDAL opens: the path, or a VRT document of it."""
    version: str
    """Size and time of a local file: an overwritten file is another scene."""
    bands: tuple[int, ...]
    grid: Grid
    dtype: np.dtype[Any]
    can_be_nodata: bool
    block: tuple[int, int]
    """Height and width of the stored blocks."""
    masked_by: str | None = None
    """The file whose mask or alpha counts as well, where `name` is a document that drops it."""

    def read(self, grid: Grid, rows: slice, columns: slice) -> Block:
        shape = (len(self.bands), rows.stop - rows.start, columns.stop - columns.start)
        factor_y, factor_x = self.grid.height / grid.height, self.grid.width / grid.width
        window = Window(
            columns.start * factor_x,
            rows.start * factor_y,
            shape[2] * factor_x,
            shape[1] * factor_y,
        )
        return self._read(window, shape, Resampling.average)

    def sample(self, side: int) -> NDArray[np.float32]:
        coarse = self.grid.coarser(
            max(1.0, self.grid.height / side), max(1.0, self.grid.width / side)
        )
        whole = Window(0, 0, self.grid.width, self.grid.height)
        shape = (len(self.bands), coarse.height, coarse.width)
        return self._read(whole, shape, Resampling.nearest).astype("float32")

    def is_striped(self, grid: Grid, chunk: int) -> bool:
        return self.block[1] > max(1024, chunk * self.grid.width / grid.width)

    def facts(self) -> dict[str, Any]:
        dataset = _handle(self.name, self.version)
        kinds = {flag.name for band in self.bands for flag in dataset.mask_flag_enums[band - 1]}
        value = dataset.nodatavals[self.bands[0] - 1]
        return {
            "bands": dataset.count,
            "block": list(self.block),
            "nodata": value
            if value is not None
            else ", ".join(sorted(kinds - {"all_valid"})) or None,
            "overviews": dataset.overviews(self.bands[0]),
        }

    def _read(self, window: Window, shape: tuple[int, ...], resampling: Resampling) -> Block:
        how = {"window": window, "out_shape": shape, "resampling": resampling}
        with rasterio.Env(**_GDAL_OPTIONS), stage("read"):
            try:
                return self._values(_handle(self.name, self.version), how)
            except rasterio.errors.RasterioIOError as error:
                cause = _first_line(error.__cause__ or error)
                raise OSError(
                    f"{self.path} cannot be read at rows {window.row_off:.0f}–"
                    f"{window.row_off + window.height:.0f}, columns {window.col_off:.0f}–"
                    f"{window.col_off + window.width:.0f}, it is truncated or damaged: {cause}"
                ) from error

    def _values(self, dataset: rasterio.DatasetReader, how: dict[str, Any]) -> Block:
        values = dataset.read(self.bands, **how)
        if not self.can_be_nodata:
            return values
        valid = (dataset.read_masks(self.bands, **how) > 0).all(axis=0)
        if self.masked_by is not None:
            mask = _handle(self.masked_by, self.version).dataset_mask
            valid &= mask(**{**how, "out_shape": valid.shape}) > 0
        values = values.astype("float32", copy=False)
        valid &= np.isfinite(values).all(axis=0)
        values[:, ~valid] = np.nan
        return values


_open_handles = threading.local()


def _handle(name: str, version: str) -> rasterio.DatasetReader:
    """This thread's own dataset: GDAL's handles are not to be shared."""
    handles = _open_handles.__dict__.setdefault("cache", OrderedDict())
    if (name, version) not in handles:
        while len(handles) >= _HANDLES_PER_THREAD:
            handles.popitem(last=False)[1].close()
        handles[name, version] = rasterio.open(name)
    handles.move_to_end((name, version))
    return handles[name, version]


def _open_raster(path: str, bands: tuple[int, ...], nodata: float | None) -> RasterReader:
    try:
        dataset = rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise OSError(f"{path} cannot be opened: {_first_line(error)}") from error
    with dataset:
        if max(bands) > dataset.count:
            few = dataset.count == 1
            raise ValueError(
                f"{path} has {dataset.count} band{'s' * (not few)}, bands {_listed(bands)} were "
                f"asked for: pass bands within 1 to {dataset.count}"
                + (", such as 1,1,1" if few else "")
            )
        dtypes = {dataset.dtypes[band - 1] for band in bands}
        if len(dtypes) > 1 or not dtypes <= set(_DTYPES):
            raise ValueError(
                f"{path} holds {', '.join(sorted(dtypes))}: convert it to one of "
                f"{', '.join(_DTYPES)} (gdal_translate -ot)"
            )
        dtype = np.dtype(dtypes.pop())
        crs, transform = dataset.crs, dataset.transform
        if crs is None and transform == Affine.identity():
            logger.info("%s has no georeferencing: pixels are the unit", path)
        flags = {flag for band in bands for flag in dataset.mask_flag_enums[band - 1]}
        name, masked_by = path, None
        is_undeclared = dtype.kind == "f" and MaskFlags.all_valid in flags
        if nodata is not None or is_undeclared:
            # GDAL must know the value, or averaging would mix it in.
            name = _with_nodata(dataset, math.nan if nodata is None else nodata)
            masked_by = path if MaskFlags.per_dataset in flags else None
        grid = Grid(dataset.height, dataset.width, transform, crs)
        can_be_nodata = dtype.kind == "f" or nodata is not None or flags != {MaskFlags.all_valid}
        block = dataset.block_shapes[bands[0] - 1]
    return RasterReader(
        path, name, _version(path), bands, grid, dtype, can_be_nodata, block, masked_by
    )


def _with_nodata(dataset: rasterio.DatasetReader, nodata: float) -> str:
    """A VRT document of `dataset` with another nodata value (https://gdal.org/drivers/raster/vrt)."""
    types = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}
    path = dataset.name
    local = Path(path)
    if local.exists():
        path = str(local.resolve())
    elif path.startswith(("http://", "https://")):
        path = f"/vsicurl/{path}"
    bands = "".join(
        f'<VRTRasterBand dataType="{types[dataset.dtypes[i - 1]]}" band="{i}">'
        f"<NoDataValue>{nodata!r}</NoDataValue><SimpleSource>"
        f'<SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename>'
        f"<SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
        for i in dataset.indexes
    )
    return (
        f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}">'
        f"{bands}</VRTDataset>"
    )


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
    nodata: float | None

    def read(self, grid: Grid, rows: slice, columns: slice) -> Block:
        if grid == self.grid:
            return self._values(rows, columns)
        factor_y, factor_x = self.grid.height / grid.height, self.grid.width / grid.width
        source_x, weights_x = resample.average_weights(
            columns.start, columns.stop, factor_x, self.grid.width
        )
        # Few coarse rows at a time: a chunk's whole source would be factor² as large.
        step = max(1, int(2048 / factor_y))
        parts = []
        for start in range(rows.start, rows.stop, step):
            source_y, weights_y = resample.average_weights(
                start, min(start + step, rows.stop), factor_y, self.grid.height
            )
            values = self._values(source_y, source_x).astype("float32", copy=False)
            parts.append(resample.average(values, weights_y, weights_x))
        mean = np.concatenate(parts, axis=1)
        if self.can_be_nodata:
            mean[:, np.isnan(mean).any(axis=0)] = np.nan
            return mean
        return np.rint(mean).astype(self.dtype) if self.dtype.kind in "ui" else mean

    def sample(self, side: int) -> NDArray[np.float32]:
        step = [max(1, -(-size // side)) for size in (self.grid.height, self.grid.width)]
        return self._values(slice(None, None, step[0]), slice(None, None, step[1])).astype(
            "float32"
        )

    def is_striped(self, grid: Grid, chunk: int) -> bool:
        return False

    def facts(self) -> dict[str, Any]:
        array = _zarr_array(self.path, self.version, self.variable)
        return {
            "bands": array.shape[0],
            "block": list(array.encoding.get("chunks", array.shape)[-2:]),
            "nodata": array.encoding.get("_FillValue", self.nodata),
            "overviews": [],
        }

    def _values(self, rows: slice, columns: slice) -> Block:
        array = _zarr_array(self.path, self.version, self.variable)
        with stage("read"):
            values = array[[band - 1 for band in self.bands], rows, columns].values
        if not self.can_be_nodata:
            return values
        values = values.astype("float32", copy=False)
        invalid = ~np.isfinite(values)
        if self.nodata is not None:
            invalid |= values == self.nodata
        return np.where(invalid.any(axis=0), np.float32(np.nan), values)


@lru_cache(maxsize=_HANDLES_PER_THREAD)
def _zarr_array(path: str, version: str, variable: str) -> xr.DataArray:
    dataset = xr.open_zarr(path, chunks=None, decode_coords="all")
    array = dataset[variable]
    y, x = array.rio.y_dim, array.rio.x_dim
    return array.transpose(..., y, x)


def _open_zarr(path: str, bands: tuple[int, ...], nodata: float | None) -> ZarrReader:
    try:
        dataset = xr.open_zarr(path, chunks=None, decode_coords="all")
    except (OSError, ValueError, KeyError) as error:
        raise OSError(f"{path} cannot be opened as Zarr: {_first_line(error)}") from error
    cubes = [str(name) for name, variable in dataset.items() if variable.ndim == 3]
    if len(cubes) != 1:
        raise ValueError(
            f"{path} holds {len(cubes)} arrays with three dimensions "
            f"({', '.join(cubes) or 'none'}): a scene is one array (band, y, x)"
        )
    version = _version(path)
    array = _zarr_array(path, version, cubes[0])
    if max(bands) > array.shape[0]:
        raise ValueError(
            f"{path} has {array.shape[0]} bands, bands {_listed(bands)} were asked for: pass "
            f"bands within 1 to {array.shape[0]}"
        )
    y, x = array.dims[-2:]
    grid = grid_of(array.rename({y: "y", x: "x"}))
    stored = np.dtype(array.encoding.get("dtype", array.dtype))
    if stored.name not in _DTYPES and stored.kind != "f":
        raise ValueError(f"{path} holds {stored}: convert it to one of {', '.join(_DTYPES)}")
    can_be_nodata = array.dtype.kind == "f" or nodata is not None
    return ZarrReader(path, version, cubes[0], bands, grid, stored, can_be_nodata, nodata)


def _version(path: str) -> str:
    local = Path(path)
    if not local.exists():
        return ""
    if local.is_dir():
        local = next((p for p in (local / "zarr.json", local / ".zmetadata") if p.exists()), local)
    status = local.stat()
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _listed(bands: tuple[int, ...]) -> str:
    return ", ".join(map(str, bands)) or "none"


def _first_line(error: BaseException) -> str:
    """GDAL and zarr put the cause first."""
    return str(error).strip().split("\n")[0] or type(error).__name__
