"""A network cut into stages, each of which knows what rows of its input a strip of output takes.

A stage is compiled once for each way in which its rows meet an edge.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Rows = tuple[int, int]
"""First row, and the one after the last."""

_POINTWISE = (
    layers.Activation,
    layers.Add,
    layers.Concatenate,
    layers.Normalization,
    layers.Rescaling,
)


@dataclass(frozen=True)
class Step:
    """An operation: what it does to a strip, and which rows of its input that takes."""

    run: Callable[..., Any]
    """Inputs, then rows of zeros above and below, to the rows that can be made of them."""
    kernel: int = 1
    """Rows of the input that a row of the output sees."""
    stride: int = 1
    before: int = 0
    """How many of the rows that an output row sees lie above its own."""
    grows: int = 1
    """Rows of the output for each row of the input."""

    @property
    def looks_around(self) -> bool:
        """Whether rows of the output share rows of the input."""
        return self.kernel > self.stride

    def needs(self, rows: Rows) -> Rows:
        """Rows of the input for `rows` of the output; they may lie beyond its edges."""
        first = rows[0] // self.grows * self.stride - self.before
        return first, (-(-rows[1] // self.grows) - 1) * self.stride - self.before + self.kernel

    def height(self, height: int) -> int:
        """Height of the output, from that of the input."""
        return height * self.grows // self.stride


@dataclass
class Stage:
    """Steps of which each feeds the next and nothing else."""

    inputs: list[int]
    """Tensors; several where the first step joins them."""
    steps: list[Step] = field(default_factory=list)
    output: int = 0
    """Tensor."""
    compiled: dict[tuple[Rows, ...], Any] = field(default_factory=dict)
    """By edges; it goes with the network."""

    def height(self, height: int) -> int:
        """Height of the output, from that of the inputs."""
        for step in self.steps:
            height = step.height(height)
        return height

    def last(self, stop: int) -> int:
        """How many rows of the inputs the output's rows before `stop` need; may be beyond them."""
        for step in reversed(self.steps):
            _, stop = step.needs((stop - 1, stop))
        return stop

    def plan(self, rows: Rows, height: int) -> tuple[Rows, tuple[Rows, ...]]:
        """For `rows` of the output, those of inputs of `height`, and the edges of each step.

        A step's edges are rows above and below: of zeros to add to its input, beyond the input's
        own; or, if negative, of its output to cut.
        """
        heights = [height]
        for step in self.steps[:-1]:
            heights.append(step.height(heights[-1]))
        edges: list[Rows] = []
        for step, above in zip(reversed(self.steps), reversed(heights), strict=True):
            first, last = step.needs(rows)
            inside = max(first, 0), min(last, above)
            if step.grows > 1:
                edges.append((inside[0] * step.grows - rows[0], rows[1] - inside[1] * step.grows))
            else:
                edges.append((inside[0] - first, last - inside[1]))
            rows = inside
        return rows, tuple(reversed(edges))

    def run(self, inputs: list[Any], edges: tuple[Rows, ...]) -> Any:
        """Make rows of the output; compiled once for each way of padding."""
        if edges not in self.compiled:
            specs = [tf.TensorSpec((None, None, x.shape[-1]), x.dtype) for x in inputs]
            function = tf.function(
                partial(self._steps, edges), input_signature=specs, autograph=False
            )
            self.compiled[edges] = function.get_concrete_function()
        return self.compiled[edges](*inputs)

    def _steps(self, edges: tuple[Rows, ...], *inputs: Any) -> Any:
        values = tuple(rows[tf.newaxis] for rows in inputs)
        for step, edge in zip(self.steps, edges, strict=True):
            values = (step.run(*values, edge),)
        return tf.squeeze(values[0], axis=0)


def cut(network: keras.Model) -> list[Stage]:
    """Cut a network where a tensor goes to several operations, or several to one.

    And before a convolution whose rows would make those of another one twice.

    Raises
    ------
    TypeError
        It has an operation of which it is not known which rows it needs.
    """
    operations = [op for op in network.operations if not isinstance(op, layers.InputLayer)]
    users: dict[int, list[Any]] = {}
    for op in operations:
        for tensor in _listed(op.input):
            users.setdefault(id(tensor), []).append(op)
    stages: list[Stage] = []
    folded: set[Any] = set()
    for op in operations:
        if op in folded:
            continue
        output, norm = op.output, None
        if isinstance(op, layers.Conv2D):
            after = users.get(id(output), [])
            if len(after) == 1 and isinstance(after[0], layers.BatchNormalization):
                norm = after[0]
                folded.add(norm)
                output = norm.output
        step = _step(op, norm)
        inputs = [id(tensor) for tensor in _listed(op.input)]
        follows = stages and [stages[-1].output] == inputs and len(users[inputs[0]]) == 1
        if not follows or (step.looks_around and any(s.looks_around for s in stages[-1].steps)):
            stages.append(Stage(inputs))
        stages[-1].steps.append(step)
        stages[-1].output = id(output)
    return stages


def _step(op: Any, norm: Any) -> Step:
    if isinstance(op, layers.Conv2D):
        return _convolution(op, norm)
    op = _alone(op)
    if isinstance(op, layers.MaxPooling2D):
        size = op.pool_size[0]
        return Step(lambda x, _: op(x), kernel=size, stride=size)
    if isinstance(op, _POINTWISE) or type(op).__name__ == "Flip":  # keras.ops names no classes
        return Step(lambda *args: op(args[0] if len(args) == 2 else list(args[:-1])))
    if hasattr(op, "size"):  # of an upsampling
        is_nearest = isinstance(op, layers.UpSampling2D) and op.interpolation == "nearest"

        def grow(x: Any, edge: Rows) -> Any:
            made = _enlarge(x, op.size) if is_nearest else op(x)
            return made[:, -edge[0] : tf.shape(made)[1] + edge[1]] if any(edge) else made

        return Step(grow, grows=op.size[0])
    raise TypeError(f"{op.name} is a {type(op).__name__}: it is not known which rows it needs")


def _alone(op: Any) -> Any:
    """An operation like this one, which knows all of the network around it and would keep it."""
    copy = type(op).from_config(op.get_config())
    if isinstance(copy, layers.Layer):
        shapes = [tensor.shape for tensor in _listed(op.input)]
        copy.build(shapes if len(shapes) > 1 else shapes[0])
    return copy


def _enlarge(x: Any, size: tuple[int, int]) -> Any:
    """Repeat pixels, in a quarter of the time of Keras, which repeats rows and then columns."""
    return tf.raw_ops.ResizeNearestNeighbor(images=x, size=tf.shape(x)[1:3] * size)


def folded(op: layers.Conv2D, norm: layers.BatchNormalization | None) -> tuple[Any, Any]:
    """Kernel (y, x, in, out) and bias of a convolution, the normalisation behind it in both."""
    kernel = op.kernel.numpy().astype("float32")
    bias = op.bias.numpy() if op.use_bias else np.zeros(kernel.shape[-1], "float32")
    if norm is not None:
        scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        kernel = kernel * scale
        bias = (bias - norm.moving_mean.numpy()) * scale + norm.beta.numpy()
    return kernel, bias


def _convolution(op: layers.Conv2D, norm: layers.BatchNormalization | None) -> Step:
    """A convolution, with the batch normalisation behind it in its weights."""
    kernel, bias = folded(op, norm)
    kernel, bias = (tf.constant(values, op.compute_dtype) for values in (kernel, bias))
    side, stride = op.kernel_size[0], op.strides[0]
    padding = max(side - stride, 0)  # "same", of sizes that are multiples of the stride
    columns = [padding // 2, padding - padding // 2]
    activation = op.activation

    def run(x: Any, edge: Rows) -> Any:
        pads = [[0, 0], list(edge), columns, [0, 0]]
        return activation(
            tf.nn.bias_add(tf.nn.conv2d(tf.cast(x, kernel.dtype), kernel, stride, pads), bias)
        )

    return Step(run, kernel=side, stride=stride, before=padding // 2)


def _listed(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]
