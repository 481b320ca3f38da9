"""Parts of patches, some enlarged: as of a scene that is sampled finer than it was taken."""

from typing import Any

import numpy as np
from PIL import Image

Array = Any
ENLARGED = 0.25
"""Share of the parts that are smaller than what is made of them."""


def part(rng: np.random.Generator, whole: int, side: int) -> tuple[int, int, int]:
    """A patch's first row and column, and its side, in a larger square; some are to be enlarged."""
    seen = side if rng.random() >= ENLARGED else round(side / rng.uniform(1.2, 3))
    y, x = rng.integers(whole - seen + 1, size=2)
    return int(y), int(x), seen


def places(seen: int, side: int) -> Array:
    """Of `seen` pixels those that `side` lie nearest to."""
    return (2 * np.arange(side) + 1) * seen // (2 * side)


def enlarged(image: Array, side: int) -> Array:
    """(y, x, 3) uint8 resampled to (side, side, 3)."""
    if side == len(image):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
