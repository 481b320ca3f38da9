"""Read windows of a raster through GDAL."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.windows import Window

from cloudmask import resample
from cloudmask.chunks import Block
from cloudmask.constants import NODATA
from cloudmask.errors import first_line
from cloudmask.grid import Grid
from cloudmask.paths import unsigned, unsigned_in
from cloudmask.readers.files import GDAL_OPTIONS, is_served
from cloudmask.readers.handles import kept_open
from cloudmask.readers.protocol import interruptibly
from cloudmask.stopwatch import timed


@dataclass(frozen=True)
class RasterReader:
    """Reads through GDAL."""

    path: str
    """As the user gave it, of a local file the absolute one."""
    name: str
    """What GDAL opens: the path, or a VRT document of it."""
    version: str
    """Of all files that it is made of: an overwritten one is another scene."""
    bands: tuple[int, ...]
    grid: Grid
    dtype: np.dtype[Any]
    can_be_nodata: bool
    block: tuple[int, int]
    """Height and width of the stored blocks."""
    opened: str
    """As `opening_of` tells: handles are not for who opens a URL later."""
    packing: str = ""
    colours: str = ""

    def read(self, grid: Grid, rows: slice, columns: slice) -> Block:
        shape = (len(self.bands), rows.stop - rows.start, columns.stop - columns.start)
        factor_y, factor_x = self.grid.height / grid.height, self.grid.width / grid.width
        window = Window(
            columns.start * factor_x,
            rows.start * factor_y,
            shape[2] * factor_x,
            shape[1] * factor_y,
        )
        if grid == self.grid:
            values, _ = self._read(window, shape, Resampling.average)
            return resample.nan_in_all_bands(values)
        overview, source = self._averaged_for(grid)
        near_y, near_x = source.height / grid.height, source.width / grid.width
        # A window longer by a fraction of a pixel than what it becomes GDAL takes as it is; and its
        # shortcut for pairs of columns forgets that rows have weights.
        longer = shape[1] * near_y - shape[1], shape[2] * near_x - shape[2]
        if any(0 < by < 1 for by in longer) or (near_x == 2 and 1 < near_y < 2):
            values = self._average(rows, columns, grid, source, overview)
        else:
            values, is_spoilt = self._read(window, shape, Resampling.average)
            if is_spoilt:
                values = self._average(rows, columns, grid, self.grid, None)
        return resample.nan_in_all_bands(values)

    def _averaged_for(self, grid: Grid) -> tuple[int | None, Grid]:
        """What GDAL averages for a coarser grid: the number and the grid of an overview, if any."""
        with self._open(keep=True) as dataset:
            levels = dataset.overviews(self.bands[0])
        factor = min(self.grid.height / grid.height, self.grid.width / grid.width)
        level, number = max(
            ((n, i) for i, n in enumerate(levels) if n <= factor), default=(1, None)
        )
        sides = (-(-side // level) for side in (self.grid.height, self.grid.width))
        return number, self.grid.resized(*sides)

    def _average(
        self, rows: slice, columns: slice, grid: Grid, source: Grid, overview: int | None
    ) -> Block:
        """What GDAL's average would be, from the pixels of the scene or of an overview."""

        def values(source_y: slice, source_x: slice) -> Block:
            window = Window.from_slices(source_y, source_x)
            shape = (len(self.bands), int(window.height), int(window.width))
            return self._read(window, shape, Resampling.nearest, overview)[0]

        factor_y, factor_x = source.height / grid.height, source.width / grid.width
        mean = resample.average_of(values, source, rows, columns, factor_y, factor_x)
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
        values, _ = interruptibly(read) if is_served(self.path) else read()
        return resample.nan_in_all_bands(values.astype("float32"))

    def stored(self, rows: slice, columns: slice) -> Block:
        """(band, y, x) of a window of the file's own pixels, a nodata value as it is stored.

        What a mask band hides is 255, or NaN.
        """
        window = Window.from_slices(rows, columns)
        # Closed at once: a mask may be replaced, and a file in the making is removed soon.
        # But of rows that can only be read from the top each opening would read those before.
        keep = self.path.lower().endswith(".png")
        with self._open(keep=keep) as dataset, self._naming(window):
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
            values = [dataset.nodatavals[band - 1] for band in self.bands]
            is_told = any(value is not None for value in values)
            has_mask = flags != {MaskFlags.all_valid}
            mask = ("alpha" if MaskFlags.alpha in flags else "mask") if has_mask else None
            return {
                "bands": dataset.count,
                "block": list(self.block),
                "nodata": (values[0] if len(set(map(str, values))) == 1 else values)
                if is_told
                else mask,
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
        self,
        window: Window,
        shape: tuple[int, ...],
        resampling: Resampling,
        overview: int | None = None,
    ) -> tuple[Block, bool]:
        """Values, NaN where a band is nodata; whether what GDAL does not know for it spoils means.

        NaN or infinity beside a nodata value: they spoil every mean that they are part of.
        """
        how = {"window": window, "out_shape": shape, "resampling": resampling}
        opened = self._open(keep=True, overview=overview)
        with timed("read"), opened as dataset, self._naming(window):
            return self._values(dataset, how)

    @contextmanager
    def _open(self, *, keep: bool, overview: int | None = None) -> Iterator[rasterio.DatasetReader]:
        """The dataset, or one of its overviews; `keep` leaves it open in this thread."""
        with rasterio.Env(**GDAL_OPTIONS):
            try:
                version = self.version + self.opened
                dataset = (
                    kept_open(self.path, self.name, version, overview)
                    if keep
                    else rasterio.open(self.name)
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
            if is_served(self.path):
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
