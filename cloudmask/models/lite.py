"""A small residual encoder–decoder, made for the CPU: dense convolutions on a quarter of the grid.

Blocks: He et al. 2015, https://arxiv.org/abs/1512.03385; the way in and out without loss of
resolution: sub-pixel convolution, Shi et al. 2016, https://arxiv.org/abs/1609.05158.
"""

import keras
from keras import layers, ops

STEM = 4
"""Side of the square of pixels that the network sees as one: 4 × 4 × 3 values, 48 channels."""
WIDTHS = (48, 96, 160, 224)
"""Channels at a quarter, an eighth, a sixteenth and a thirty-second of the grid."""


@keras.saving.register_keras_serializable("cloudmask")
class _DepthToSpace(layers.Layer):  # type: ignore[misc]  # keras is untyped
    """(n, y, x, 16) → (n, 4 y, 4 x, 1)."""

    size = (STEM, STEM)

    def call(self, x):
        n, y, x_, _ = ops.shape(x)
        x = ops.reshape(x, (n, y, x_, STEM, STEM))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4)), (n, y * STEM, x_ * STEM, 1))


def _conv(x, filters: int, name: str, *, side: int = 3, strides: int = 1, relu: bool = True):
    x = layers.Conv2D(
        filters, side, strides=strides, padding="same", use_bias=False,
        kernel_initializer="he_normal", name=name,
    )(x)  # fmt: skip
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_act")(x) if relu else x


def _residual(x, name: str):
    filters = x.shape[-1]
    y = _conv(x, filters, f"{name}_conv1")
    y = _conv(y, filters, f"{name}_conv2", relu=False)
    return layers.Activation("relu", name=f"{name}_act")(layers.Add(name=f"{name}_add")([x, y]))


def lite() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    inputs = layers.Input((None, None, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="rescale")(inputs)
    x = _conv(x, WIDTHS[0], "stem", side=STEM, strides=STEM)

    skips = []
    for level, (filters, blocks) in enumerate(zip(WIDTHS, (1, 2, 2, 1), strict=True), start=1):
        if level > 1:
            skips.append(x)
            x = _conv(x, filters, f"level{level}_down", strides=2)
        for i in range(1, blocks + 1):
            x = _residual(x, f"level{level}_block{i}")

    for level in (3, 2, 1):
        name = f"up{level}"
        x = _conv(x, WIDTHS[level - 1], f"{name}_narrow", side=1, relu=False)
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"{name}_up")(x)
        x = layers.Add(name=f"{name}_add")([x, skips.pop()])
        x = _residual(x, f"{name}_block")

    x = layers.Conv2D(STEM * STEM, 3, padding="same", dtype="float32", name="clouds")(x)
    x = _DepthToSpace(dtype="float32", name="pixels")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="lite")
