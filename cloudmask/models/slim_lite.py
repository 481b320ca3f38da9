"""The slim U-Net and `lite`: the mean of what they say.

One looks at pixels, the other at squares of them, so they are seldom wrong of the same ones. A mean
of networks: Hansen & Salamon 1990, https://doi.org/10.1109/34.58871.
"""

import keras
from keras import layers

from cloudmask.models import lite, unet_slim
from cloudmask.models.unet import rescaled


def slim_lite() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    inputs = layers.Input((None, None, 3), name="input_layer")
    x = rescaled(inputs)
    both = [unet_slim.probability(x), lite.probability(x, of="lite_")]
    outputs = layers.Average(dtype="float32", name="mean")(both)
    return keras.Model(inputs, outputs, name="slim_lite")
