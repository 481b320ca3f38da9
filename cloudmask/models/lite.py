"""A narrow U-Net on half of the grid, made for the CPU: most of a U-Net's work is at full size.

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597; the way in and out without loss of
resolution: sub-pixel convolution, Shi et al. 2016, https://arxiv.org/abs/1609.05158. Its levels are
those of the U-Net with VGG16's encoder, a channel for every fourth or so: `weights/slim.py` fits it
to a trained one.
"""

import keras
from keras import layers, ops

from cloudmask.models.unet import of_rgb

STEM = 2
"""Side of the square of pixels that `lite` sees as one."""
WIDTHS = (24, 64, 96, 128, 128)
"""Channels on the grid of squares, on a half of it, … on a sixteenth."""
UP_WIDTHS = (64, 48, 32, 16)
"""Channels on the way back, on an eighth, … on the whole grid of squares."""
PIXEL_WIDTH = 32
"""Channels, also there, of which the pixels of a square are made."""


@keras.saving.register_keras_serializable("cloudmask")
class _DepthToSpace(layers.Layer):  # type: ignore[misc]  # keras is untyped
    """(n, y, x, 4) → (n, 2 y, 2 x, 1)."""

    size = (STEM, STEM)

    def call(self, x):
        n, y, x_, _ = ops.shape(x)
        x = ops.reshape(x, (n, y, x_, STEM, STEM))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4)), (n, y * STEM, x_ * STEM, 1))


def _conv(x, filters: int, name: str, *, side: int = 3, strides: int = 1):
    x = layers.Conv2D(
        filters, side, strides=strides, padding="same", use_bias=False,
        kernel_initializer="he_normal", name=name,
    )(x)  # fmt: skip
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_act")(x)


def probability(x, *, stem: int = STEM, side: int = 3 * STEM, of: str = ""):
    """All of the network but its input.

    Parameters
    ----------
    x : (n, y, x, 3) tensor
        RGB from -1 to 1; y and x multiples of 16 squares.
    stem : {2, 1}
        Pixels along a side of what the network sees as one.
    side : int
        Of the first convolution, in pixels.
    of : str
        What the names of the layers begin with, where there are others.

    Returns
    -------
    (n, y, x, 1) float32 tensor
    """
    x = _conv(x, WIDTHS[0], f"{of}stem", side=side, strides=stem)

    skips = [x]
    for level, filters in enumerate(WIDTHS, start=1):
        if level > 1:
            skips.append(x)
            x = layers.MaxPooling2D(2, name=f"{of}level{level}_pool")(x)
        for i in range(1, (2 if level == len(WIDTHS) else 3) + 1):
            x = _conv(x, filters, f"{of}level{level}_conv{i}")

    for level, filters in zip((4, 3, 2, 1), UP_WIDTHS, strict=True):
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"{of}up{level}")(x)
        x = layers.Concatenate(name=f"{of}up{level}_concat")([x, skips.pop()])
        for i in range(1, (1 if level == 1 else 2) + 1):
            x = _conv(x, filters, f"{of}up{level}_conv{i}")

    x = layers.Concatenate(name=f"{of}pixels_concat")([x, skips.pop()])
    x = _conv(x, PIXEL_WIDTH, f"{of}pixels_conv1")
    # In 16 bits, too, where the network is: to float32 all that it convolves would be copied.
    x = layers.Conv2D(stem * stem, 3, padding="same", name=f"{of}clouds")(x)
    if stem == STEM:
        x = _DepthToSpace(dtype="float32", name=f"{of}pixels")(x)
    return layers.Activation("sigmoid", dtype="float32", name=f"{of}probability")(x)


def lite() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    return of_rgb("lite", probability)
