"""What a mask is: a probability, cut; its attributes."""

import math
from typing import Any

import numpy as np
import xarray as xr

from cloudmask.constants import CLOUD, FLAG_MEANINGS, NODATA


def threshold(probability: xr.DataArray, value: float) -> xr.DataArray:
    """Cut a probability into a mask.

    Parameters
    ----------
    probability : DataArray
        0 to 1, NaN where nodata.
    value : float
        0 to 1; at or above it a pixel is cloud.

    Returns
    -------
    DataArray
        uint8: 0 clear, 1 cloud, 255 nodata; lazy where `probability` is.

    Raises
    ------
    ValueError
        `value` is outside 0 to 1.
    """
    check_threshold(value)
    mask = (probability >= value).astype("uint8") * np.uint8(CLOUD)
    mask = mask.where(probability.notnull(), np.uint8(NODATA))
    mask.encoding = {k: v for k, v in probability.encoding.items() if k == "grid_mapping"}
    mask.attrs = mask_attributes(probability.attrs, value)
    return mask.rename("mask")


def check_threshold(value: float) -> None:
    """Refuse a threshold outside 0 to 1 with a ValueError."""
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"threshold is {value}: give a probability from 0 to 1")


def mask_attributes(attributes: dict[str, Any], value: float) -> dict[str, Any]:
    """CF attributes of a mask that was cut at `value` from an array with `attributes`."""
    return {
        **{k: v for k, v in attributes.items() if k != "units"},
        "long_name": "cloud mask",
        "threshold": value,
        "flag_values": list(FLAG_MEANINGS),
        "flag_meanings": " ".join(FLAG_MEANINGS.values()),
    }
