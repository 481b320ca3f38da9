"""Two narrow U-Nets, one on half of the grid and one on all of it: the mean of what they say.

Each is `lite`; the second sees half as far and what is half as large, so what one takes for cloud
by its size the other often does not. A mean of networks: Hansen & Salamon 1990,
https://doi.org/10.1109/34.58871.
"""

import keras
from keras import layers

from cloudmask.models.lite import probability
from cloudmask.models.unet import rescaled

SIDE = 5
"""Of the first convolution of the second: as far as `lite`'s sees of an image enlarged twice."""


def lite_pair() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    inputs = layers.Input((None, None, 3), name="input_layer")
    x = rescaled(inputs)
    pair = [probability(x, of="half_"), probability(x, stem=1, side=SIDE, of="whole_")]
    outputs = layers.Average(dtype="float32", name="mean")(pair)
    return keras.Model(inputs, outputs, name="lite_pair")
