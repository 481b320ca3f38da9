"""A network cut into stages, each of which knows what rows of its input a strip of output takes.

A stage is compiled once for each way in which its rows meet an edge, or all at once where nothing
is cut.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from cloudmask.steps import Rows, Step, Tensor, operations

_LARGE = 0.5
"""Size, of the input's, down to which a strip is so high that its edges count for little."""
_ANY = 1024
"""A height that all strides divide: for each of those, edges of all rows are the same."""


@dataclass
class Stage:
    """Steps of which each feeds the next and nothing else."""

    inputs: list[Tensor]
    """Several where the first step adds them, or takes their mean."""
    steps: list[Step] = field(default_factory=list)
    output: Tensor = None
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

    def whole(self, inputs: list[Any]) -> Any:
        """Make all rows of the output of all rows of the inputs, not compiled by itself."""
        _, edges = self.plan((0, self.height(_ANY)), _ANY)
        return self._steps(edges, *inputs)

    def _steps(self, edges: tuple[Rows, ...], *inputs: Any) -> Any:
        values = tuple(rows[tf.newaxis] for rows in inputs)
        for step, edge in zip(self.steps, edges, strict=True):
            values = (step.run(*values, edge),)
        return tf.squeeze(values[0], axis=0)


def cut(network: keras.Model) -> list[Stage]:
    """Cut a network where a tensor goes to several operations, or several to one.

    And before a convolution where that is cheaper: each of a stage makes some rows of the one
    before again, for the next strip, and each stage puts rows of two strips of its input together.

    Raises
    ------
    TypeError
        It has an operation of which it is not known which rows it needs.
    """
    found = operations(network)
    users = Counter(tensor for operation in found for tensor in operation.inputs)
    sizes: dict[Tensor, float] = {id(network.inputs[0]): 1}
    stages: list[Stage] = []
    ends: dict[Tensor, Stage] = {}
    for inputs, step, output in found:
        size = sizes[inputs[0]]
        sizes[output] = size * step.grows / step.stride
        # A stage may go on after later ones were begun: nothing else uses what it makes.
        stage = ends.pop(inputs[0], None) if len(inputs) == users[inputs[0]] == 1 else None
        if stage is None or (step.looks_around and not _may_look_around(stage, size)):
            stage = Stage(inputs)
            stages.append(stage)
        stage.steps.append(step)
        stage.output = output
        ends[output] = stage
    return stages


def _may_look_around(stage: Stage, size: float) -> bool:
    """Whether a step that looks around had better be part of a stage than of the next one."""
    if len(stage.inputs) > 1:  # rows of each of them would be put together
        return False
    return size >= _LARGE or not any(step.looks_around for step in stage.steps)
