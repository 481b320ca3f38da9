"""Write a mask or a probability to a file: on its exact grid, read back, atomic."""

import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.windows import Window

from cloudmask.constants import BLOCK, CLEAR, CLOUD, FLAG_MEANINGS, GDAL_CACHE, NODATA
from cloudmask.grid import Grid, grid_of
from cloudmask.resample import enlarge
from cloudmask.scene import open_valid
from cloudmask.stopwatch import stage

COLOURS = {CLEAR: (0, 0, 0, 255), CLOUD: (255, 255, 255, 255), NODATA: (0, 0, 0, 0)}
"""Colour table of a mask, RGBA: clear black, cloud white, nodata transparent."""

_Sum = tuple[slice, slice, int]  # rows, columns, CRC-32 of the pixels there
_COMPRESSIONS = ("deflate", "zstd")


def write_cog(
    array: xr.DataArray,
    path: str | Path,
    *,
    like: xr.DataArray | str | Path | None = None,
    threshold: float | None = None,
    resampling: str = "bilinear",
    compress: str = "deflate",
    overwrite: bool = False,
) -> None:
    """Write a mask or a probability as a Cloud Optimized GeoTIFF.

    Parameters
    ----------
    array : (y, x) DataArray
        Mask (uint8) or probability (float32, NaN where nodata), lazy or not.
    path : str or Path
        The file to make, in an existing folder.
    like : DataArray, str or Path, optional
        The scene that `array` was made from (a path, `open_scene` or `open_valid`): the file is on
        its grid. A probability is enlarged and then cut, so that outlines are smooth.
    threshold : float, optional
        Where to cut a probability; the file holds the mask. With `like` the default is the model's,
        which `predict` left in the attributes; without either a probability is written as it is.
    resampling : {"bilinear", "nearest"}
        How `like` enlarges a probability; a mask is always enlarged by nearest.
    compress : {"deflate", "zstd"}
        Both lossless.
    overwrite : bool
        Replace an existing file, once the new one is complete.

    Raises
    ------
    FileExistsError, FileNotFoundError, ValueError, OSError
        Before anything is computed where that can be known. A failed run leaves nothing, and an
        existing file as it was.

    Notes
    -----
    Blocks of 512 px; nodata 255 (NaN for probabilities); overviews by mode (average); the mask's
    colour table, category names, and tags that tell model, sha256, threshold and version. Needs
    height × width bytes of disk beside `path` while it works (four times for probabilities), and
    memory for the chunks in flight only.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    if compress not in _COMPRESSIONS:
        raise ValueError(f"compress is {compress!r}: choose {' or '.join(_COMPRESSIONS)}")
    array = _as_file(array, like, threshold, resampling)
    with _replacing(path) as work:
        staged = work / "staged.tif"
        sums = _stage(array, staged)
        is_mask = array.dtype == np.uint8
        with _finishing(path):
            rasterio.shutil.copy(
                staged,
                work / path.name,
                driver="COG",
                compress=compress,
                predictor="NO" if is_mask else "YES",
                blocksize=BLOCK,
                overview_resampling="MODE" if is_mask else "AVERAGE",
                num_threads="ALL_CPUS",
                bigtiff="IF_SAFER",
            )
        staged.unlink()
        _verify(work / path.name, sums)
        if is_mask:
            _write_category_names(work / path.name)


def write_png(array: xr.DataArray, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a mask as a picture with a palette: clear black, cloud white, nodata transparent.

    Parameters and errors as for `write_cog`; `array` must be a mask.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    if array.dtype != np.uint8:
        raise ValueError(f"a picture shows a mask, not {array.dtype}: cut it with threshold first")
    with _replacing(path) as work:
        staged = work / "staged.tif"
        sums = _stage(array, staged)
        with _finishing(path, GDAL_PAM_ENABLED=False):
            rasterio.shutil.copy(staged, work / path.name, driver="PNG")
        staged.unlink()
        _verify(work / path.name, sums)


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
    name = "mask" if array.dtype == np.uint8 else "probability"
    grid = grid_of(array)
    array = _uniform_chunks(array)
    nodata = np.uint8(NODATA) if name == "mask" else np.float32(np.nan)
    dataset = array.rename(name).to_dataset(promote_attrs=False)
    dataset.attrs = _geozarr_attributes(grid)
    encoding: dict[str, Any] = {
        "chunks": tuple(lengths[0] for lengths in array.data.chunks),
        "_FillValue": nodata,
    }
    with _replacing(path) as work:
        dataset.to_zarr(
            work / path.name, zarr_format=3, consolidated=False, encoding={name: encoding}
        )


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that cannot become the output, before any work.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError, FileExistsError, IsADirectoryError
    """
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(f"the folder {folder} does not exist: make it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {folder} is not writable")
    if path.is_dir() and path.suffix != ".zarr":
        raise IsADirectoryError(f"{path} is a directory: name a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite to replace it")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A folder beside `path` in which to make files; on success they move into place."""
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield work
        # Sidecars first: the file itself appears last, complete.
        for made in sorted(work.iterdir(), key=lambda file: file.name == path.name):
            _move(made, path.parent / made.name, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _finishing(path: Path, **options: Any) -> Iterator[None]:
    """GDAL's settings and errors while a driver makes the final file."""
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE, **options), stage("write"):
        try:
            yield
        except (CPLE_BaseError, rasterio.errors.RasterioError) as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def _move(made: Path, final: Path, work: Path) -> None:
    if made.is_dir() and final.exists():  # a folder replaces no other folder in one step
        final.rename(work / f"{final.name}.old")
    made.replace(final)


def _as_file(
    array: xr.DataArray,
    like: xr.DataArray | str | Path | None,
    threshold: float | None,
    resampling: str,
) -> xr.DataArray:
    """The array as it will be stored: on the scene's grid, cut, attributes to match."""
    if array.dims != ("y", "x"):
        raise ValueError(
            f"the array has dimensions {', '.join(map(str, array.dims))}: a COG holds one (y, x) "
            "array, select it first"
        )
    is_mask = array.dtype == np.uint8
    if not is_mask:
        array = array.astype("float32")
    if like is None and threshold is None:
        return array
    if not is_mask and threshold is None:
        threshold = array.attrs.get("threshold")
        if threshold is None:
            raise ValueError("the probability names no threshold: pass one, such as threshold=0.5")
    if like is None:
        like = array
    elif not isinstance(like, xr.DataArray):
        like = open_valid(like)
    return enlarge(array, like, threshold=threshold, resampling=resampling)


def _stage(array: xr.DataArray, path: Path) -> list[_Sum]:
    """Stream the chunks into an uncompressed GeoTIFF; the checksum of each."""
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
        target = _Windows(dataset)
        _store(da.asarray(array.data), target)
    return target.sums


class _Windows:
    """What `dask.array.store` writes to: one dataset, one window at a time."""

    def __init__(self, dataset: rasterio.io.DatasetWriter) -> None:
        self.dataset = dataset
        self.sums: list[_Sum] = []
        self.lock = threading.Lock()

    def __setitem__(self, index: tuple[slice, slice], block: NDArray[Any]) -> None:
        rows, columns = index
        block = np.ascontiguousarray(block)
        with self.lock, stage("write"):
            self.dataset.write(block, 1, window=Window.from_slices(rows, columns))
            self.sums.append((rows, columns, zlib.crc32(block.data)))

    def __dask_tokenize__(self) -> tuple[str, int]:
        return ("cloudmask-windows", id(self))


def _store(array: da.Array, target: _Windows) -> None:
    """Compute every chunk once and hand it to `target`, in this process on any scheduler."""
    client = _active_client()
    if client is None:
        da.store(array, target, lock=False)
        return
    from distributed import as_completed

    bounds = [np.concatenate([[0], np.cumsum(lengths)]).tolist() for lengths in array.chunks]
    (delayed,) = dask.optimize(array)
    futures = {}
    for (i, j), block in np.ndenumerate(delayed.to_delayed(optimize_graph=False)):
        window = (
            slice(bounds[0][i], bounds[0][i + 1]),
            slice(bounds[1][j], bounds[1][j + 1]),
        )
        futures[client.compute(block)] = window
    for future, block in as_completed(list(futures), with_results=True):
        target[futures.pop(future)] = block
        future.release()


def _active_client() -> Any:
    """The distributed client that dask would compute on, if any."""
    try:
        from distributed import default_client

        client = default_client()
    except (ImportError, ValueError):
        return None
    return client if dask.config.get("scheduler", None) in (None, "dask.distributed") else None


def _verify(path: Path, sums: list[_Sum]) -> None:
    """Read a written file back and compare: GDAL reports a full disk late or not at all."""
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), rasterio.open(path) as dataset:
        for rows, columns, expected in sums:
            block = dataset.read(1, window=Window.from_slices(rows, columns))
            if zlib.crc32(np.ascontiguousarray(block).data) != expected:
                raise OSError(
                    f"rows {rows.start}–{rows.stop}, columns {columns.start}–{columns.stop} of "
                    f"{path.name} read back differently: the disk is full or failing"
                )


def _tags(attributes: dict[str, Any]) -> dict[str, str]:
    keys = ("model", "model_sha256", "threshold", "cloudmask_version")
    return {
        f"CLOUDMASK_{key.removeprefix('cloudmask_').upper()}": str(attributes[key])
        for key in keys
        if key in attributes
    }


def _write_category_names(path: Path) -> None:
    """GDAL keeps category names of a GeoTIFF beside it (PAM)."""
    # A category's place in the list is its value; nodata, at 255, has a tag of its own.
    names = "".join(f"<Category>{FLAG_MEANINGS[value]}</Category>" for value in (CLEAR, CLOUD))
    path.with_name(f"{path.name}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1">'
        f"<CategoryNames>{names}</CategoryNames></PAMRasterBand></PAMDataset>\n"
    )


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
    }
    if grid.crs is not None:
        code = grid.crs.to_authority()
        attributes |= {"proj:code": ":".join(code)} if code else {"proj:wkt2": grid.crs.to_wkt()}
    return attributes
