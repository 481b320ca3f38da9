"""What a mask is: a probability, cut; its attributes."""

import math
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.core import Array

from cloudmask.checks import real, shown
from cloudmask.chunks import Block
from cloudmask.constants import BLOCK, CLEAR, CLOUD, FLAG_MEANINGS, NODATA
from cloudmask.grid import check_array
from cloudmask.origin import as_made, is_as_made

_ROUNDED = 1e-3
"""By so much sums of weights and interpolation may leave 0 to 1, and no other unit does."""

THRESHOLD_TAG = "CLOUDMASK_THRESHOLD"
"""The tag in which a file of cloudmask's names the threshold of its model, or of its mask."""


def threshold(probability: xr.DataArray, value: float) -> xr.DataArray:
    """Cut a probability into a mask.

    Parameters
    ----------
    probability : DataArray
        float: 0 to 1, NaN or what it declares where nodata.
    value : float
        0 to 1; at or above it a pixel is cloud.

    Returns
    -------
    DataArray
        uint8: 0 clear, 1 cloud, 255 nodata, which no attribute declares
        (``mask.rio.write_nodata(255)`` does); lazy where `probability` is.

    Raises
    ------
    ValueError
        `value` is outside 0 to 1, or `probability` no float: a mask has been cut already.
    """
    value = check_threshold(value)
    check_array(probability)
    if probability.dtype.kind != "f":
        raise ValueError(
            f"the array is {probability.dtype}: a mask has been cut already, pass a probability "
            "(float)"
        )
    is_known = is_as_made(probability)
    probability = nan_where_declared(probability)
    if isinstance(probability.data, Array):  # one task a chunk, where operators make several
        data = probability.data.map_blocks(_cut, value, dtype="uint8")
    else:
        data = _cut(probability.data, value)
    mask = probability.copy(data=data)
    mask.encoding = {k: v for k, v in probability.encoding.items() if k == "grid_mapping"}
    mask.attrs = mask_attributes(probability.attrs, value)
    mask = mask.rename("mask")
    return as_made(mask) if is_known else mask


def _cut(probability: Block, value: float) -> Block:
    mask = np.where(probability >= value, np.uint8(CLOUD), np.uint8(CLEAR))
    mask[np.isnan(probability)] = NODATA
    return mask


def in_chunks(array: xr.DataArray, side: int = 4 * BLOCK) -> xr.DataArray:
    """An array without chunks in chunks: of rioxarray's all would be read at the first operation.

    Dimensions other than band, y and x are cut into single pixels.
    """
    if array.chunks is not None:
        return array
    lengths = {"band": -1, "y": side, "x": side}
    return array.chunk({dim: lengths.get(str(dim), 1) for dim in array.dims})


def nan_where_declared(array: xr.DataArray) -> xr.DataArray:
    """Pixels with NaN where they are what the array declares as nodata, in rioxarray's way."""
    try:
        declared = array.rio.nodata
    except (OverflowError, ValueError):
        return array  # it is of another type, which the array had before: it hides nothing
    except TypeError:
        told = array.attrs.get("_FillValue", array.attrs.get("nodata"))
        raise ValueError(
            f"the array declares {shown(told)} as nodata: give one number (rio.write_nodata)"
        ) from None
    if declared is None or math.isnan(declared):
        return array
    masked = array.astype("float32").where(array != declared)
    masked.attrs = {k: v for k, v in array.attrs.items() if k != "_FillValue"}
    masked.encoding = {k: v for k, v in array.encoding.items() if k == "grid_mapping"}
    return masked


def mask_or_probability(array: xr.DataArray) -> xr.DataArray:
    """A mask in uint8 or a probability with NaN where nodata, however it was read.

    xarray and rioxarray read a mask with a nodata value as float with NaN, unless they are told
    otherwise, and a probability of another program declares a value of its own.

    Raises
    ------
    ValueError
        It is neither.
    """
    check_array(array)
    if 0 in array.shape:
        raise ValueError(f"the array has no pixel, {dict(array.sizes)}: select some")
    array = in_chunks(array)
    if array.dtype.kind == "f":
        array = nan_where_declared(array)
        if "flag_values" in array.attrs:
            classes = da.asarray(array.data).map_blocks(_as_classes, dtype="uint8")
            array = array.copy(data=classes)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(
            f"the array is {array.dtype}: a mask is uint8 (0 clear, 1 cloud, 255 nodata), a "
            "probability float32"
        )
    return array


def _as_classes(block: Block) -> Block:
    """A mask that was read as floats, with NaN for nodata, as bytes."""
    classes = np.where(np.isnan(block), NODATA, block).astype("uint8")
    if (others := block[(classes != block) & ~np.isnan(block)]).size:
        raise ValueError(
            f"the array holds {others[0]:g} and calls itself a mask, as what is made of one does: "
            "take its flag_values away (del array.attrs['flag_values'])"
        )
    return classes


def check_values(block: Block) -> None:
    """Refuse a chunk that is of no mask (uint8) and of no probability, with a ValueError."""
    if block.dtype == np.uint8:
        wrong = block + np.uint8(1) > CLOUD + 1  # 255 and 1 are 0
        kind = "a mask is 0 clear, 1 cloud, 255 nodata"
    else:
        wrong = (block < -_ROUNDED) | (block > 1 + _ROUNDED)  # not where it is NaN
        kind = "a probability is from 0 to 1"
    if wrong.any():
        raise ValueError(f"the array holds {block[wrong].flat[0]:g}: {kind}")


def threshold_of(attributes: Mapping[Any, Any]) -> float | None:
    """The threshold that a mask or a probability names as its own, if it is one.

    rioxarray has tags of a GeoTIFF among the attributes, by their names, and some as text.
    """
    told = attributes.get("threshold", attributes.get(THRESHOLD_TAG))
    try:
        return check_threshold(float(told))
    except (TypeError, ValueError):  # none, or others' that is no number
        return None


def check_threshold(value: float) -> float:
    """The threshold, as a float; a ValueError where it is none from 0 to 1."""
    number = real("threshold", value)
    if not 0 <= number <= 1:
        raise ValueError(f"threshold is {value}: give a probability from 0 to 1")
    return number


def mask_attributes(attributes: dict[str, Any], value: float) -> dict[str, Any]:
    """CF attributes of a mask that was cut at `value` from an array with `attributes`."""
    return {
        **{k: v for k, v in attributes.items() if k not in ("units", "_FillValue")},
        "long_name": "cloud mask",
        "threshold": value,
        "flag_values": list(FLAG_MEANINGS),
        "flag_meanings": " ".join(FLAG_MEANINGS.values()),
    }
