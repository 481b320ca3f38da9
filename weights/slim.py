"""Make a smaller network of a trained U-Net: fewer channels, kernels fitted to say the same.

    python weights/slim.py RUN POOL --architecture unet_slim

POOL is of `pool.py`, and its teacher the U-Net. Each layer of the smaller network has one of the
U-Net's to follow: of its channels those are kept that tell most of what the next layers take from
it (pivoted Cholesky decomposition of their covariance), and layer after layer the kernels are
fitted by least squares to what the U-Net has there; where both are below zero, which the rectifier
hides, nothing is asked. RUN becomes a folder such as `cloudmask train` leaves; what `lite` lost
comes back with a thousand steps of `distil.py`.

After He, Zhang & Sun 2017, https://arxiv.org/abs/1707.06168, and Zhang et al. 2015,
https://arxiv.org/abs/1505.06798.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pool import FACTS
from runs import check_new, read_card, write_run

from cloudmask.augment import tint
from cloudmask.models.lite import STEM
from cloudmask.models.unet_vgg16 import CAFFE_MEAN_BGR
from cloudmask.network import build_network, start_tensorflow
from cloudmask.registry import load_model
from cloudmask.weightfile import read_weights

Array = Any
BATCH = 8
ROUNDS = 4
"""Of fitting: each asks nothing where the last one's result was hidden, too."""
PLACES = 20_000
"""Pixels that a layer is fitted to, at least; six for every unknown of it."""


def kernel_of(network: Any, name: str) -> tuple[Array, Array]:
    """A layer's kernel (y, x, in, out) and bias, batch normalisation in both."""
    from cloudmask.steps import folded

    layer = network.get_layer(name)
    return folded(layer, None if layer.use_bias else network.get_layer(f"{name}_bn"))


def set_weights(network: Any, name: str, kernel: Array, bias: Array, response: Array) -> None:
    """Set them, batch normalisation to the statistics of the kernel's `response` without bias."""
    layer = network.get_layer(name)
    if layer.use_bias:
        layer.set_weights([kernel, bias])
        return
    mean, variance = response.mean(axis=0), response.var(axis=0)
    layer.set_weights([kernel])
    norm = network.get_layer(f"{name}_bn")
    norm.set_weights([np.sqrt(variance + norm.epsilon), bias + mean, mean, variance])


def convolved(pixels: Array, kernel: Array, bias: Array, stride: int = 1) -> Array:
    """(n, y, x, in) → (n, y, x, out), a batch at a time."""
    import tensorflow as tf

    parts = [
        tf.nn.conv2d(pixels[i : i + BATCH], kernel, stride, "SAME").numpy() + bias
        for i in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(parts)


def pooled(pixels: Array) -> Array:
    """Largest of 2 × 2."""
    n, y, x, c = pixels.shape
    return pixels.reshape(n, y // 2, 2, x // 2, 2, c).max(axis=(2, 4))


def enlarged(pixels: Array) -> Array:
    """Each pixel 2 × 2 times."""
    return pixels.repeat(2, axis=1).repeat(2, axis=2)


def stacked(pixels: Array) -> Array:
    """(n, y, x, c) → (n, y / STEM, x / STEM, STEM · STEM · c), as `lite` sees them."""
    n, y, x, c = pixels.shape
    cells = pixels.reshape(n, y // STEM, STEM, x // STEM, STEM, c)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(n, y // STEM, x // STEM, -1)


@dataclass(frozen=True)
class Said:
    """What a layer of the U-Net says, and who takes it."""

    layer: str
    response: Array
    """(n, y, x, channel), before it is rectified."""
    deeper: Array
    """Sum of squares of what the next layer multiplies each channel with."""
    across: Array | int = 0
    """The same of the layer across the U, if there is one."""

    @property
    def importance(self) -> Array:
        """How much is taken of each channel."""
        return np.sqrt(self.deeper + self.across)

    def pooled(self) -> "Said":
        """For who takes it at half of the size."""
        return replace(self, response=pooled(self.response), across=0)

    def stacked(self) -> "Said":
        """For who takes squares of pixels as one."""
        taken = np.tile(self.deeper + self.across, STEM * STEM)
        return replace(self, response=stacked(self.response), deeper=taken, across=0)


def said_by(unet: Any, pixels: Array) -> Iterator[Said]:
    """What the layers of a U-Net say of patches (n, y, x, 3), in the order of its layers."""

    def weight(name: str, channels: slice = slice(None)) -> Array:
        kernel, _ = kernel_of(unet, name)
        return (kernel[:, :, channels] ** 2).sum(axis=(0, 1, 3))

    def respond(x: Array, name: str) -> Array:
        return convolved(x, *kernel_of(unet, name))

    def relu(x: Array) -> Array:
        return np.maximum(x, 0)

    skips = []
    x = pixels[..., ::-1] - np.array(CAFFE_MEAN_BGR, "float32")
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, convolutions + 1):
            name = f"block{block}_conv{i}"
            response = respond(x, name)
            x = relu(response)
            if i < convolutions:
                yield Said(name, response, weight(f"block{block}_conv{i + 1}"))
            else:
                after = f"block{block + 1}_conv1" if block < 5 else "center_block1_conv1"
                across = weight(f"decoder_block{6 - block}_conv1", slice(-x.shape[-1], None))
                yield Said(name, response, weight(after), across)
        skips.append(x)
        x = pooled(x)
    names = ["center_block1_conv1", "center_block1_conv2"]
    names += [f"decoder_block{block}_conv{i}" for block in (1, 2, 3, 4, 5) for i in (1, 2)]
    names += ["clouds_block1_conv1", "clouds_block1_conv2", "clouds"]
    for name, after in pairwise(names):
        if name.startswith("decoder") and name.endswith("conv1"):
            x = np.concatenate([enlarged(x), skips.pop()], axis=-1)
        response = respond(x, name)
        x = relu(response)
        yield Said(name, response, weight(after, slice(x.shape[-1])))
    response = respond(x, "clouds")
    yield Said("clouds", response, np.ones(response.shape[-1]))


LITE = (
    {"block1_conv1": "stem", "block1_conv2": "level1_conv1"}
    # The first of lite's levels holds one more than the block: the pooled one before it.
    | {f"block2_conv{i}": f"level1_conv{i + 1}" for i in (1, 2)}
    | {f"block{b}_conv{i}": f"level{b - 1}_conv{i}" for b in (3, 4, 5) for i in (1, 2, 3)}
    | {f"center_block1_conv{i}": f"level5_conv{i}" for i in (1, 2)}
    | {f"decoder_block{b}_conv{i}": f"up{5 - b}_conv{i}" for b in (1, 2, 3) for i in (1, 2)}
    | {"decoder_block4_conv2": "up1_conv1", "clouds_block1_conv2": "pixels_conv1"}
    | {"clouds": "clouds"}
)
"""Which layer of `lite` follows which of the U-Net's; the others nobody follows."""


def to_lite(unet: Any, pixels: Array) -> Iterator[Said]:
    """What the layers of `lite` are to say: it sees four pixels as one."""
    at_full_size = {"block1_conv1", "clouds_block1_conv2", "clouds"}
    for said in said_by(unet, pixels):
        if said.layer in LITE:
            own = replace(said, layer=LITE[said.layer])
            if said.layer == "block1_conv2":
                yield own.pooled()
            else:
                yield own.stacked() if said.layer in at_full_size else own


TAUGHT = {"unet_slim": said_by, "lite": to_lite}
"""What each of the smaller networks is to say, layer by layer."""


def chosen_channels(features: Array, importance: Array, count: int) -> Array:
    """Channels of (n, y, x, channel) that together tell most of the others."""
    rows = features.reshape(-1, features.shape[-1])
    rows = rows[:: max(len(rows) // 100_000, 1)].astype("float64") * importance
    left = np.atleast_2d(np.cov(rows, rowvar=False))
    chosen: list[int] = []
    for _ in range(count):
        pivot = int(np.argmax(np.diag(left)))
        chosen.append(pivot)
        left = left - np.outer(left[:, pivot], left[pivot]) / max(left[pivot, pivot], 1e-12)
        left[pivot] = left[:, pivot] = 0
        left[pivot, pivot] = -1  # never again
    return np.sort(chosen)


def neighbourhoods(pixels: Array, places: Array, side: int, stride: int) -> Array:
    """What a kernel sees at places (n, y, x) of its output: (place, side · side · channel)."""
    pad = side - stride
    around = (pad // 2, pad - pad // 2)
    padded = np.pad(pixels, [(0, 0), around, around, (0, 0)])
    n, y, x = places
    seen = [padded[n, y * stride + j, x * stride + i] for j in range(side) for i in range(side)]
    return np.concatenate(seen, axis=1)


def fitted(seen: Array, wanted: Array) -> tuple[Array, Array]:
    """Rows of a kernel and its bias: least squares of the rectified responses."""
    seen = np.concatenate([seen, np.ones((len(seen), 1), "float32")], axis=1)
    gram = (seen.T @ seen).astype("float64")
    gram[np.diag_indices(len(gram) - 1)] += 1e-4 * np.trace(gram) / len(gram)
    inverse = np.linalg.inv(gram)
    target = wanted
    for _ in range(ROUNDS):
        solved = (inverse @ (seen.T @ target)).astype("float32")
        response = seen @ solved
        target = np.where((wanted < 0) & (response < 0), response, wanted)
    full = np.maximum(wanted, 0)
    lost = ((np.maximum(response, 0) - full) ** 2).sum() / ((full - full.mean(0)) ** 2).sum()
    print(f"{len(seen):7,} places, {lost:.1%} of the variance lost", flush=True)
    return solved[:-1], solved[-1]


def fit(small: Any, taught: Iterable[Said], pixels: Array) -> None:
    """Fit every layer of a network on patches (n, y, x, 3)."""
    rng = np.random.default_rng(0)
    outputs: dict[str, Array] = {}

    def seen_by(tensor: Any) -> Array:
        """What a tensor of the network holds for the patches, as far as it is fitted."""
        op = tensor._keras_history.operation
        if op.name in outputs:
            return outputs[op.name]
        inputs = op.input if isinstance(op.input, list) else [op.input]
        if op.name == "rescale":
            return pixels / 127.5 - 1
        parts = [seen_by(part) for part in inputs]
        if "concat" in op.name:
            return np.concatenate(parts, axis=-1)
        return pooled(parts[0]) if "pool" in op.name else enlarged(parts[0])

    for said in taught:
        name, wanted = said.layer, said.response
        layer = small.get_layer(name)
        side, stride = layer.kernel_size[0], layer.strides[0]
        print(f"{name:20s} {wanted.shape[-1]:3d} → {layer.filters:3d} channels, ", end="")
        features = np.maximum(wanted, 0)
        kept = chosen_channels(features, said.importance, layer.filters)
        # One scale for all, for which the next layer makes up; that of the last is a logit's.
        scale = 1 if name == "clouds" else features[..., kept].std(axis=(0, 1, 2)).clip(1e-3)
        del features
        before = seen_by(layer.input)
        shape = wanted.shape[:3]
        unknown = side * side * before.shape[-1]
        count = min(max(6 * unknown, PLACES), int(np.prod(shape)))
        places = np.unravel_index(rng.choice(int(np.prod(shape)), count, replace=False), shape)
        rows = neighbourhoods(before, places, side, stride)
        flat, bias = fitted(rows, wanted[places][:, kept] / scale)
        kernel = flat.reshape(side, side, before.shape[-1], layer.filters)
        set_weights(small, name, kernel, bias, rows @ flat)
        outputs[f"{name}_act"] = np.maximum(convolved(before, kernel, bias, stride), 0)


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--architecture", choices=TAUGHT, required=True)
    parser.add_argument("--patches", type=int, default=96)
    args = parser.parse_args()
    check_new(args.run)
    teacher = json.loads((args.pool / FACTS).read_text())["teacher"]
    if "," in teacher or (model := load_model(teacher)).architecture != "unet_vgg16":
        parser.error(f"{args.pool} was asked of {teacher}: a U-Net (unet_vgg16) is made narrower")
    start_tensorflow()
    unet, small = (
        build_network(name, "float32") for name in (model.architecture, args.architecture)
    )
    read_weights(unet, Path(model.path))
    rng = np.random.default_rng(0)
    patches = np.load(args.pool / "pixels.npy", mmap_mode="r")[: args.patches]
    pixels = np.stack([tint(patch, rng) for patch in patches]).clip(0, 255).astype("float32")
    fit(small, TAUGHT[args.architecture](unet, pixels), pixels)
    apart = unet(pixels[:BATCH]).numpy() - small(pixels[:BATCH]).numpy()
    print(f"mean difference of probability {np.abs(apart).mean():.3f}")
    write_run(args.run, small, read_card(teacher), f"{teacher}, fitted with fewer channels")


if __name__ == "__main__":
    main()
