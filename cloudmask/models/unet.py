"""What the U-Nets and `lite` share.

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers


def of_rgb(name: str, *branches: Callable[[Any], Any]) -> keras.Model:
    """A network of RGB 0–255 that says what a branch says of it as -1 to 1, or several in the mean.

    The mean of networks: Hansen & Salamon 1990, https://doi.org/10.1109/34.58871.
    """
    inputs = layers.Input((None, None, 3), name="input_layer")
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="rescale")(inputs)
    said = [branch(x) for branch in branches]
    outputs = layers.Average(dtype="float32", name="mean")(said) if len(said) > 1 else said[0]
    return keras.Model(inputs, outputs, name=name)


def conv_unit(x: Any, filters: int, name: str) -> Any:
    """Convolution, batch normalisation, rectifier."""
    x = layers.Conv2D(
        filters, 3, padding="same", use_bias=False, kernel_initializer="he_uniform", name=name
    )(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_act")(x)


def way_back(x: Any, skips: list[Any], centre: int, widths: list[int], head: list[int]) -> Any:
    """From the deepest level, and what each level holds, to the probability of each pixel.

    Parameters
    ----------
    x : (n, y, x, channel) tensor
        At half of the size of the last of `skips`.
    skips : list of tensors
        The largest first; each half as large as the one before.
    centre : int
        Channels at the deepest level.
    widths : list of int
        Channels of each level, from the deepest of `skips` to the first.
    head : list of int
        Channels of the convolutions before the last, at full size.

    Returns
    -------
    (n, y, x, 1) float32 tensor
    """
    for i in (1, 2):
        x = conv_unit(x, centre, f"center_block1_conv{i}")
    for number, (filters, skip) in enumerate(zip(widths, reversed(skips), strict=True), start=1):
        name = f"decoder_block{number}"
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"{name}_up")(x)
        x = layers.Concatenate(name=f"{name}_concat")([x, skip])
        for i in (1, 2):
            x = conv_unit(x, filters, f"{name}_conv{i}")
    for i, filters in enumerate(head, start=1):
        x = conv_unit(x, filters, f"clouds_block1_conv{i}")
    return layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="clouds")(x)
