"""What GDAL knows of a scene beside its pixels: its files, and what ties it to the ground."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rasterio

from cloudmask.constants import GDAL_CACHE
from cloudmask.grid import Grid
from cloudmask.paths import is_local, is_remote, is_zarr, without_scheme

_SINGLE = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp")
"""What others are made of GDAL knows: a VRT, Maxar's TIL or a DIMAP names its tiles."""
_REMOTE = ("curl", "s3", "gs", "az", "adls", "oss", "swift")

# GDAL's defaults suit one process with one thread: here each dask thread has its own handle, so
# that GDAL's own threads and a cache of 5 % of the memory would only get in the way. A server that
# hangs is given up after three times a minute. What the user's environment sets holds.
GDAL_OPTIONS: dict[str, Any] = {
    option: value
    for option, value in {
        "GDAL_NUM_THREADS": "1",
        "GDAL_CACHEMAX": GDAL_CACHE,
        # The way round this, which GDAL 3.10 takes for a whole PNG, loses errors of damaged ones.
        "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
        "GDAL_HTTP_TIMEOUT": "60",
        "GDAL_HTTP_MAX_RETRY": "2",
        "GDAL_HTTP_RETRY_DELAY": "1",
        # What is behind a URL may be replaced: GDAL forgets it with the handle, not the process.
        "CPL_VSIL_CURL_NON_CACHED": ":".join(f"/vsi{kind}/" for kind in _REMOTE),
    }.items()
    if option not in os.environ
}


def is_served(path: str) -> bool:
    """Whether its bytes come from a server: of a URL, or of a path of GDAL such as /vsis3/."""
    return is_remote(path) or any(f"/vsi{kind}/" in path for kind in _REMOTE)


def files_of(path: str) -> list[str]:
    """The file, those beside it that say where it lies and is valid, and what it is made of."""
    path = without_scheme(path)
    if _is_single(path):
        return [path, *_beside(Path(path))]
    if is_zarr(path) or _is_elsewhere(path):
        return [path, *_archive_of(path)]
    if Path(path).is_fifo():  # to open it would wait for who writes to it
        return [path]
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as dataset:
            return parts_of(dataset, path)
    except rasterio.errors.RasterioIOError:  # who reads it will say so
        return [path]


def control_of(scene: str, grid: Grid) -> dict[str, Any]:
    """Ground control points and RPCs, by which scenes know their place, as rasterio.open takes.

    On a coarser grid of the scene's bounds control points lie where they were, RPCs are left out.
    A scene with a CRS has no need of points, but may be projected by its RPCs once more: Maxar's
    "ortho-ready" scenes lie on a plane of one height until they are.
    Empty for a grid of other bounds, for a Zarr store, and for what is no longer there.
    """
    scene = without_scheme(scene)
    if is_zarr(scene):
        return {}
    with rasterio.Env(**GDAL_OPTIONS), ExitStack() as opened:
        try:
            dataset = opened.enter_context(rasterio.open(scene))
        except rasterio.errors.RasterioIOError:
            return {}
        native = Grid(dataset.height, dataset.width, dataset.transform, dataset.crs)
        if not native.same_bounds(grid):
            return {}
        down, across = grid.height / native.height, grid.width / native.width
        points, crs = dataset.gcps if grid.crs is None else ([], None)
        for point in points:
            point.row, point.col = point.row * down, point.col * across
        control: dict[str, Any] = {}
        if dataset.rpcs and down == across == 1:
            control["rpcs"] = dataset.rpcs
        return control | ({"gcps": points, "crs": crs, "transform": None} if points else {})


def _is_elsewhere(path: str) -> bool:
    """Whether none of its files is on this machine; GDAL's vrt://FILE?… looks like a URL."""
    return not is_local(path) and not path.startswith("vrt://")


def parts_of(dataset: rasterio.DatasetReader, path: str) -> list[str]:
    """The files of an open dataset that `path` names."""
    # A URL has no version: to ask for its files would only ask the server for each that may be.
    if _is_elsewhere(path):
        return [path, *_archive_of(path)]
    if _is_single(path):
        return [path, *_beside(Path(path))]
    files = [file for file in dataset.files if not file.endswith(".aux.xml")] or [path]
    inner = [file for file in files if file != path and file.lower().endswith(".vrt")]
    return [*files, *(part for file in inner for part in files_of(file))]


def _is_single(path: str) -> bool:
    """Whether it is a file of a kind that has all of its pixels, known without opening it."""
    return path.lower().endswith(_SINGLE) and Path(path).is_file()


def _beside(file: Path) -> list[str]:
    """Files of a raster's name that hold its mask, overviews or place (GDAL's and ESRI's names)."""
    end = file.suffix.lower()
    ends = {".msk", ".ovr"}, {".wld", ".hdr", ".tab", f"{end}w", f"{end[:2]}{end[-1:]}w"}
    names = [file.name + one for one in ends[0]] + [file.stem + one for one in ends[1]]
    return [str(other) for name in sorted(names) if (other := file.with_name(name)).is_file()]


def _archive_of(path: str) -> list[str]:
    """The file of this machine that holds what GDAL reads from within it: /vsizip/FILE/PART."""
    for kind in ("/vsizip/", "/vsitar/", "/vsigzip/"):
        if path.startswith(kind):
            within = Path(path.removeprefix(kind))
            return [str(part) for part in (within, *within.parents) if part.is_file()]
    return []
