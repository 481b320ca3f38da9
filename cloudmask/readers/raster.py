"""Read through GDAL."""

import math
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio._path import _parse_path  # rasterio.path, without its warning
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window

from cloudmask import resample
from cloudmask.chunks import Block
from cloudmask.constants import NODATA
from cloudmask.errors import first_line
from cloudmask.grid import Grid
from cloudmask.paths import is_remote, unsigned, unsigned_in
from cloudmask.readers.files import GDAL_OPTIONS, parts_of
from cloudmask.readers.handles import forget, kept_open
from cloudmask.readers.protocol import DTYPES, check_nodata, listed, opening_of, version_of
from cloudmask.stopwatch import timed

T = TypeVar("T")


@dataclass(frozen=True)
class RasterReader:
    """Reads through GDAL."""

    path: str
    """As the user gave it, of a local file the absolute one."""
    name: str
    """What GDAL opens: the path, or a VRT document of it."""
    version: str
    """Size, time and number of a local file: an overwritten file is another scene."""
    bands: tuple[int, ...]
    grid: Grid
    dtype: np.dtype[Any]
    can_be_nodata: bool
    block: tuple[int, int]
    """Height and width of the stored blocks."""
    opened: str
    """As `opening_of` tells: handles are not for who opens a URL later."""
    packing: str = ""

    def read(self, grid: Grid, rows: slice, columns: slice) -> Block:
        shape = (len(self.bands), rows.stop - rows.start, columns.stop - columns.start)
        factor_y, factor_x = self.grid.height / grid.height, self.grid.width / grid.width
        window = Window(
            columns.start * factor_x,
            rows.start * factor_y,
            shape[2] * factor_x,
            shape[1] * factor_y,
        )
        # A window longer by a fraction of a pixel than what it becomes, GDAL takes for one at full
        # resolution; and its shortcut for pairs of columns forgets that rows have weights.
        is_unresampled = 0 < window.height - shape[1] < 1 or 0 < window.width - shape[2] < 1
        is_spoilt = is_unresampled or (factor_x == 2 and 1 < factor_y < 2)
        if not is_spoilt:
            values, is_spoilt = self._read(window, shape, Resampling.average)
        if is_spoilt:
            values = self._average(rows, columns, factor_y, factor_x)
        return resample.nan_in_all_bands(values)

    def _average(self, rows: slice, columns: slice, factor_y: float, factor_x: float) -> Block:
        """What GDAL's average would be, from the pixels at full resolution."""

        def values(source_y: slice, source_x: slice) -> Block:
            window = Window.from_slices(source_y, source_x)
            shape = (len(self.bands), int(window.height), int(window.width))
            return self._read(window, shape, Resampling.nearest)[0]

        mean = resample.average_of(values, self.grid, rows, columns, factor_y, factor_x)
        if self.dtype.kind in "ui":
            mean = resample.rounded(mean)
        return mean if self.can_be_nodata else mean.astype(self.dtype)

    def sample(self, side: int) -> Block:
        coarse = self.grid.coarser(
            max(1.0, self.grid.height / side), max(1.0, self.grid.width / side)
        )
        whole = Window(0, 0, self.grid.width, self.grid.height)
        shape = (len(self.bands), coarse.height, coarse.width)
        read = partial(self._read, whole, shape, Resampling.nearest)
        values, _ = _interruptibly(read) if is_remote(self.path) else read()
        return resample.nan_in_all_bands(values.astype("float32"))

    def stored(self, rows: slice, columns: slice) -> Block:
        """(band, y, x) of a window of the file's own pixels, a nodata value as it is stored.

        What a mask band hides is 255, or NaN.
        """
        window = Window.from_slices(rows, columns)
        # Closed at once: a mask may be replaced, and a file in the making is removed soon.
        with self._open(keep=False) as dataset, self._naming(window):
            values = dataset.read(self.bands, window=window)
            flags = dataset.mask_flag_enums[self.bands[0] - 1]
            if not {MaskFlags.all_valid, MaskFlags.nodata} & set(flags):
                hidden = dataset.read_masks(self.bands, window=window) == 0
                values[hidden] = np.nan if values.dtype.kind == "f" else NODATA
            return values

    def is_striped(self, grid: Grid, chunk: int) -> bool:
        return self.block[1] > max(1024, chunk * self.grid.width / grid.width)

    def facts(self) -> dict[str, Any]:
        with self._open(keep=False) as dataset:
            flags = {flag for band in self.bands for flag in dataset.mask_flag_enums[band - 1]}
            kinds = sorted(flag.name for flag in flags - {MaskFlags.all_valid})
            value = dataset.nodatavals[self.bands[0] - 1]
            return {
                "bands": dataset.count,
                "block": list(self.block),
                "nodata": value if value is not None else ", ".join(kinds) or None,
                "overviews": dataset.overviews(self.bands[0]),
                "scales": [dataset.scales[band - 1] for band in self.bands],
                "offsets": [dataset.offsets[band - 1] for band in self.bands],
            }

    def tags(self) -> dict[str, str]:
        """What the file says of itself."""
        with self._open(keep=False) as dataset:
            tags: dict[str, str] = dataset.tags()
            return tags

    def _read(
        self, window: Window, shape: tuple[int, ...], resampling: Resampling
    ) -> tuple[Block, bool]:
        """Values, NaN where a band is nodata; whether what GDAL does not know for it spoils means.

        NaN or infinity beside a nodata value: they spoil every mean that they are part of.
        """
        how = {"window": window, "out_shape": shape, "resampling": resampling}
        with timed("read"), self._open(keep=True) as dataset, self._naming(window):
            return self._values(dataset, how)

    @contextmanager
    def _open(self, *, keep: bool) -> Iterator[rasterio.DatasetReader]:
        """The dataset; `keep` leaves it open in this thread, for windows to come."""
        with rasterio.Env(**GDAL_OPTIONS):
            try:
                version = self.version + self.opened
                dataset = (
                    kept_open(self.path, self.name, version) if keep else rasterio.open(self.name)
                )
            except rasterio.errors.RasterioIOError as error:
                said = f"{self.path} cannot be opened on {platform.node()}: {first_line(error)}"
                raise OSError(unsigned_in(said)) from _sendable(error)
            with nullcontext() if keep else dataset:
                yield dataset

    @contextmanager
    def _naming(self, window: Window) -> Iterator[None]:
        """Turn what GDAL raises while it reads `window` into one line."""
        try:
            yield
        except rasterio.errors.RasterioIOError as error:
            # Workers log it. GDAL begins with the last part of the URL, what signs it with it.
            cause = first_line(error.__cause__ or error)
            cause = cause.removeprefix(f"{self.path.rpartition('/')[2]}, ")
            reason = ", it is truncated or damaged"
            if is_remote(self.path):
                reason = ", its server did not give all of it"  # GDAL does not tell why
            raise OSError(
                f"{unsigned(self.path)} cannot be read at rows {window.row_off:.0f}–"
                f"{window.row_off + window.height:.0f}, columns {window.col_off:.0f}–"
                f"{window.col_off + window.width:.0f}{reason}: {cause}"
            ) from _sendable(error)

    def _values(self, dataset: rasterio.DatasetReader, how: dict[str, Any]) -> tuple[Block, bool]:
        values = dataset.read(self.bands, **how)
        if not self.can_be_nodata:
            return values, False
        is_mean = how["resampling"] == Resampling.average
        if is_mean:
            # Valid where any pixel inside is: a mean of the mask would round to 0 below 1 in 510.
            how = {**how, "resampling": Resampling.rms}
        valid = dataset.read_masks(self.bands, **how) > 0
        values = values.astype("float32", copy=False)
        finite = np.isfinite(values)
        is_spoilt = is_mean and bool((valid & ~finite).any())
        values[~(valid & finite)] = np.nan
        return values, is_spoilt


def _sendable(error: Exception) -> Exception:
    """An error that a worker can send to its client: GDAL's own, behind rasterio's, are not."""
    error.__cause__ = error.__context__ = None
    return error


def _interruptibly(call: Callable[[], T]) -> T:
    """Call what may wait for a server: meanwhile the main thread would hear of no interrupt."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # whatever it is, it is raised again
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return answer.result()


def open_raster(path: str, bands: tuple[int, ...], nodata: float | None) -> RasterReader:
    """Open a raster by what its header says; errors as for `open_reader`."""

    def opened() -> rasterio.DatasetReader:
        with rasterio.Env(**GDAL_OPTIONS):
            forget(path)
            return rasterio.open(path)

    try:
        dataset = _interruptibly(opened) if is_remote(path) else opened()
    except rasterio.errors.RasterioIOError as error:
        reason = first_line(error).removeprefix(f"'{path}' ").removesuffix(".")
        raise OSError(f"{path} cannot be opened: {reason}") from error
    with dataset:
        if len(bands) > 1 and ColorInterp.palette in dataset.colorinterp:
            raise ValueError(
                f"{path} has a palette, its values are numbers of colours: write the colours "
                "themselves (gdal_translate -expand rgb)"
            )
        if dataset.count == 0 and dataset.subdatasets:
            raise ValueError(
                f"{path} holds {len(dataset.subdatasets)} rasters: name one of them, such as "
                f"{dataset.subdatasets[0]}"
            )
        if max(bands) > dataset.count:
            few = dataset.count == 1
            raise ValueError(
                f"{path} has {dataset.count} band{'s' * (not few)}, bands {listed(bands)} were "
                f"asked for: pass bands within 1 to {dataset.count}"
                + (", such as 1,1,1" if few else "")
            )
        dtypes = {dataset.dtypes[band - 1] for band in bands}
        if len(dtypes) > 1 or not dtypes <= set(DTYPES):
            raise ValueError(
                f"{path} holds {', '.join(sorted(dtypes))}: convert it to one of "
                f"{', '.join(DTYPES)} (gdal_translate -ot)"
            )
        dtype = np.dtype(dtypes.pop())
        check_nodata(nodata, dtype)
        crs, transform = dataset.crs, dataset.transform
        flags = [dataset.mask_flag_enums[band - 1] for band in bands]
        is_masked = any(found != [MaskFlags.all_valid] for found in flags)
        name = path
        is_undeclared = dtype.kind == "f" and [MaskFlags.all_valid] in flags
        if nodata is not None or is_undeclared:
            # GDAL must know the value, or averaging would mix it in.
            value = math.nan if nodata is None else nodata
            name = _with_nodata(dataset, [value] * dataset.count, is_masked)
        elif ColorInterp.alpha in dataset.colorinterp and any(MaskFlags.nodata in f for f in flags):
            # The value counts, as GDAL has it: the fourth band of such files seldom is alpha.
            declared = [dataset.nodatavals[band - 1] for band in bands]
            value = next(value for value in declared if value is not None)
            values = [value if own is None else own for own in dataset.nodatavals]
            name = _with_nodata(dataset, values, is_masked=False)
        grid = Grid(dataset.height, dataset.width, transform, crs)
        can_be_nodata = dtype.kind == "f" or nodata is not None or is_masked
        block = dataset.block_shapes[bands[0] - 1]
        version = " ".join(map(version_of, parts_of(dataset, path)))
        packing = _packing(dataset, bands)
    return RasterReader(
        path, name, version, bands, grid, dtype, can_be_nodata, block, opening_of(path), packing
    )


def _packing(dataset: rasterio.DatasetReader, bands: tuple[int, ...]) -> str:
    """As `Reader.packing`."""
    told = (
        (name, [values[band - 1] for band in bands], none)
        for name, values, none in (
            ("scales", dataset.scales, 1),
            ("offsets", dataset.offsets, 0),
        )
    )
    return " and ".join(
        f"{name} {', '.join(f'{value:g}' for value in values)}"
        for name, values, none in told
        if set(values) != {none}
    )


def _with_nodata(dataset: rasterio.DatasetReader, nodata: Sequence[float], is_masked: bool) -> str:
    """A VRT document of `dataset` with nodata values of its own for each band.

    What the dataset itself masks becomes nodata as well. https://gdal.org/drivers/raster/vrt
    """
    types = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}
    local = Path(dataset.name)
    path = str(local.resolve()) if local.exists() else _parse_path(dataset.name).as_vsi()
    # Only a simple source lends its overviews, only a complex one its mask.
    source = "ComplexSource" if is_masked else "SimpleSource"
    mask = "<UseMaskBand>true</UseMaskBand>" if is_masked else ""
    bands = "".join(
        # Bands of other types are never read: they only keep the numbers of those behind them.
        f'<VRTRasterBand dataType="{types.get(dataset.dtypes[i - 1], "Byte")}" band="{i}">'
        f"<NoDataValue>{float(nodata[i - 1])!r}</NoDataValue><{source}>"
        f'<SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename>'
        f"<SourceBand>{i}</SourceBand>{mask}</{source}></VRTRasterBand>"
        for i in dataset.indexes
    )
    return (
        f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}">'
        f"{bands}</VRTDataset>"
    )
