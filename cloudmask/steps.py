"""A network's operations as steps over strips of rows, some of them made cheaper."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Rows = tuple[int, int]
"""First row, and the one after the last."""
Tensor = Hashable
"""Key of a network's tensor."""

_POINTWISE = (
    layers.Activation,
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


_MEAN = Step(lambda *parts: tf.add_n(parts[:-1]) / (len(parts) - 1))
"""Of several tensors."""


class Operation(NamedTuple):
    """A step, and the tensors between which it stands."""

    inputs: list[Tensor]
    step: Step
    output: Tensor


def operations(network: keras.Model) -> list[Operation]:
    """The steps of a network, in their order.

    A batch normalisation goes into the convolution before it. A convolution of joined tensors is
    the sum of one of each, and where one is doubled before it is joined, its own is made of it as
    it was (`_of_doubled`): what is joined or doubled is never made.

    Raises
    ------
    TypeError
        It has an operation of which it is not known which rows it needs.
    """
    graph = _Graph(network)
    made: list[Operation] = []
    for op in graph.operations:
        if isinstance(op, layers.Conv2D):
            made += _convolutions(op, graph)
        elif isinstance(op, layers.Average):
            made.append(Operation([id(tensor) for tensor in op.input], _MEAN, id(op.output)))
        elif not (graph.normalises(op) or graph.joins(op) or graph.doubles(op)):
            made.append(Operation([id(op.input)], _step(op), id(op.output)))
    return made


class _Graph:
    """Who makes a network's tensors, and who alone uses them."""

    def __init__(self, network: keras.Model):
        self.operations = [op for op in network.operations if not isinstance(op, layers.InputLayer)]
        self._makers = {id(op.output): op for op in self.operations}
        self._users: dict[int, list[Any]] = {}
        for op in self.operations:
            for tensor in _listed(op.input):
                self._users.setdefault(id(tensor), []).append(op)

    def maker(self, tensor: Any) -> Any:
        """The operation that makes a tensor, if any."""
        return self._makers.get(id(tensor))

    def user(self, tensor: Any) -> Any:
        """The operation that uses a tensor, if it is one."""
        users = self._users.get(id(tensor), [])
        return users[0] if len(users) == 1 else None

    def normalises(self, op: Any) -> bool:
        """Whether it is a batch normalisation that can go into the convolution before it."""
        if not isinstance(op, layers.BatchNormalization) or self.user(op.input) is not op:
            return False
        before = self.maker(op.input)
        return isinstance(before, layers.Conv2D) and before.activation is keras.activations.linear

    def joins(self, op: Any) -> bool:
        """Whether it joins channels for a convolution alone."""
        if not isinstance(op, layers.Concatenate) or op.axis not in (-1, 3):
            return False
        return isinstance(self.user(op.output), layers.Conv2D)

    def doubles(self, op: Any) -> bool:
        """Whether it repeats rows and columns for a convolution of 3 × 3 joined pixels alone."""
        if not isinstance(op, layers.UpSampling2D) or not self.joins(self.user(op.output)):
            return False
        convolution = self.user(self.user(op.output).output)
        shape = op.size, op.interpolation, convolution.kernel_size, convolution.strides
        return shape == ((2, 2), "nearest", (3, 3), (1, 1))


def _convolutions(op: layers.Conv2D, graph: _Graph) -> list[Operation]:
    """A convolution, or those of its parts and their sum."""
    is_padded = op.padding == "same" or op.kernel_size == (1, 1)
    if not is_padded or op.dilation_rate != (1, 1) or op.groups != 1:
        raise TypeError(f"{op.name} is no plain convolution: it is not known which rows it needs")
    norm = graph.user(op.output)
    norm = norm if graph.normalises(norm) else None
    output = id((norm or op).output)
    kernel, bias = folded(op, norm)
    joined = graph.maker(op.input)
    if not graph.joins(joined):
        return [Operation([id(op.input)], _convolution(op, kernel, bias, op.activation), output)]
    ends = np.cumsum([tensor.shape[-1] for tensor in joined.input])
    made: list[Operation] = []
    for tensor, part in zip(joined.input, np.split(kernel, ends[:-1], axis=2), strict=True):
        source, step = tensor, _convolution(op, part)
        if graph.doubles(maker := graph.maker(tensor)):
            source, step = maker.input, _of_doubled(op, part)
        made.append(Operation([id(source)], step, (output, len(made))))
    bias, activation = tf.constant(bias, op.compute_dtype), op.activation
    total = Step(lambda *parts: activation(tf.nn.bias_add(tf.add_n(parts[:-1]), bias)))
    return [*made, Operation([part.output for part in made], total, output)]


def _step(op: Any) -> Step:
    """An operation that is no convolution."""
    op = _alone(op)
    if isinstance(op, layers.MaxPooling2D):
        size = op.pool_size[0]
        return Step(lambda x, _: op(x), kernel=size, stride=size)
    if isinstance(op, _POINTWISE) or type(op).__name__ == "Flip":  # keras.ops names no classes
        return Step(lambda x, _: op(x))
    if hasattr(op, "size"):  # it makes several rows of one

        def grow(x: Any, edge: Rows) -> Any:
            made = op(x)
            return made[:, -edge[0] : tf.shape(made)[1] + edge[1]] if any(edge) else made

        return Step(grow, grows=op.size[0])
    raise TypeError(f"{op.name} is a {type(op).__name__}: it is not known which rows it needs")


def _alone(op: Any) -> Any:
    """An operation like this one, which knows all of the network around it and would keep it."""
    copy = type(op).from_config(op.get_config())
    if isinstance(copy, layers.Layer):
        copy.build(op.input.shape)
    return copy


def folded(op: layers.Conv2D, norm: layers.BatchNormalization | None) -> tuple[Any, Any]:
    """Kernel (y, x, in, out) and bias of a convolution, the normalisation behind it in both."""
    kernel = op.kernel.numpy().astype("float32")
    bias = op.bias.numpy() if op.use_bias else np.zeros(kernel.shape[-1], "float32")
    if norm is not None:
        scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        kernel = kernel * scale
        bias = (bias - norm.moving_mean.numpy()) * scale + norm.beta.numpy()
    return kernel, bias


def _convolution(op: layers.Conv2D, kernel: Any, bias: Any = None, activation: Any = None) -> Step:
    """A convolution as `op`, but with this kernel."""
    kernel = tf.constant(kernel, op.compute_dtype)
    bias = None if bias is None else tf.constant(bias, op.compute_dtype)
    side, stride = op.kernel_size[0], op.strides[0]
    padding = max(side - stride, 0)  # "same", of sizes that are multiples of the stride
    columns = [padding // 2, padding - padding // 2]

    def run(x: Any, edge: Rows) -> Any:
        pads = [[0, 0], list(edge), columns, [0, 0]]
        x = tf.nn.conv2d(tf.cast(x, kernel.dtype), kernel, stride, pads)
        x = x if bias is None else tf.nn.bias_add(x, bias)
        return x if activation is None else activation(x)

    return Step(run, kernel=side, stride=stride, before=padding // 2)


_SEEN = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], "float32")
"""Neighbours a and b, doubled, are aabb, of which three pixels are aab or abb: which of their
weights fall on a, and which on b."""


def _of_doubled(op: layers.Conv2D, kernel: Any) -> Step:
    """A convolution of 3 × 3 pixels of a tensor whose rows and columns are repeated.

    Such a square lies over two by two different pixels, so it is a convolution of those, with a
    channel for each of the four ways to lie: sub-pixel convolution, Shi et al. 2016,
    https://arxiv.org/abs/1609.05158. It does 4/9 of the work.
    """
    four = np.einsum("pay,qbx,yxio->abipqo", _SEEN, _SEEN, kernel)
    four = tf.constant(four.reshape(2, 2, kernel.shape[2], -1), op.compute_dtype)

    def run(x: Any, edge: Rows) -> Any:
        # An edge of fewer than two rows to cut is one of the tensor: beyond it are zeros.
        above, below = (int(cut > -2) for cut in edge)
        x = tf.nn.conv2d(tf.cast(x, four.dtype), four, 1, [[0, 0], [above, below], [1, 1], [0, 0]])
        x = tf.nn.depth_to_space(x, 2)
        first, last = 2 * above - 1 - edge[0], 2 * below - 1 - edge[1]
        return x[:, first : tf.shape(x)[1] - last, 1:-1]

    return Step(run, kernel=3, before=1, grows=2)


def _listed(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]
