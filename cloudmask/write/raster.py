"""Write a mask or a probability as a COG, or a mask as a picture."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr
from dask.threaded import get as threads

from cloudmask.constants import BLOCK, CLEAR, CLOUD, FLAG_MEANINGS, GDAL_CACHE
from cloudmask.enlarging import check_resampling, enlarge
from cloudmask.grid import in_order
from cloudmask.mask import mask_or_probability, threshold_of
from cloudmask.mask import threshold as cut
from cloudmask.paths import destination, is_same
from cloudmask.planes import open_label, open_valid
from cloudmask.stopwatch import timed
from cloudmask.watch import watched_by
from cloudmask.write.output import check_ending, check_output, replacing, writing
from cloudmask.write.overviews import halved
from cloudmask.write.staging import stage_raster, verify

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
        Mask (uint8) or probability (float32, NaN or what it declares where nodata), lazy or not. A
        mask that xarray read as float, with NaN for 255, is a mask again.
    path : str or Path
        The file to make, in an existing folder.
    like : DataArray, str or Path, optional
        The scene that `array` was made from: the file is on its grid. A path is opened with the
        bands and the nodata that `open_scene` was told, which the attributes of `array` tell of
        that file, else with bands 1, 2, 3 (of a file of one: ``open_valid(path, bands=(1,))``). A
        probability is enlarged and then cut, so that outlines are smooth.
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
    colour table, category names, and tags that tell model, sha256, threshold and version; RPCs of
    a scene that `open_scene` opened, if its pixels are these, and ground control points, if it has
    no CRS. Needs height × width × 4/3 bytes of disk beside `path` while it works (× 4 for
    probabilities), and memory for the chunks in flight only.
    """
    check_ending(path, ".tif", ".tiff")
    path = destination(path)
    check_output(path, overwrite=overwrite)
    check_resampling(resampling)
    if compress not in _COMPRESSIONS:
        raise ValueError(f"compress is {compress!r}: choose {' or '.join(_COMPRESSIONS)}")
    array = _as_file(array, like, threshold, resampling)
    with replacing(path) as work:
        staged = work / "staged.tif"
        sums = stage_raster(array, staged, path)
        is_mask = array.dtype == np.uint8
        source = _with_overviews(staged, path) if is_mask else staged
        with _finishing(path):
            rasterio.shutil.copy(
                source,
                work / path.name,
                driver="COG",
                compress=compress,
                predictor="NO" if is_mask else "YES",
                blocksize=BLOCK,
                overview_resampling="MODE" if is_mask else "AVERAGE",
                num_threads="ALL_CPUS",
                bigtiff="IF_SAFER",
            )
            for file in work.glob("staged*"):
                file.unlink()
            verify(work / path.name, sums)
        if is_mask:
            _write_category_names(work / path.name)


def write_png(array: xr.DataArray, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a mask as a picture with a palette: clear black, cloud white, nodata transparent.

    `array`, `path`, `overwrite` and errors as for `write_cog`; `array` must be a mask.
    """
    check_ending(path, ".png")
    path = destination(path)
    check_output(path, overwrite=overwrite)
    array = _plane(array)
    if array.dtype != np.uint8:
        raise ValueError(f"a picture shows a mask, not {array.dtype}: cut it with threshold first")
    with replacing(path) as work:
        staged = work / "staged.tif"
        sums = stage_raster(array, staged, path)
        with _finishing(path, GDAL_PAM_ENABLED=False):
            rasterio.shutil.copy(staged, work / path.name, driver="PNG")
            staged.unlink()
            verify(work / path.name, sums)


def _plane(array: xr.DataArray) -> xr.DataArray:
    """The array in uint8 or with NaN; a ValueError where a file cannot hold it."""
    return mask_or_probability(in_order(array, "y", "x"))


def _as_file(
    array: xr.DataArray,
    like: xr.DataArray | str | Path | None,
    threshold: float | None,
    resampling: str,
) -> xr.DataArray:
    """The array as it will be stored: on the scene's grid, cut, attributes to match."""
    array = _plane(array)
    is_mask = array.dtype == np.uint8
    if not is_mask:
        array = array.astype("float32")
    if like is None:
        return array if threshold is None else cut(array, threshold)
    if not is_mask and threshold is None:
        threshold = threshold_of(array.attrs)
        if threshold is None:
            raise ValueError("the probability names no threshold: pass one, such as threshold=0.5")
    if not isinstance(like, xr.DataArray):
        like = open_valid(like, **_as_opened(array, str(like)))
    return enlarge(array, like, threshold=threshold, resampling=resampling)


def _as_opened(array: xr.DataArray, path: str) -> dict[str, Any]:
    """Bands and nodata that `open_scene` was told, if it was this file that it opened."""
    if not is_same(str(array.attrs.get("scene_source")), path):
        return {}
    noted = {name: array.attrs.get(f"scene_{name}") for name in ("bands", "nodata")}
    # A GeoTIFF keeps attributes as text.
    return {
        name: json.loads(value) if isinstance(value, str) else value
        for name, value in noted.items()
        if value is not None
    }


def _with_overviews(staged: Path, final: Path) -> Path:
    """A VRT of a staged mask that lends GDAL overviews by mode, in a tenth of GDAL's own time."""
    levels = [staged]
    vrt = staged.with_suffix(".vrt")
    # On threads of this process, whatever computes the mask: workers may not see the file.
    with watched_by(None), writing(final), _reading_back(staged.parent, final):
        while max((level := open_label(levels[-1], chunk=2 * BLOCK)).shape) > BLOCK:
            levels.append(staged.with_name(f"staged_{len(levels)}.tif"))
            stage_raster(halved(level), levels[-1], final, scheduler=threads)
        rasterio.shutil.copy(staged, vrt, driver="VRT")
    overviews = "".join(
        f'<Overview><SourceFilename relativeToVRT="1">{level.name}</SourceFilename>'
        "<SourceBand>1</SourceBand></Overview>"
        for level in levels[1:]
    )
    text = vrt.read_text()
    vrt.write_text(text.replace("</VRTRasterBand>", f"{overviews}</VRTRasterBand>"))
    return vrt


@contextmanager
def _reading_back(work: Path, final: Path) -> Iterator[None]:
    """Turn what a reader says of files in `work` into a line about `final`."""
    try:
        yield
    except OSError as error:
        if work.name not in str(error):
            raise
        raise OSError(
            f"{final} cannot be written, is the disk full? What was staged for it has holes"
        ) from error


@contextmanager
def _finishing(path: Path, **options: Any) -> Iterator[None]:
    """GDAL's settings and errors while a driver makes the final file."""
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE, **options), timed("write"), writing(path):
        yield


def _write_category_names(path: Path) -> None:
    """GDAL keeps category names of a GeoTIFF beside it (PAM), with what else does not fit in it."""
    notes = path.with_name(f"{path.name}.aux.xml")
    root = ElementTree.parse(notes).getroot() if notes.exists() else Element("PAMDataset")
    band = root.find("PAMRasterBand")
    names = SubElement(
        SubElement(root, "PAMRasterBand", band="1") if band is None else band, "CategoryNames"
    )
    # A category's place in the list is its value; nodata, at 255, has a tag of its own.
    for value in (CLEAR, CLOUD):
        SubElement(names, "Category").text = FLAG_MEANINGS[value]
    notes.write_bytes(ElementTree.tostring(root))
