"""A narrow U-Net on half of the grid, made for the CPU: most of a U-Net's work is at full size.

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597; the way in and out without loss of
resolution: sub-pixel convolution, Shi et al. 2016, https://arxiv.org/abs/1609.05158. Its levels are
those of the U-Net with VGG16's encoder, a channel for every fourth or so: `weights/slim.py` fits it
to a trained one.
"""

import keras
from keras import layers, ops

STEM = 2
"""Side of the square of pixels that the network sees as one."""
WIDTHS = (24, 64, 96, 128, 128)
"""Channels at a half, a quarter, … a thirty-second of the grid."""
UP_WIDTHS = (64, 48, 32, 16)
"""Channels on the way back, at a sixteenth, … a half of the grid."""
PIXEL_WIDTH = 32
"""Channels, also at a half, of which the four pixels of a square are made."""


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


def lite() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    inputs = layers.Input((None, None, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="rescale")(inputs)
    x = _conv(x, WIDTHS[0], "stem", side=3 * STEM, strides=STEM)

    skips = [x]
    for level, filters in enumerate(WIDTHS, start=1):
        if level > 1:
            skips.append(x)
            x = layers.MaxPooling2D(2, name=f"level{level}_pool")(x)
        for i in range(1, (2 if level == len(WIDTHS) else 3) + 1):
            x = _conv(x, filters, f"level{level}_conv{i}")

    for level, filters in zip((4, 3, 2, 1), UP_WIDTHS, strict=True):
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"up{level}")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips.pop()])
        for i in range(1, (1 if level == 1 else 2) + 1):
            x = _conv(x, filters, f"up{level}_conv{i}")

    x = layers.Concatenate(name="pixels_concat")([x, skips.pop()])
    x = _conv(x, PIXEL_WIDTH, "pixels_conv1")
    x = layers.Conv2D(STEM * STEM, 3, padding="same", dtype="float32", name="clouds")(x)
    x = _DepthToSpace(dtype="float32", name="pixels")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="lite")
