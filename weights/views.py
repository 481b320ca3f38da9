"""Other views of an image that a network may be asked of, and committees of networks.

`pool.py` and `robustness.py` take NAME, NAME:doubled or NAME:mirrored, or several of them with
commas between, whose mean it is then.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from cloudmask.chunks import Block
from cloudmask.registry import CloudModel, load_model

Say = Callable[[CloudModel, Block], Block]
"""What a model says (n, y, x) of pixels (n, y, x, 3)."""


def as_is(say: Say, model: CloudModel, pixels: Block) -> Block:
    """Of the pixels themselves."""
    return say(model, pixels)


def doubled(say: Say, model: CloudModel, pixels: Block) -> Block:
    """Of the pixels enlarged twice, bilinearly; the mean of four each."""
    import keras

    n, y, x, _ = pixels.shape
    larger = keras.ops.image.resize(np.nan_to_num(pixels), (2 * y, 2 * x))
    said = say(model, keras.ops.convert_to_numpy(larger))
    is_nodata = np.isnan(pixels).any(axis=-1)
    return np.where(is_nodata, np.nan, said.reshape(n, y, 2, x, 2).mean(axis=(2, 4)))


def mirrored(say: Say, model: CloudModel, pixels: Block) -> Block:
    """The mean of upside down, left to right, and y and x changed."""
    upside_down = say(model, pixels[:, ::-1])[:, ::-1]
    left_to_right = say(model, pixels[:, :, ::-1])[:, :, ::-1]
    transposed = say(model, pixels.swapaxes(1, 2)).swapaxes(1, 2)
    return (upside_down + left_to_right + transposed) / 3


VIEWS: dict[str, Any] = {"": as_is, "doubled": doubled, "mirrored": mirrored}


def committee(named: str, say: Say = CloudModel.__call__) -> Callable[[Block], Block]:
    """What is meant by `named`: pixels (n, y, x, 3) → probabilities (n, y, x).

    Raises
    ------
    SystemExit
        No such view, in one line.
    """
    members = []
    for member in named.split(","):
        name, _, view = member.partition(":")
        if view not in VIEWS:
            raise SystemExit(f"there is no view {view}: give {name}, {name}:doubled or :mirrored")
        members.append(partial(VIEWS[view], say, load_model(name)))
    return lambda pixels: np.mean([member(pixels) for member in members], axis=0)
