"""Numbers that a caller gave: what is none is told at once, and NumPy's become Python's."""

import numbers
import operator
from typing import Any, Protocol, SupportsIndex, cast, runtime_checkable


@runtime_checkable
class _Array(Protocol):
    """An array of NumPy's, dask's or xarray's."""

    ndim: int

    def item(self) -> object:
        """Of an array without dimensions, its value."""


def real(name: str, value: object) -> float:
    """A number as a float; a ValueError, with its `name`, for anything else."""
    number = value.item() if isinstance(value, _Array) and value.ndim == 0 else value
    if not isinstance(number, numbers.Real):
        raise ValueError(f"{name} is {shown(value)}: give a number")
    return float(number)


def whole(name: str, value: object, least: int | None = None) -> int:
    """A whole number as an int; a ValueError for anything else, or one below `least`."""
    try:
        number = operator.index(cast("SupportsIndex", value))
    except TypeError:
        raise ValueError(f"{name} is {shown(value)}: give a whole number") from None
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}: give at least {least}")
    return number


def shown(value: object) -> str:
    """A value in a message: of an array no more than its first line."""
    return repr(value).split("\n")[0]


def path_of(path: object) -> str:
    """A path or URL as text; a ValueError for an array, a Dataset or nothing."""
    is_data = hasattr(path, "shape") or hasattr(path, "dims")  # of paths there are many kinds
    if path is None or (is_data and not isinstance(path, str)):
        raise ValueError(f"{shown(path)} is opened as a file: give a path or a URL")
    return str(path)


def settle(card: object, **values: Any) -> None:
    """Give a frozen dataclass, while it is made, the values as they were understood."""
    for name, value in values.items():
        object.__setattr__(card, name, value)
