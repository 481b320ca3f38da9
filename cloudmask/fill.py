"""What the network sees where there is no data: the colour of the ground nearby.

A hard edge at nodata looks like the edge of a cloud to a network. Cells of one fixed grid of the
scene are filled with the mean of their own or their neighbours' valid pixels, so that the fill
does not depend on the chunks.
"""

import numpy as np

from cloudmask.chunks import Block

CELL = 32
"""Side of a cell in pixels: the stride that chunk origins and halos are multiples of."""

# Far from any valid pixel: ImageNet's mean grey, which is zero to a pretrained encoder.
_NEUTRAL = np.float32(114.0)


def fill_nodata(pixels: Block, valid: Block, *, in_place: bool = False) -> Block:
    """Replace invalid pixels of a block whose origin lies on the scene's cell grid.

    Parameters
    ----------
    pixels : (y, x, band) float32
        Any value where invalid.
    valid : (y, x) bool
    in_place : bool
        Write into `pixels`.

    Returns
    -------
    (y, x, band) float32
        Depends, at each invalid pixel, on valid pixels of its own cell and the eight around.
    """
    if valid.all():
        return pixels
    # A row of cells at a time: arrays of the block's own size would take several times its memory.
    rows = [slice(y, y + CELL) for y in range(0, len(pixels), CELL)]
    total = np.stack([_per_cell(np.where(valid[r, :, None], pixels[r], 0)) for r in rows])
    count = np.stack([_per_cell(valid[r, :, None].astype("float32")) for r in rows])
    near_total, near_count = _with_neighbours(total), _with_neighbours(count)
    colour = np.where(
        count > 0,
        total / np.maximum(count, 1),
        np.where(near_count > 0, near_total / np.maximum(near_count, 1), _NEUTRAL),
    )
    filled = pixels if in_place else pixels.copy()
    for r, cells in zip(rows, colour, strict=True):
        spread = cells.repeat(CELL, axis=0)[: pixels.shape[1]]
        np.copyto(filled[r], spread, where=~valid[r, :, None])
    return filled


def _per_cell(values: Block) -> Block:
    """Sums over the cells of a row of them; the last may be cut."""
    columns = np.arange(0, values.shape[1], CELL)
    return np.add.reduceat(values.sum(axis=0), columns, axis=0)


def _with_neighbours(cells: Block) -> Block:
    """Sums over 3 × 3 cells."""
    padded = np.pad(cells, [(1, 1), (1, 1), (0, 0)])
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
