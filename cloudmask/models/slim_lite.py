"""The slim U-Net and `lite`: the mean of what they say.

One looks at pixels, the other at squares of them, so they are seldom wrong of the same ones.
"""

from functools import partial

import keras

from cloudmask.models import lite, unet_slim
from cloudmask.models.unet import of_rgb


def slim_lite() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    return of_rgb("slim_lite", unet_slim.probability, partial(lite.probability, of="lite_"))
