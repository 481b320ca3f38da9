"""Whether attributes tell all of what an array was made from, or something was made of it since."""

import xarray as xr

_MADE_AS = "made_as"
"""Key in an array's encoding: dask's name of it; whatever is made of it has another."""


def as_made(array: xr.DataArray) -> xr.DataArray:
    """Note that the attributes of a lazy array tell all that it depends on."""
    array.encoding[_MADE_AS] = array.data.name
    return array


def is_as_made(array: xr.DataArray) -> bool:
    """Whether it is an array of which `as_made` noted that, and nothing was made of it since."""
    # Of what is not in chunks `data` would be read.
    return array.chunks is not None and array.encoding.get(_MADE_AS) == array.data.name
