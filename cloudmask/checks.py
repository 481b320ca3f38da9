"""Numbers that a caller gave: what is none is told at once, and NumPy's become Python's."""

import numbers
import operator
from typing import Any, SupportsIndex, cast


def real(name: str, value: object) -> float:
    """A number as a float; a ValueError, with its `name`, for anything else."""
    if not isinstance(value, numbers.Real):
        raise ValueError(f"{name} is {value!r}: give a number")
    return float(value)


def whole(name: str, value: object, least: int | None = None) -> int:
    """A whole number as an int; a ValueError for anything else, or one below `least`."""
    try:
        number = operator.index(cast("SupportsIndex", value))
    except TypeError:
        raise ValueError(f"{name} is {value!r}: give a whole number") from None
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}: give at least {least}")
    return number


def settle(card: object, **values: Any) -> None:
    """Give a frozen dataclass, while it is made, the values as they were understood."""
    for name, value in values.items():
        object.__setattr__(card, name, value)
