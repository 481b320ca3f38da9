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
    """Pixels beyond the halo that filling nodata looks at, and the network does not see."""
    edges: tuple[tuple[int, ...], ...]
    """Where chunks begin, and where the last one ends; rows, then columns."""

    def read(self, load: Callable[[slice, slice], Block], *, block_id: tuple[int, int]) -> Block:
        """Read a chunk with its context, and predict it."""
        depth = self.halo + self.rim
        rows, columns = (
            slice(max(edges[i] - depth, 0), min(edges[i + 1] + depth, edges[-1]))
            for edges, i in zip(self.edges, block_id, strict=True)
        )
        block = load(rows, columns)
        seen, valid = self._seen(block, block_id, in_place=True)
        del block  # of which a chunk that waits for the network would hold a copy
        return self._predicted(seen, valid, block_id)

    def __call__(self, block: Block, *, block_id: tuple[int, ...]) -> Block:
        """Predict a chunk: `block` is (…, band, y, x) with halo and rim, except at edges."""
        leading = block.shape[:-3]
        seen, valid = self._seen(block.reshape(block.shape[-3:]), block_id, in_place=False)
        core = self._predicted(seen, valid, block_id)
        return core.reshape(*leading, *core.shape)

    def _sides(self, block_id: tuple[int, ...]) -> tuple[list[bool], list[bool]]:
        """Whether there is a chunk before this one and after it, along y and x."""
        before = [i > 0 for i in block_id[-2:]]
        after = [i + 2 < len(edges) for edges, i in zip(self.edges, block_id[-2:], strict=True)]
        return before, after

    def _seen(
        self, block: Block, block_id: tuple[int, ...], *, in_place: bool
    ) -> tuple[Block, Block | None]:
        """What the network sees (y, x, 3), empty for nothing; and where the core is valid."""
        pixels, valid = np.moveaxis(block, 0, -1), None
        before, after = self._sides(block_id)
        if pixels.dtype.kind == "f":
            has_data = np.asarray(np.isfinite(pixels).all(axis=-1))
            valid = _trim(has_data, self.halo + self.rim, before, after)
            if not valid.any():
                return pixels[:0], valid
            filled = fill_nodata(pixels.astype("float32", copy=False), has_data, in_place=in_place)
            pixels = _trim(filled, self.rim, before, after)
        return _framed(pixels, self.model.stride, before, after), valid

    def _predicted(self, seen: Block, valid: Block | None, block_id: tuple[int, ...]) -> Block:
        """Probability of the core, NaN where it is not valid."""
        if valid is not None and not seen.size:
            return np.full(valid.shape, np.nan, "float32")
        if self.model.window is None:
            probability = _called(self.model, seen[None])[0]
        else:
            probability = _windowed(self.model, seen, self.model.window)
        before, _ = self._sides(block_id)
        first = [self.halo if has else self.model.stride for has in before]
        rows, columns = (
            slice(start, start + edges[i + 1] - edges[i])
            for start, edges, i in zip(first, self.edges, block_id[-2:], strict=True)
        )
        core = probability[rows, columns]
        if valid is None:
            return core
        return np.where(valid, core, np.float32(np.nan))


def _called(model: Predictor, pixels: Block) -> Block:
    """What a model says, as dask was told that it would: others give other types and shapes."""
    said = np.asarray(model(pixels), "float32")
    if said.shape != pixels.shape[:3]:
        raise ValueError(
            f"{model.name} gives {said.shape} for pixels {pixels.shape}: a model gives (n, y, x)"
        )
    return said


def _trim(block: Block, depth: int, before: list[bool], after: list[bool]) -> Block:
    """Cut `depth` pixels off those sides of (y, x, …) that have a neighbour."""
    rows, columns = (
        slice(depth * b, size - depth * a)
        for size, b, a in zip(block.shape, before, after, strict=False)
    )
    return block[rows, columns]


def _framed(pixels: Block, stride: int, before: list[bool], after: list[bool]) -> Block:
    """A block of any size for the network: the scene's edges mirrored one stride outwards.

    The same mirror at every edge, whatever the chunk, keeps the result independent of the chunks.
    """
    first = [0 if has else stride for has in before]
    last = [
        chunks.round_up(size, stride) - size + (0 if has else stride)
        for size, has in zip(pixels.shape, after, strict=False)
    ]
    return chunks.mirror_pad(pixels, (first[0], last[0]), (first[1], last[1]))


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
        for (y, x), probability in zip(batch, _called(model, windows), strict=True):
            total[y : y + size, x : x + size] += probability * weight
    return total
