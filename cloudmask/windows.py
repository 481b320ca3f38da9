"""A lazy array over a reader: its chunks, what one task reads, and windows that are no chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array
from dask.blockwise import Blockwise

from cloudmask.checks import whole
from cloudmask.chunks import Block, edges, layout
from cloudmask.grid import Grid
from cloudmask.readers import Reader

Chunks = tuple[tuple[int, ...], tuple[int, ...]]
Chunk = int | Chunks
Load = Callable[[slice, slice], Block]
"""(rows, columns) → (band, y, x); small, and crosses to a worker."""

WINDOWS = "windows"
"""Key in an array's encoding: reads windows other than the array's chunks. Arrays on a coarser grid
than the file's lack it: what chunks share in their halos would be averaged twice."""

# Height and width of the scene's own pixels that one task reads: a chunk of a coarse grid may be
# the whole scene, which one thread would read while the others wait.
_READ_SIDE = 4096
# Where they are averaged, of bytes: GDAL goes through bands, and where they are valid, one after
# the other, and decodes blocks for each where its cache does not hold what all threads read.
_AVERAGED_SIDE = 3072


@dataclass(frozen=True)
class Windows:
    """Reads any window of a lazy array, without waiting for its chunks."""

    name: str
    """Of the dask array: whatever is made of it has another."""
    load: Load
    is_striped: bool
    """Windows that do not span the scene decode its strips again."""

    def are_of(self, array: Array) -> bool:
        """Whether `array` is the one that is read so, and was not persisted."""
        layers = array.dask.layers.values()
        return array.name == self.name and any(isinstance(layer, Blockwise) for layer in layers)


@dataclass(frozen=True)
class _Blocks:
    """Reads the chunks of an array; unlike a function in a function it can be pickled."""

    load: Load
    rows: tuple[int, ...]
    """Edges of the chunks."""
    columns: tuple[int, ...]

    def __call__(self, block_id: tuple[int, int, int]) -> Block:
        _, i, j = block_id
        return self.load(slice(*self.rows[i : i + 2]), slice(*self.columns[j : j + 2]))


def all_valid(rows: slice, columns: slice) -> Block:
    """A `Load` of where a scene is valid, for one that is everywhere."""
    return np.broadcast_to(np.True_, (1, rows.stop - rows.start, columns.stop - columns.start))


def open_lazily(
    load: Load, reader: Reader, grid: Grid, chunk: Chunk, *, bands: int, dtype: np.dtype[Any]
) -> tuple[Array, bool]:
    """A dask array (band, y, x) of `grid` whose chunks call `load`.

    Returns
    -------
    dask array
    bool
        Whether the file is in strips, each of which lies in several chunks.
    """
    wanted = square_chunks(grid, chunk)
    native = reader.grid
    side = _READ_SIDE
    if grid != native:
        side = int(_AVERAGED_SIDE / reader.dtype.itemsize**0.5)
    read_chunks = (
        _pieces(wanted[0], grid.height, native.height, side),
        _pieces(wanted[1], grid.width, native.width, side),
    )
    is_striped = reader.is_striped(grid, max(read_chunks[1]))
    if is_striped:
        # A strip spans the scene: read whole rows of pixels once, then cut them into squares.
        rows = min(
            max(wanted[0]) * max(wanted[1]) // grid.width,
            side**2 // native.width * grid.height // native.height,
        )
        read_chunks = (layout(grid.height, max(1, rows)), (grid.width,))
    data = da.map_blocks(
        _Blocks(load, edges(read_chunks[0]), edges(read_chunks[1])),
        chunks=((bands,), *read_chunks),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
        token=da.core.tokenize(load, read_chunks),
        name=None,
    ).rechunk({1: wanted[0], 2: wanted[1]})
    return data, is_striped


def square_chunks(grid: Grid, chunk: Chunk) -> Chunks:
    """Chunks for (y, x) of about that size; a ValueError for what cannot be one."""
    if isinstance(chunk, tuple) and [type(lengths) for lengths in chunk] == [tuple, tuple]:
        rows, columns = (tuple(whole("chunk", n, 1) for n in lengths) for lengths in chunk)
        if (sum(rows), sum(columns)) != (grid.height, grid.width):
            raise ValueError(
                f"chunk adds up to {' × '.join(str(sum(lengths)) for lengths in chunk)} pixels: "
                f"the scene has {grid.height} × {grid.width}"
            )
        return rows, columns
    if not isinstance(chunk, int | np.integer):
        raise ValueError(
            f"chunk is {chunk!r}: give a number of pixels, such as 2048, or dask's chunks of y and "
            "x, such as ((512, 512), (512, 300))"
        )
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: give a number of pixels above 0")
    # Multiples of 128 suit every network's stride, so that predict need not rechunk.
    stride = 128 if chunk >= 128 else 1
    height, width = (
        layout(size, chunk, stride=stride, overlap=min(chunk, 256))
        for size in (grid.height, grid.width)
    )
    return height, width


def _pieces(lengths: tuple[int, ...], coarse: int, native: int, side: int) -> tuple[int, ...]:
    """Cut chunks of an axis that is averaged from a longer one into what one task reads."""
    if native <= coarse:
        return lengths
    longest = max(1, side * coarse // native)
    return tuple(piece for length in lengths for piece in layout(length, longest))
