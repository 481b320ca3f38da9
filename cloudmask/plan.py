"""How a scene will be read for a model: its grid, chunks and memory, before any pixel is."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloudmask import chunks
from cloudmask.grid import Grid
from cloudmask.network import passes_bytes
from cloudmask.prediction import check_overlap, step_and_depth
from cloudmask.readers import open_reader
from cloudmask.registry import CloudModel
from cloudmask.scene import default_chunk, model_grid, scene_dtype
from cloudmask.stretch import check_stretch
from cloudmask.windows import Chunks

logger = logging.getLogger(__name__)

# A smaller scene leaves a network too little context to tell cloud from roof.
_SMALLEST_SIDE = 256

# Longer in one direction than this pixels look stretched to a network.
_OBLONG = 1.2

# What is asked for may be coarser, but of a few pixels a network makes nothing.
_LEAST = 8

# The halo of smaller chunks costs more than another worker brings.
_SMALLEST_PART = 1024


@dataclass(frozen=True)
class Plan:
    """The grid that the network sees, cut into chunks."""

    native: Grid
    """The scene's own grid."""
    grid: Grid
    """The grid that the network sees: the same bounds, perhaps coarser."""
    chunks: Chunks
    """Chunks for (y, x), as dask has them; `predict` keeps them."""
    overlap: int
    """Halo on each side of a chunk."""
    memory: int
    """Bytes that the process will take at its peak, roughly: in float32, where one forward pass
    takes as much as those side by side in 16 bits."""
    dtype: np.dtype[Any]
    """Of the scene's stored values."""

    @property
    def chunk(self) -> int:
        """Longest height or width of a chunk."""
        return max(map(max, self.chunks))

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of chunks (y, x)."""
        rows, columns = map(len, self.chunks)
        return rows, columns

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model_grid": [self.grid.height, self.grid.width],
            "model_gsd": list(self.grid.gsd),
            "chunk": self.chunk,
            "overlap": self.overlap,
            "blocks": list(self.blocks),
            "memory": self.memory,
        }


def default_gsd(native: Grid, model: CloudModel) -> float | None:
    """The ground sample distance to read a scene at, where the user names none.

    The model's own where the scene is finer; finer than that, but within the model's range, where
    the scene would otherwise shrink below 256 pixels a side. Where pixels are oblong, such as those
    of degrees far from the equator, at least their longer side: networks know square ones.

    Returns
    -------
    float or None
        Metres; None for the scene's own pixels.
    """
    if model.gsd is None or model.gsd_range is None or not native.is_placed:
        return None
    finest, own = sorted(native.gsd)
    sides = (native.height * native.gsd[0], native.width * native.gsd[1])
    smallest = max(min(sides) / _SMALLEST_SIDE, model.gsd_range[0])
    target = max(own, min(model.gsd, smallest, max(sides) / _LEAST))
    return target if target > min(own, _OBLONG * finest) else None


def plan_scene(
    path: str,
    model: CloudModel,
    *,
    bands: tuple[int, ...] = (1, 2, 3),
    gsd: float | str | None = None,
    resize_factor: float | None = None,
    scale: float | None = None,
    stretch: float | None = None,
    nodata: float | None = None,
    chunk: int | None = None,
    overlap: int | None = None,
    parts: int = 1,
) -> Plan:
    """Choose the grid that `model` sees a scene on, and the chunks that `predict` takes it in.

    Parameters
    ----------
    path : str
        The scene; only its header is read.
    model : CloudModel
        Its card gives the defaults.
    gsd : float or "native", optional
        Ground sample distance in metres, or the scene's own pixels.
    bands, resize_factor, scale, stretch, nodata, chunk, overlap
        As for `open_scene` and `predict`.
    parts : int
        Cut the scene into so many chunks at least, where none gets shorter than 1,024 pixels:
        workers of a cluster predict a chunk each, and a store is resumed by chunks.

    Raises
    ------
    ValueError, OSError
    """
    check_stretch(scale, stretch)
    reader = open_reader(path, bands, nodata)
    native = reader.grid
    if gsd is None and resize_factor is None:
        gsd = default_gsd(native, model)
        if not native.is_placed:
            logger.warning(
                "%s has no %s: pixels are the unit, and all of them are read (a resize factor "
                "reads fewer)",
                path,
                "CRS" if native.crs is None else "transform",
            )
    grid = model_grid(native, None if isinstance(gsd, str) else gsd, resize_factor)
    _check_left(native, grid)
    _warn_outside_range(path, grid, model)
    if reader.packing:
        logger.warning(
            "%s has %s, by which its values are not multiplied: they are read as they are stored",
            path, reader.packing,
        )  # fmt: skip
    if reader.colours:
        logger.warning("%s calls %s", path, reader.colours)
    halo = check_overlap(model, overlap)
    longest = max(grid.height, grid.width)
    dtype = scene_dtype(reader, is_rescaled=scale is not None or stretch is not None)
    shape = grid.height, grid.width
    wanted = (chunk, chunk) if chunk else _cut(shape, default_chunk(dtype, longest), parts)
    step, depth = step_and_depth(dtype, model.stride, halo)
    rows, columns = (
        chunks.layout(size, side, stride=step, overlap=depth)
        for size, side in zip(shape, wanted, strict=True)
    )
    sides = max(rows) + 2 * halo, max(columns) + 2 * halo
    block = sides[0] * sides[1]
    # Measured: TensorFlow and GDAL take 1.2 GB; two chunks are on their way, one of them twice,
    # with probabilities; and forward passes, of a strip where that is less.
    passes = passes_bytes(model.architecture, "float32", *sides)
    memory = 9 * 2**27 + block * (3 * 3 * dtype.itemsize + 2 * 4) + passes
    if len(columns) > 1:  # rows of chunks wait for those around them, as measured
        waiting = 3.5 if reader.is_striped(grid, max(columns)) else 2.5 * (grid != native)
        held = min(waiting * max(rows), grid.height) * grid.width
        memory += int(held * 3 * dtype.itemsize)
    return Plan(native, grid, (rows, columns), halo, memory, reader.dtype)


def _cut(shape: tuple[int, int], longest: int, parts: int) -> list[int]:
    """Height and width of chunks, `longest` or less and the shorter the more `parts` are wanted.

    The longer side of a chunk is cut each time: the cut is the shorter, and so are its halos.
    """
    counts = [-(-size // longest) for size in shape]
    while True:
        sides = [-(-size // count) for size, count in zip(shape, counts, strict=True)]
        longer = sides.index(max(sides))
        if math.prod(counts) >= parts or shape[longer] // (counts[longer] + 1) < _SMALLEST_PART:
            return sides
        counts[longer] += 1


def _check_left(native: Grid, grid: Grid) -> None:
    """Refuse, with a ValueError, a resolution at which next to nothing is left of a scene."""
    longest = max(native.height, native.width)
    if max(grid.height, grid.width) < _LEAST <= longest:
        raise ValueError(
            f"{grid.height} × {grid.width} pixels would be left of {native.height} × "
            f"{native.width}: give a resize_factor of at most {longest / _LEAST:.4g}, or a finer "
            "gsd"
        )


def _warn_outside_range(path: str, grid: Grid, model: CloudModel) -> None:
    if model.gsd_range is None or not grid.is_placed:
        return
    low, high = model.gsd_range
    finest, coarsest = min(grid.gsd), max(grid.gsd)
    # Of few pixels each is a good deal finer than what was asked for: their number is rounded up.
    rounded = max(1.01, 1 + 1 / min(grid.height, grid.width))
    if finest * rounded < low or coarsest > 1.01 * high:
        logger.warning(
            "%s is read at %s m, %s was trained for %g to %g m: expect more errors",
            path,
            f"{finest:.3g}" if finest < low else f"{coarsest:.0f}",
            model.name,
            low,
            high,
        )
