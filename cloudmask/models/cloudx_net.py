"""CloudX-Net: 19.5 M weights, 23 GFLOP per 256 × 256 pixels (Kanu et al. 2020).

Its pyramid pools over the whole tile, so the tile of 256 × 256 is part of the model. Layer names
are those of the weight files already in use: a class name and the order of creation within it.
"""

from collections import Counter

import keras
from keras import layers


class _Namer:
    """Makes layers named as Keras 2 named them: ``conv2d``, ``conv2d_1`` … per class."""

    def __init__(self) -> None:
        self._made: Counter[str] = Counter()

    def __call__(self, layer_class, *args, **kwargs):
        kind = {
            layers.Conv2D: "conv2d",
            layers.Conv2DTranspose: "conv2d_transpose",
            layers.SeparableConv2D: "separable_conv2d",
            layers.DepthwiseConv2D: "depthwise_conv2d",
            layers.BatchNormalization: "batch_normalization",
        }[layer_class]
        name = f"{kind}_{self._made[kind]}" if self._made[kind] else kind
        self._made[kind] += 1
        return layer_class(*args, name=name, **kwargs)

    def relu_bn(self, x):
        return layers.ReLU()(self(layers.BatchNormalization)(x))

    def separable(self, x, filters: int, size: int, *, use_bias: bool = True):
        """Separable convolution, batch normalisation, ReLU."""
        return self.relu_bn(
            self(layers.SeparableConv2D, filters, size, padding="same", use_bias=use_bias)(x)
        )

    def dilated(self, x, filters: int, rate: int):
        """One dilated branch of the pyramid."""
        x = self(layers.DepthwiseConv2D, 3, padding="same", dilation_rate=rate, use_bias=False)(x)
        return self.separable(self.relu_bn(x), filters, 1, use_bias=False)


def _arm(make: _Namer, x, filters: int, dropout: float = 0.0):
    main = make.separable(x, filters, 3)
    main = make(layers.SeparableConv2D, filters, 3, padding="same")(main)
    if dropout:
        main = layers.Dropout(dropout)(main)
    main = make.relu_bn(main)
    side = make.separable(x, filters // 2, 1)
    return layers.ReLU()(main + layers.Concatenate()([x, side]))


def _deepest_arm(make: _Namer, x, filters: int):
    a = make.separable(x, filters, 3)
    b = make.separable(a, filters, 3)
    c = make.separable(b, filters, 3)
    side = make.separable(x, filters // 2, 1)
    d = make.separable(b, filters, 1)
    return layers.ReLU()(c + layers.Concatenate()([x, side]) + d)


def _pyramid(make: _Namer, x, filters: int):
    """Atrous spatial pyramid pooling (Chen et al. 2017), its pool over the whole input."""
    branches = [make.separable(x, filters, 1, use_bias=False)]
    branches += [make.dilated(x, filters, rate) for rate in (6, 12, 18)]
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    pooled = make.separable(pooled, filters, 1, use_bias=False)
    # Bilinear upsampling of one pixel is that pixel everywhere.
    pooled = pooled + keras.ops.zeros_like(branches[0])
    return layers.Concatenate()([pooled, *branches])


def _skip(encoder: list[keras.KerasTensor], level: int):
    """The encoder's output at `level` plus every shallower one, pooled and repeated to fit."""
    total = encoder[level]
    for shallower in range(level):
        x = layers.MaxPooling2D(2 ** (level - shallower))(encoder[shallower])
        for _ in range(level - shallower):
            x = layers.Concatenate()([x, x])
        total = total + x
    return layers.ReLU()(total)


def cloudx_net() -> keras.Model:
    """Build the network.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255, y and x multiples of 32 (trained at 256) → (n, y, x, 1)
        float32 probabilities.
    """
    make = _Namer()
    inputs = layers.Input((None, None, 3), name="input_layer")
    x = layers.Rescaling(1 / 255, dtype="float32")(inputs)
    x = make(layers.Conv2D, 16, 3, padding="same", activation="relu")(x)

    encoder = []
    for filters in (32, 64, 128, 256):
        encoder.append(_arm(make, x, filters))
        x = layers.MaxPooling2D(2)(encoder[-1])
    encoder.append(_deepest_arm(make, x, 512))
    x = layers.MaxPooling2D(2)(encoder[-1])

    x = _arm(make, x, 1024, dropout=0.15)
    x = _pyramid(make, x, 256)

    for level in (4, 3, 2, 1, 0):
        filters = 32 * 2**level
        up = make(layers.Conv2DTranspose, filters, 2, strides=2)(x)
        skip = _skip(encoder, level) if level else encoder[0]
        x = layers.Concatenate()([up, skip])
        for _ in range(3 if level == 4 else 2):
            x = make.relu_bn(make(layers.Conv2D, filters, 3, padding="same")(x))
        x = layers.ReLU()(x + encoder[level] + up)

    outputs = make(layers.Conv2D, 1, 1, activation="sigmoid", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="cloudx_net")
