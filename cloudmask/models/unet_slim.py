"""The U-Net with VGG16's encoder, a channel for every third or so: 1.7 M weights.

Layer after layer it is that U-Net, so that `weights/slim.py` can fit it to a trained one.
"""

from typing import Any

import keras
from keras import layers

from cloudmask.models.unet import conv_unit, of_rgb, way_back


def probability(x: Any) -> Any:
    """All of the network but its input.

    Parameters
    ----------
    x : (n, y, x, 3) tensor
        RGB from -1 to 1; y and x multiples of 32.

    Returns
    -------
    (n, y, x, 1) float32 tensor
    """
    skips = []
    for number, (filters, convolutions) in enumerate(
        [(24, 2), (48, 2), (96, 3), (160, 3), (96, 3)], start=1
    ):
        for i in range(1, convolutions + 1):
            x = conv_unit(x, filters, f"block{number}_conv{i}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"block{number}_pool")(x)
    return way_back(x, skips, 96, [64, 48, 32, 24, 16], head=[16, 16])


def unet_slim() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    return of_rgb("unet_slim", probability)
