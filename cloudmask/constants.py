"""Values that every module agrees on."""

from pathlib import Path
from typing import cast

CLEAR, CLOUD, NODATA = 0, 1, 255
"""Values of a mask and of a label (where 255 also means: not to be scored)."""

FLAG_MEANINGS = {CLEAR: "clear", CLOUD: "cloud", NODATA: "nodata"}
"""CF ``flag_meanings``, and the category names of a mask file."""

CHUNK, FLOAT_CHUNK = 3840, 3456
"""Default chunk height and width, pixels of the grid that the network sees, of scenes in uint8 and
in float32, where pixels take four times the memory: a halo of 224 pixels costs 25 or 28 %
more."""

LONGEST_CHUNK = 5120
"""That of scenes in uint8 which two of these cover: the fewer chunks, the more a longer one saves.
In larger scenes it would save a twentieth of the time, and memory would grow with the scene."""

BLOCK = 512
"""Tile height and width inside a COG (https://cogeo.org's and GDAL's default)."""

GDAL_CACHE = 128 * 2**20
"""Bytes of decoded blocks that GDAL keeps, per process; by default it would take 5 % of memory."""


def is_zarr(path: str | Path) -> bool:
    """Whether a path or URL names a Zarr store: by its ending, in any case."""
    return str(path).rstrip("/").lower().endswith(".zarr")


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL, such as s3://bucket/mask.zarr."""
    return "://" in str(path)


def locate(path: str | Path) -> Path:
    """A path, or for a URL what has the methods of one."""
    from upath import UPath  # takes a tenth of a second

    return cast("Path", UPath(path)) if is_remote(path) else Path(path)
