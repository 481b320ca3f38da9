"""Windows of pixels from GDAL and from Zarr: all that touches a file that is read."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from cloudmask.checks import real
from cloudmask.paths import is_local, is_remote, is_zarr, unsigned, without_scheme
from cloudmask.readers.header import open_raster
from cloudmask.readers.protocol import Reader, band_numbers, listed
from cloudmask.readers.zarr import open_zarr

__all__ = ["Reader", "open_reader"]


def open_reader(path: str, bands: Sequence[int], nodata: float | None) -> Reader:
    """Choose a reader by what `path` is, and refuse what cannot be read.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
    """
    bands = band_numbers(bands)
    if not bands or min(bands) < 1:
        raise ValueError(f"bands are {listed(bands)}: they count from 1")
    if nodata is not None:
        real("nodata", nodata)
    path = without_scheme(path)
    if not path:
        raise ValueError("the scene has no name: name a file, a store or a URL")
    is_dataset = re.match(r"[A-Za-z][A-Za-z0-9_]+:", path) is not None  # GDAL's name of a part
    if is_local(path) and (not is_dataset or Path(path).exists()):
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist")
        if Path(path).is_dir() and not is_zarr(path):
            raise IsADirectoryError(
                f"{path} is a directory: name a scene in it (gdalbuildvrt -separate joins files "
                "of one band each)"
            )
        if not (Path(path).is_file() or Path(path).is_dir()):
            raise ValueError(f"{path} is a pipe or a device: name a file, a store or a URL")
        path = str(Path(path).absolute())
    if is_remote(path) and is_zarr(path.partition("?")[0]) and "?" in path:
        raise ValueError(
            f"{unsigned(path)} has a query, but a Zarr store is many files: leave it out, and give "
            "credentials as fsspec takes them, or read a copy"
        )
    reader: Reader = (open_zarr if is_zarr(path) else open_raster)(path, bands, nodata)
    transform = reader.grid.transform
    if transform.is_degenerate or not all(map(math.isfinite, transform[:6])):
        raise ValueError(
            f"{path} has pixels without a size ({tuple(transform)[:6]}): give it a "
            "transform (gdal_edit.py -a_ullr)"
        )
    return reader
