"""U-Net with a VGG16 encoder: 23.8 M weights, 52 GFLOP per 256 × 256 pixels.

Encoder: Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556. Layer names are those of the
weight files already in use.
"""

import keras
from keras import layers, ops

from cloudmask.models.unet import way_back

CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
"""ImageNet's mean, which VGG16 was trained to have subtracted (keras.applications.vgg16)."""


def _vgg_block(x, number: int, filters: int, convolutions: int):
    for i in range(1, convolutions + 1):
        name = f"block{number}_conv{i}"
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
    return x


def unet_vgg16() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 → (n, y, x, 1) float32 probabilities.
    """
    inputs = layers.Input((None, None, 3), name="input_layer")
    bgr = ops.flip(inputs, axis=-1)
    # One weightless layer, in float32 under any precision: 8 bits of bfloat16 would round the mean.
    x = layers.Normalization(mean=CAFFE_MEAN_BGR, variance=(1.0, 1.0, 1.0), dtype="float32")(bgr)

    skips = []
    for number, (filters, convolutions) in enumerate(
        [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1
    ):
        x = _vgg_block(x, number, filters, convolutions)
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"block{number}_pool")(x)
    outputs = way_back(x, skips, 512, [256, 128, 64, 32, 16], head=[32, 16])
    return keras.Model(inputs, outputs, name="unet_vgg16")
