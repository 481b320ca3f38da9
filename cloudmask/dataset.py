"""From labelled scenes to batches: chunks are read once a visit, and many patches cut from each.

Nothing is kept of a scene between visits, so that memory does not grow with it. A batch depends on
the seed and its number only, so that a run can be resumed anywhere.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np

from cloudmask.augment import Source, patches
from cloudmask.constants import NODATA
from cloudmask.draw import Draw, Sampling, by_set, real_clouds
from cloudmask.labelled import LabelledChunk, Reading, read
from cloudmask.pasting import Labels, Pixels

PATCHES_PER_VISIT = 4
ROUND = 8
"""Batches that are shuffled together; a run can be resumed after each."""
BATCHES_HELD = 4 * ROUND
"""Batches whose patches are in memory at a time."""
VALIDATION_BATCH = 16
"""Validation patches that pass through a network at a time."""
_READERS = 2
"""Visits made at the same time."""


def training_batches(
    chunks: Sequence[LabelledChunk], reading: Reading, sampling: Sampling, *, first_round: int = 0
) -> Any:
    """Stream augmented batches without end.

    Parameters
    ----------
    chunks : sequence of LabelledChunk
        Of the training split.
    reading, sampling
        How chunks are read, and patches drawn.
    first_round : int
        Rounds of `ROUND` batches to leave out, for a run that is resumed.

    Returns
    -------
    tf.data.Dataset
        (batch, size, size, 3) float32 0–255, (batch, size, size, 1) uint8. Holds about four
        rounds of patches in float16, and the chunks being read.
    """
    import tensorflow as tf

    sets = by_set((chunk.example.set, chunk.cloud > 0, chunk.clear > 0, chunk) for chunk in chunks)
    draw = Draw(sets, sampling)
    mattes = real_clouds(draw, lambda chunk: read(chunk, reading), sampling)
    visits = sampling.batch_size * ROUND // PATCHES_PER_VISIT

    def visit(number: int) -> tuple[Any, Labels]:
        rng = np.random.default_rng([sampling.seed, int(number)])
        chunk, towards_cloud = draw(rng)
        pixels, labels = patches(
            read(chunk, reading), PATCHES_PER_VISIT, sampling.size, rng,
            augment=sampling.augment, mattes=mattes, towards_cloud=towards_cloud,
        )  # fmt: skip
        return pixels.astype("float16"), labels

    def read_visit(number: Any) -> Any:
        pixels, labels = tf.numpy_function(visit, [number], (tf.float16, tf.uint8), stateful=False)
        shape = (PATCHES_PER_VISIT, sampling.size, sampling.size)
        return tf.ensure_shape(pixels, (*shape, 3)), tf.ensure_shape(labels, shape)

    def shuffle(number: Any, visited: Any) -> Any:
        pixels, labels = visited
        count = visits * PATCHES_PER_VISIT
        seed = tf.stack([tf.constant(sampling.seed, tf.int64), number])
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed)
        side = sampling.size
        pixels = tf.gather(tf.reshape(pixels, (count, side, side, 3)), order)
        labels = tf.gather(tf.reshape(labels, (count, side, side, 1)), order)
        return tf.data.Dataset.from_tensor_slices((pixels, labels))

    first = first_round * visits
    visited = (
        tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        .map(read_visit, num_parallel_calls=_READERS, deterministic=True)
        .prefetch(visits // 2)
        .batch(visits, drop_remainder=True)
    )
    rounds = tf.data.Dataset.range(first_round, np.iinfo(np.int64).max)
    return (
        tf.data.Dataset.zip((rounds, visited))
        .flat_map(shuffle)
        .batch(sampling.batch_size, drop_remainder=True)
        .map(lambda pixels, labels: (tf.cast(pixels, tf.float32), labels))
        .prefetch(2)
    )


def validation_patches(
    chunks: Sequence[LabelledChunk], reading: Reading, sampling: Sampling, *, limit: int
) -> tuple[Pixels, Labels]:
    """Cut patches that stay the same, unchanged, from all sets alike.

    Returns
    -------
    pixels : (n, size, size, 3) float16, 0–255
    labels : (n, size, size, 1) uint8
        At most `limit` patches with a scored pixel, sets taking turns; then shuffled: most losses
        are ratios of their batch, and of one that is all clear say little of false cloud.
    """
    size = sampling.size
    places: dict[str, list[tuple[LabelledChunk, int, int]]] = {}
    for chunk in chunks:
        height, width = (stop - start for start, stop in (chunk.rows, chunk.columns))
        places.setdefault(chunk.example.set, []).extend(
            (chunk, y, x) for y in _starts(height, size) for x in _starts(width, size)
        )
    source = lru_cache(maxsize=1)(partial(read, reading=reading))
    rng = np.random.default_rng(0)

    def any_scored(part: list[tuple[LabelledChunk, int, int]]) -> tuple[Any, Labels] | None:
        drawn = [part[i] for i in rng.permutation(len(part))]
        turn: dict[LabelledChunk, int] = {}
        for at, (chunk, _, _) in enumerate(drawn):
            turn.setdefault(chunk, at)
        drawn.sort(key=lambda place: turn[place[0]])  # each chunk is read once
        cuts = (_cut(source(chunk), y, x, size) for chunk, y, x in drawn)
        return next((cut for cut in cuts if (cut[1] != NODATA).any()), None)

    share = -(-limit // len(places))
    chosen = []
    for members in places.values():
        parts = min(share, len(members))
        begins = [len(members) * part // parts for part in range(parts + 1)]
        chosen.append([any_scored(members[start:stop]) for start, stop in pairwise(begins)])
    turns = [patch for turn in zip_longest(*chosen) for patch in turn if patch][:limit]
    pixels, labels = zip(*(turns[i] for i in rng.permutation(len(turns))), strict=True)
    return np.stack(pixels), np.stack(labels)[..., None]


def _starts(length: int, size: int) -> list[int]:
    """Where patches begin that lie evenly, from end to end."""
    spread = np.linspace(0, max(length - size, 0), -(-length // size))
    return [int(start) for start in spread.round()]


def _cut(source: Source, y: int, x: int, size: int) -> tuple[Any, Labels]:
    window = np.s_[y : y + size, x : x + size]
    image, label = source.pixels[window], source.label[window]
    pad = [(0, size - label.shape[0]), (0, size - label.shape[1])]
    image = np.pad(image, [*pad, (0, 0)], "symmetric")
    return (image * 255).astype("float16"), np.pad(label, pad, constant_values=NODATA)
