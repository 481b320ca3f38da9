"""A narrower U-Net on all of the grid, which says its pixels on half of it: on trial."""

import keras
from keras import layers

from cloudmask.models.lite import _conv, _DepthToSpace, rescaled

WIDTHS = (16, 48, 64, 96, 96)
UP_WIDTHS = (48, 32, 32)


def lite_whole() -> keras.Model:
    """Build the network."""
    inputs = layers.Input((None, None, 3))
    x = _conv(rescaled(inputs), WIDTHS[0], "stem", side=5)
    skips = []
    for level, filters in enumerate(WIDTHS, start=1):
        if level > 1:
            skips.append(x)
            x = layers.MaxPooling2D(2, name=f"level{level}_pool")(x)
        for i in (1, 2):
            x = _conv(x, filters, f"level{level}_conv{i}")
    for level, filters in zip((4, 3, 2), UP_WIDTHS, strict=True):
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"up{level}")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level - 1]])
        for i in (1, 2):
            x = _conv(x, filters, f"up{level}_conv{i}")
    x = layers.Conv2D(4, 3, padding="same", name="clouds")(x)
    x = _DepthToSpace(dtype="float32", name="pixels")(x)
    x = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, x, name="lite_whole")
