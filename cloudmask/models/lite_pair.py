"""Two narrow U-Nets, one on half of the grid and one on all of it: the mean of what they say.

Each is `lite`; the second sees half as far and what is half as large, so what one takes for cloud
by its size the other often does not.
"""

from functools import partial

import keras

from cloudmask.models.lite import probability
from cloudmask.models.unet import of_rgb

SIDE = 5
"""Of the first convolution of the second: as far as `lite`'s sees of an image enlarged twice."""


def lite_pair() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    half = partial(probability, of="half_")
    return of_rgb("lite_pair", half, partial(probability, stem=1, side=SIDE, of="whole_"))
