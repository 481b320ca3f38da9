"""Write a mask or a probability to a file: on its exact grid, read back, atomic."""

from cloudmask.write.output import (
    PROVENANCE,
    check_ending,
    check_folder_of,
    check_output,
    full_disk,
    replacing,
    without_nan,
    write_json,
    write_text,
    writing,
)
from cloudmask.write.partial import check_store
from cloudmask.write.raster import write_cog, write_png
from cloudmask.write.staging import tags_of
from cloudmask.write.zarr import write_zarr

__all__ = [
    "PROVENANCE",
    "check_ending",
    "check_folder_of",
    "check_output",
    "check_store",
    "full_disk",
    "replacing",
    "tags_of",
    "without_nan",
    "write_cog",
    "write_json",
    "write_png",
    "write_text",
    "write_zarr",
    "writing",
]
