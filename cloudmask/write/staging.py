"""Chunks from any scheduler into one uncompressed GeoTIFF, and proof that they arrived."""

import threading
import zlib
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import rasterio
import xarray as xr
from rasterio.windows import Window

from cloudmask.chunks import Block
from cloudmask.constants import BLOCK, CLEAR, CLOUD, FLAG_MEANINGS, GDAL_CACHE, NODATA
from cloudmask.grid import grid_of
from cloudmask.mask import check_values
from cloudmask.readers.files import control_of
from cloudmask.stopwatch import timed
from cloudmask.write.output import PROVENANCE, writing
from cloudmask.write.stream import Scheduler, stream

COLOURS = {CLEAR: (0, 0, 0, 255), CLOUD: (255, 255, 255, 255), NODATA: (0, 0, 0, 0)}
"""Colour table of a mask, RGBA: clear black, cloud white, nodata transparent."""

Sum = tuple[slice, slice, int]
"""Rows, columns, and the CRC-32 of the pixels there."""


def stage_raster(
    array: xr.DataArray, path: Path, final: Path, *, scheduler: Scheduler | None = None
) -> list[Sum]:
    """Stream the chunks into an uncompressed GeoTIFF, to become `final`; the checksum of each."""
    is_mask = array.dtype == np.uint8
    grid = grid_of(array)
    profile = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": 1,
        "dtype": array.dtype,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": NODATA if is_mask else np.nan,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "bigtiff": "IF_SAFER",
        # Blocks are written once, in any order, by chunks that need not lie on them.
        "sparse_ok": True,
    }
    if "scene_source" in array.attrs:
        profile |= control_of(array.attrs["scene_source"], grid)
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), rasterio.open(path, "w", **profile) as dataset:
        dataset.update_tags(**tags_of(array.attrs))
        if is_mask:
            dataset.write_colormap(1, COLOURS)
            dataset.update_tags(
                1,
                flag_values=" ".join(map(str, FLAG_MEANINGS)),
                flag_meanings=" ".join(FLAG_MEANINGS.values()),
            )
        target = _Windows(dataset, final)
        try:
            stream(da.asarray(array.data), target.take, str(final), scheduler=scheduler)
        finally:
            target.close()
    return target.sums


class _Windows:
    """One dataset, to which one window is written at a time."""

    def __init__(self, dataset: rasterio.io.DatasetWriter, final: Path) -> None:
        self.dataset = dataset
        self.final = final
        self.is_closed = False
        self.sums: list[Sum] = []
        self.lock = threading.Lock()

    def take(self, window: tuple[slice, ...], block: Block) -> None:
        """Write a chunk."""
        rows, columns = window
        check_values(block)
        with self.lock, timed("write"), writing(self.final):
            if self.is_closed:
                raise OSError(f"{self.final} is given up: another of its chunks failed")
            self.dataset.write(block, 1, window=Window.from_slices(rows, columns))
            self.sums.append((rows, columns, checksum(block)))

    def close(self) -> None:
        """Take no more: after a failure dask's threads finish the chunks that they have begun."""
        with self.lock:
            self.is_closed = True


def verify(path: Path, sums: list[Sum], bands: int | tuple[int, ...] = 1) -> None:
    """Read a written file back and compare: GDAL reports a full disk late or not at all."""
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), rasterio.open(path) as dataset:
        # In order: of a PNG each step back would be read from its top again.
        for rows, columns, expected in sorted(sums, key=lambda one: (one[0].start, one[1].start)):
            block = dataset.read(bands, window=Window.from_slices(rows, columns))
            if checksum(block) != expected:
                raise OSError(
                    f"rows {rows.start}–{rows.stop}, columns {columns.start}–{columns.stop} of "
                    f"{path.name} read back differently: the disk is full or failing"
                )


def checksum(block: Block) -> int:
    """CRC-32 of the pixels."""
    return zlib.crc32(np.ascontiguousarray(block).data)


def tags_of(attributes: dict[str, Any]) -> dict[str, str]:
    """Tags of a file that tell what made it, as far as the attributes of an array do."""
    return {
        f"CLOUDMASK_{key.removeprefix('cloudmask_').upper()}": str(attributes[key])
        for key in (*PROVENANCE, "threshold")
        if key in attributes
    }
