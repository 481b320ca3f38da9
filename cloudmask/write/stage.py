"""Chunks from any scheduler into one uncompressed GeoTIFF, and proof that they arrived."""

import threading
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import rasterio
import xarray as xr
from dask.array.core import Array
from rasterio.windows import Window

from cloudmask.chunks import Block
from cloudmask.constants import BLOCK, CLEAR, CLOUD, FLAG_MEANINGS, GDAL_CACHE, NODATA
from cloudmask.grid import grid_of
from cloudmask.stopwatch import stage
from cloudmask.write.output import writing

COLOURS = {CLEAR: (0, 0, 0, 255), CLOUD: (255, 255, 255, 255), NODATA: (0, 0, 0, 0)}
"""Colour table of a mask, RGBA: clear black, cloud white, nodata transparent."""

_RETRIES = 2
"""Times that a cluster tries a failed chunk again: a read over the network may fail once."""

Sum = tuple[slice, slice, int]
"""Rows, columns, and the CRC-32 of the pixels there."""


def stage_raster(array: xr.DataArray, path: Path, final: Path) -> list[Sum]:
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
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), rasterio.open(path, "w", **profile) as dataset:
        dataset.update_tags(**_tags(array.attrs))
        if is_mask:
            dataset.write_colormap(1, COLOURS)
            dataset.update_tags(
                1,
                flag_values=" ".join(map(str, FLAG_MEANINGS)),
                flag_meanings=" ".join(FLAG_MEANINGS.values()),
            )
        target = _Windows(dataset, final)
        try:
            _store(da.asarray(array.data), target)
        finally:
            target.close()
    return target.sums


class _Windows:
    """What `dask.array.store` writes to: one dataset, one window at a time."""

    def __init__(self, dataset: rasterio.io.DatasetWriter, final: Path) -> None:
        self.dataset = dataset
        self.final = final
        self.is_closed = False
        self.sums: list[Sum] = []
        self.lock = threading.Lock()

    def __setitem__(self, index: tuple[slice, slice], block: Block) -> None:
        rows, columns = index
        with self.lock, stage("write"), writing(self.final):
            if self.is_closed:
                raise OSError(f"{self.final} is given up: another of its chunks failed")
            self.dataset.write(block, 1, window=Window.from_slices(rows, columns))
            self.sums.append((rows, columns, checksum(block)))

    def close(self) -> None:
        """Take no more: after a failure dask's threads finish the chunks that they have begun."""
        with self.lock:
            self.is_closed = True

    def __dask_tokenize__(self) -> tuple[str, int]:
        return ("cloudmask-windows", id(self))


def _store(array: Array, target: _Windows) -> None:
    """Compute every chunk once and hand it to `target`, in this process on any scheduler."""
    client = _active_client()
    scheduler = dask.config.get("scheduler", None)
    if client is None and scheduler not in ("processes", "multiprocessing"):
        da.store(array, target, lock=False)
        return
    bounds = [np.concatenate([[0], np.cumsum(lengths)]).tolist() for lengths in array.chunks]
    (optimized,) = dask.optimize(array)
    rows = [
        [
            ((slice(*bounds[0][i : i + 2]), slice(*bounds[1][j : j + 2])), block)
            for j, block in enumerate(blocks)
        ]
        for i, blocks in enumerate(optimized.to_delayed(optimize_graph=False))
    ]
    if client is None:  # the open file cannot cross to other processes: a row at a time comes back
        for row in rows:
            windows, blocks = zip(*row, strict=True)
            for window, block in zip(windows, dask.compute(*blocks), strict=True):
                target[window] = block
        return
    _stream(client, rows, target)


def _stream(
    client: Any, rows: list[list[tuple[tuple[slice, slice], Any]]], target: _Windows
) -> None:
    """Bring chunks back from a cluster, two rows in flight: neighbours share what they read.

    More would pile up results, and what was read for them, faster than one writer takes them.
    """
    from distributed import as_completed

    waiting, windows, running = iter(rows), {}, as_completed()

    def submit() -> None:
        for row in islice(waiting, 1):
            futures = client.compute([block for _, block in row], retries=_RETRIES)
            windows.update({f: window for f, (window, _) in zip(futures, row, strict=True)})
            running.update(futures)

    submit()
    submit()
    for future in running:
        window = windows.pop(future)
        try:
            block = future.result()
        except Exception as error:  # whatever a worker raised, or that it died
            client.cancel(list(windows))
            raise OSError(_failure(target.final, window, error)) from error
        target[window] = block
        future.release()
        if len(windows) <= len(rows[0]):
            submit()


def _failure(final: Path, window: tuple[slice, slice], error: Exception) -> str:
    rows, columns = window
    cause = str(error).strip().split("\n")[0] or type(error).__name__
    return (
        f"rows {rows.start}–{rows.stop}, columns {columns.start}–{columns.stop} of {final} failed "
        f"{_RETRIES + 1} times: {cause}"
    )


def _active_client() -> Any:
    """The distributed client that dask would compute on, if any."""
    try:
        from distributed import default_client

        client = default_client()
    except (ImportError, ValueError):
        return None
    return client if dask.config.get("scheduler", None) in (None, "dask.distributed") else None


def verify(path: Path, sums: list[Sum], bands: int | tuple[int, ...] = 1) -> None:
    """Read a written file back and compare: GDAL reports a full disk late or not at all."""
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), rasterio.open(path) as dataset:
        for rows, columns, expected in sums:
            block = dataset.read(bands, window=Window.from_slices(rows, columns))
            if checksum(block) != expected:
                raise OSError(
                    f"rows {rows.start}–{rows.stop}, columns {columns.start}–{columns.stop} of "
                    f"{path.name} read back differently: the disk is full or failing"
                )


def checksum(block: Block) -> int:
    """CRC-32 of the pixels."""
    return zlib.crc32(np.ascontiguousarray(block).data)


def _tags(attributes: dict[str, Any]) -> dict[str, str]:
    keys = ("model", "model_sha256", "threshold", "cloudmask_version")
    return {
        f"CLOUDMASK_{key.removeprefix('cloudmask_').upper()}": str(attributes[key])
        for key in keys
        if key in attributes
    }
