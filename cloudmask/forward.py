"""One chunk through a network: nodata filled, edges mirrored, windows blended, halo cut off."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cloudmask import chunks
from cloudmask.chunks import Block
from cloudmask.fill import fill_nodata

_WINDOWS_PER_BATCH = 16


class Predictor(Protocol):
    """What `predict` asks of a model; `cloudmask.load_model` returns one."""

    @property
    def name(self) -> str:
        """For the result's attributes."""

    @property
    def stride(self) -> int:
        """Block sizes and origins must be multiples of this."""

    @property
    def overlap(self) -> int:
        """Context in pixels that a chunk needs on each side."""

    @property
    def window(self) -> int | None:
        """Fixed side of the network's input; None where any multiple of the stride will do."""

    @property
    def threshold(self) -> float:
        """Probability from which the model's makers call a pixel cloud."""

    def __call__(self, pixels: Block) -> Block:
        """(n, y, x, 3) RGB 0–255, uint8 or float → (n, y, x) probabilities."""


@dataclass(frozen=True)
class Blocks:
    """The probability of one chunk of a scene, which is known by its place among them."""

    model: Predictor
    halo: int
    """Context that the network sees, on each side that has a neighbour."""
    rim: int
    """Context of that, which filling nodata looks at."""
    edges: tuple[tuple[int, ...], ...]
    """Where chunks begin, and where the last one ends; rows, then columns."""

    def read(self, load: Callable[[slice, slice], Block], *, block_id: tuple[int, int]) -> Block:
        """Read a chunk with its context, and predict it."""
        depth = self.halo + self.rim
        rows, columns = (
            slice(max(edges[i] - depth, 0), min(edges[i + 1] + depth, edges[-1]))
            for edges, i in zip(self.edges, block_id, strict=True)
        )
        return self(load(rows, columns), block_id=block_id)

    def __call__(self, block: Block, *, block_id: tuple[int, ...]) -> Block:
        """Predict a chunk: `block` is (…, band, y, x) with halo and rim, except at edges."""
        leading = block.shape[:-3]
        pixels = np.moveaxis(block.reshape(block.shape[-3:]), 0, -1)
        before = [i > 0 for i in block_id[-2:]]
        after = [i + 2 < len(edges) for edges, i in zip(self.edges, block_id[-2:], strict=True)]
        if pixels.dtype.kind != "f":
            probability = _forward(self.model, pixels, before, after)
            core = _trim(probability, self.halo, before, after)
            return core.reshape(*leading, *core.shape)

        valid = np.asarray(np.isfinite(pixels).all(axis=-1))
        inside = _trim(valid, self.halo + self.rim, before, after)
        out = np.full(inside.shape, np.nan, "float32")
        if inside.any():
            filled = fill_nodata(pixels.astype("float32", copy=False), valid)
            seen = _trim(filled, self.rim, before, after)
            probability = _forward(self.model, seen, before, after)
            np.copyto(out, _trim(probability, self.halo, before, after), where=inside)
        return out.reshape(*leading, *out.shape)


def _trim(block: Block, depth: int, before: list[bool], after: list[bool]) -> Block:
    """Cut `depth` pixels off those sides of (y, x, …) that have a neighbour."""
    rows, columns = (
        slice(depth * b, size - depth * a)
        for size, b, a in zip(block.shape, before, after, strict=False)
    )
    return block[rows, columns]


def _forward(model: Predictor, pixels: Block, before: list[bool], after: list[bool]) -> Block:
    """Probability of every pixel of a block, the scene's edges mirrored one stride outwards.

    The same mirror at every edge, whatever the chunk, keeps the result independent of the chunks.
    """
    height, width = pixels.shape[:2]
    first = [0 if has else model.stride for has in before]
    last = [
        chunks.round_up(size, model.stride) - size + (0 if has else model.stride)
        for size, has in zip((height, width), after, strict=True)
    ]
    padded = chunks.mirror_pad(pixels, (first[0], last[0]), (first[1], last[1]))
    if model.window is None:
        probability = model(padded[None])[0]
    else:
        probability = _windowed(model, padded, model.window)
    return probability[first[0] : first[0] + height, first[1] : first[1] + width]


def _windowed(model: Predictor, pixels: Block, size: int) -> Block:
    """Run fixed windows at every multiple of the stride and blend them.

    Windows are twice the stride, so that their triangular weights add up to one everywhere but
    in the outermost stride, which is halo or mirror and cropped by the caller.
    """
    step = model.stride
    height, width = pixels.shape[:2]
    ramp = 1 - np.abs((np.arange(size, dtype="float32") + 0.5) * 2 / size - 1)
    weight = ramp[:, None] * ramp
    corners = [
        (y, x) for y in range(0, height - size + 1, step) for x in range(0, width - size + 1, step)
    ]
    total = np.zeros((height, width), "float32")
    for start in range(0, len(corners), _WINDOWS_PER_BATCH):
        batch = corners[start : start + _WINDOWS_PER_BATCH]
        windows = np.stack([pixels[y : y + size, x : x + size] for y, x in batch])
        for (y, x), probability in zip(batch, model(windows), strict=True):
            total[y : y + size, x : x + size] += probability * weight
    return total
