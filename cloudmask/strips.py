"""A network over a block, a strip of rows at a time: the result of one pass, in far less memory.

Every stage makes each of its rows once, and no row is kept longer than another layer needs it.
Memory grows with a strip, not with the block, so blocks can be large, and their halo a small part
of them.
"""

import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cloudmask.chunks import Block
from cloudmask.stages import Stage, cut
from cloudmask.steps import Rows, Tensor


class _Kept:
    """The rows of a tensor that were made and are still needed: (y, x, channel).

    There is no axis before the rows: of its first axis TensorFlow slices a tensor without a copy.
    """

    def __init__(self, height: int):
        self.height = height
        self.made = 0
        self.parts: list[tuple[int, Any]] = []

    def add(self, rows: Any) -> None:
        """Append the next rows."""
        self.parts.append((self.made, rows))
        self.made += rows.shape[0]

    def take(self, rows: Rows) -> Any:
        """Some of the rows."""
        first, last = rows
        found = [
            part[max(first - start, 0) : last - start]
            for start, part in self.parts
            if start < last and start + part.shape[0] > first
        ]
        return found[0] if len(found) == 1 else tf.concat(found, axis=0)

    def forget(self, first: int) -> None:
        """Drop what lies before a row.

        What is left of a part is copied where it is less than half: a slice holds all of it.
        """
        self.parts = [part for part in self.parts if part[0] + part[1].shape[0] > first]
        if self.parts:
            start, part = self.parts[0]
            if first - start > part.shape[0] // 2:
                self.parts[0] = first, tf.raw_ops.DeepCopy(x=part[first - start :])


class Strips:
    """A fully convolutional network of one input and one output, cut into stages.

    Raises
    ------
    TypeError
        It has an operation of which it is not known which rows it needs.
    """

    def __init__(self, network: keras.Model):
        self._input, self._output = id(network.inputs[0]), id(network.outputs[0])
        self._stages = cut(network)
        self._users: dict[Tensor, list[Stage]] = {}
        for stage in self._stages:
            for tensor in stage.inputs:
                self._users.setdefault(tensor, []).append(stage)
        anything = tf.TensorSpec((None, None, 3), tf.float32)
        self._pass = tf.function(self._one_pass, input_signature=[anything], autograph=False)

    def __call__(self, pixels: Block, rows: int) -> Block:
        """Run the network.

        Parameters
        ----------
        pixels : (n, y, x, 3) array
            y and x multiples of the network's stride.
        rows : int
            Height of a strip.

        Returns
        -------
        (n, y, x) float32 array
        """
        out = np.empty(pixels.shape[:3], "float32")
        for image, probability in zip(pixels, out, strict=True):
            if rows < len(image):
                self._run(image, rows, probability)
            else:
                probability[:] = self._pass(_tensor(image))
        return out

    def _one_pass(self, pixels: Any) -> Any:
        """One image (y, x, 3) that is one strip: sooner compiled as a whole than by stages."""
        made: dict[Tensor, Any] = {self._input: pixels}
        for stage in self._stages:
            made[stage.output] = stage.whole([made[tensor] for tensor in stage.inputs])
        return made[self._output][..., 0]

    def _run(self, pixels: Block, rows: int, out: Block) -> None:
        """One image (y, x, 3) into `out` (y, x)."""
        kept: dict[Tensor, _Kept] = {self._input: _Kept(len(pixels))}
        for stage in self._stages:
            kept[stage.output] = _Kept(stage.height(kept[stage.inputs[0]].height))
        first = rows  # before it only what lies deeper, a strip's worth at a time
        while rows < len(pixels) and self._wanted(kept, first - rows)[self._input] > 0:
            first -= rows
        for stop in range(first, len(pixels) + rows, rows):
            made = kept[self._output].made
            self._advance(kept, pixels, self._wanted(kept, min(stop, len(pixels))))
            if stop > 0:
                rows_made = made, kept[self._output].made
                out[slice(*rows_made)] = kept[self._output].take(rows_made)[..., 0]
                kept[self._output].forget(rows_made[1])

    def _wanted(self, kept: dict[Tensor, _Kept], stop: int) -> dict[Tensor, int]:
        """How many rows of each tensor the output's rows before `stop` need; none if negative."""
        wanted = dict.fromkeys(kept, -sys.maxsize) | {self._output: stop}
        for stage in reversed(self._stages):
            last = stage.last(wanted[stage.output])
            for tensor in stage.inputs:
                wanted[tensor] = max(wanted[tensor], min(last, kept[tensor].height))
        return wanted

    def _advance(self, kept: dict[Tensor, _Kept], pixels: Block, wanted: dict[Tensor, int]) -> None:
        """Make rows up to those that are wanted, and no more."""
        source = kept[self._input]
        if source.made < wanted[self._input]:
            source.add(_tensor(pixels[source.made : wanted[self._input]]))
        for stage in self._stages:
            rows = kept[stage.output].made, wanted[stage.output]
            if rows[0] < rows[1]:
                needed, edges = stage.plan(rows, kept[stage.inputs[0]].height)
                inputs = [kept[tensor].take(needed) for tensor in stage.inputs]
                kept[stage.output].add(stage.run(inputs, edges))
                del inputs
                for tensor in stage.inputs:
                    kept[tensor].forget(self._needed(kept, tensor))

    def _needed(self, kept: dict[Tensor, _Kept], tensor: Tensor) -> int:
        """The first row of a tensor that a stage will take again."""
        height = kept[tensor].height
        needed = height
        for stage in self._users[tensor]:
            made = kept[stage.output].made
            if made < kept[stage.output].height:
                (first, _), _ = stage.plan((made, made + 1), height)
                needed = min(needed, first)
        return needed


def _tensor(pixels: Block) -> Any:
    """What a network sees of pixels (y, x, 3); as a copy, of which TensorFlow may keep slices."""
    return tf.cast(tf.constant(pixels), tf.float32)
