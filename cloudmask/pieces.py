"""How a scene's own grid is cut over a coarser one, in whole pixels of both; no pixels are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cloudmask import chunks
from cloudmask.grid import Grid
from cloudmask.windows import Chunks

FINE_CHUNK = 2048
"""Chunk height and width of an enlarged array: four blocks of a COG."""


def squares(coarse: Grid, fine: Grid) -> Chunks:
    """Chunks of the coarse grid that become about `FINE_CHUNK` pixels each on the fine one."""
    return (
        chunks.layout(coarse.height, max(1, FINE_CHUNK * coarse.height // fine.height)),
        chunks.layout(coarse.width, max(1, FINE_CHUNK * coarse.width // fine.width)),
    )


def whole_rows(coarse: Grid, fine: Grid) -> Chunks:
    """Chunks of as many pixels that span the scene, as its strips do: each is decoded once."""
    rows = FINE_CHUNK**2 // fine.width * coarse.height // fine.height
    return chunks.layout(coarse.height, max(1, rows)), (coarse.width,)


def fine_edges(coarse: Grid, fine: Grid, pieces: Chunks) -> Chunks:
    """Fine pixel where each coarse chunk begins, and the end: integers, so no pixel is lost.

    The first is the one whose centre is the first within the chunk: no coarse pixel is divided.
    """
    sizes = ((coarse.height, fine.height), (coarse.width, fine.width))
    rows, columns = (
        tuple(-((small - 2 * edge * large) // (2 * small)) for edge in chunks.edges(lengths))
        for lengths, (small, large) in zip(pieces, sizes, strict=True)
    )
    return rows, columns


def lengths_of(edges: Chunks) -> Chunks:
    """Chunk lengths between these edges."""
    rows, columns = (tuple(np.diff(axis).tolist()) for axis in edges)
    return rows, columns


@dataclass(frozen=True)
class Piece:
    """Of one axis: pixels of the fine grid, and the coarse ones that they lie among."""

    start: int
    """First pixel of the fine grid."""
    stop: int
    """The one after its last."""
    first: int
    """Coarse pixel, of the halo if there is one."""
    chunks: tuple[int, ...]
    """Of the coarse array, that have the coarse pixels."""
    slices: tuple[slice, ...]
    """These pixels within each of the chunks."""


def pieces_of(
    source: tuple[int, ...], lengths: tuple[int, ...], edges: tuple[int, ...]
) -> Iterator[Piece]:
    """Pieces of `lengths` coarse pixels, each with a pixel of halo, where the axis goes on."""
    begins = chunks.edges(source)
    for first, length, (start, stop) in zip(
        chunks.edges(lengths)[:-1], lengths, pairwise(edges), strict=True
    ):
        top, bottom = max(first - 1, 0), min(first + length + 1, begins[-1])
        found = {
            number: slice(max(top, begin) - begin, min(bottom, end) - begin)
            for number, (begin, end) in enumerate(pairwise(begins))
            if begin < bottom and top < end
        }
        yield Piece(start, stop, top, tuple(found), tuple(found.values()))
