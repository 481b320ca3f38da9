"""Integer arithmetic of chunks, halos and strides; no dask, no rasters."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = NDArray[Any]
"""The pixels of one chunk or window, as a NumPy kernel sees them."""


def round_up(size: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is not below `size`."""
    return -(-size // multiple) * multiple


def layout(size: int, chunk: int, *, stride: int = 1, overlap: int = 0) -> tuple[int, ...]:
    """Cut an axis into chunks that a network can be mapped over with a halo.

    All chunks but the last are equal and start on multiples of `stride`; none is longer than
    needed, and none is shorter than `overlap`, since a halo is taken from one neighbour only.

    Parameters
    ----------
    size : int
        Length of the axis in pixels, at least 1.
    chunk : int
        Length wanted; the result stays at or below it where `stride` and `overlap` allow.
    stride : int
        Chunk origins are multiples of this.
    overlap : int
        Depth of the halo in pixels.

    Returns
    -------
    tuple of int
        Chunk lengths, summing to `size`.
    """
    longest = round_up(max(chunk, overlap, 1), stride)
    if size <= longest:
        return (size,)
    even = round_up(math.ceil(size / math.ceil(size / longest)), stride)
    for length in (even, *range(longest, max(overlap, stride) - 1, -stride)):
        whole, rest = divmod(size, length)
        if length >= overlap and (rest == 0 or rest >= overlap):
            return (length,) * whole + ((rest,) if rest else ())
    whole, rest = divmod(size, longest)
    return (longest,) * (whole - 1) + (longest + rest,)


def edges(lengths: Sequence[int]) -> tuple[int, ...]:
    """Where chunks of these lengths begin, and where the last one ends."""
    return tuple(accumulate(lengths, initial=0))


def is_layout(chunks: Sequence[int], *, stride: int = 1, overlap: int = 0) -> bool:
    """Whether `chunks` already are what `layout` promises, so that no rechunk is needed."""
    *body, last = chunks
    return last >= (overlap if body else 1) and all(
        length == body[0] and length % stride == 0 and length >= overlap for length in body
    )


def mirror_pad(block: Block, rows: tuple[int, int], columns: tuple[int, int]) -> Block:
    """Extend the first two axes (before, after) by mirroring, the edge pixel repeated.

    NumPy's "symmetric". Works from 1 × 1 pixels: a mirror that is too short is mirrored again.
    """
    if not any(rows + columns):
        return block
    return np.pad(block, [rows, columns, *[(0, 0)] * (block.ndim - 2)], mode="symmetric")
