"""From labelled scenes to batches: chunks are read once a visit, and many patches cut from each.

Nothing is kept of a scene between visits, so that memory does not grow with it. A batch depends on
the seed and its number only, so that a run can be resumed anywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloudmask.augment import AUGMENTATIONS, patches
from cloudmask.constants import NODATA
from cloudmask.labelled import Chunk, Reading, read
from cloudmask.pasting import Labels, Pixels, matte

PATCHES_PER_VISIT = 4
ROUND = 8
"""Batches that are shuffled together; a run can be resumed after each."""
BATCHES_HELD = 4 * ROUND
"""Batches whose patches are in memory at a time."""
_READERS = 2
"""Visits made at the same time."""
_MATTES = 48
"""Real clouds kept to be pasted, a quarter of a megabyte each."""


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn from chunks."""

    size: int = 256
    """Height and width of a patch."""
    batch_size: int = 32
    """Patches of a batch."""
    seed: int = 0
    """Of everything random."""
    augment: tuple[str, ...] = AUGMENTATIONS
    """What is done to patches."""
    mix: tuple[tuple[str, float], ...] = ()
    """How often a set is drawn, for sets that are to differ from 1."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.augment if name not in AUGMENTATIONS]
        if unknown:
            raise ValueError(
                f"augment {', '.join(unknown)} is unknown: choose {', '.join(AUGMENTATIONS)}"
            )
        for what, count in (("patch", self.size), ("batch size", self.batch_size)):
            if count < 1:
                raise ValueError(f"{what} is {count}: give at least 1")
        for name, weight in self.mix:
            if not 0 <= weight < math.inf:
                raise ValueError(f"mix draws {name} {weight} times: give a number of at least 0")

    @property
    def visits(self) -> int:
        """Chunks read for one round of batches."""
        return self.batch_size * ROUND // PATCHES_PER_VISIT


def check_mix(chunks: Sequence[Chunk], sampling: Sampling) -> None:
    """Refuse a mix of sets that are not there, or of none, with a ValueError."""
    sets = dict.fromkeys(chunk.example.set for chunk in chunks)
    unknown = dict(sampling.mix).keys() - sets.keys()
    if unknown:
        raise ValueError(
            f"mix names sets without training images: {', '.join(sorted(unknown))}; "
            f"there are {', '.join(sets)}"
        )
    if not any(dict(sampling.mix).get(name, 1) for name in sets):
        raise ValueError("mix draws every set 0 times: give one of them more")


def training_batches(
    chunks: Sequence[Chunk], reading: Reading, sampling: Sampling, *, first_round: int = 0
) -> Any:
    """Stream augmented batches without end.

    Parameters
    ----------
    chunks : sequence of Chunk
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

    draw = _Draw(chunks, sampling)
    mattes = _mattes(draw, reading, sampling) if "paste" in sampling.augment else []

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
        count = sampling.visits * PATCHES_PER_VISIT
        seed = tf.stack([tf.constant(sampling.seed, tf.int64), number])
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed)
        side = sampling.size
        pixels = tf.gather(tf.reshape(pixels, (count, side, side, 3)), order)
        labels = tf.gather(tf.reshape(labels, (count, side, side, 1)), order)
        return tf.data.Dataset.from_tensor_slices((pixels, labels))

    first = first_round * sampling.visits
    visited = (
        tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        .map(read_visit, num_parallel_calls=_READERS, deterministic=True)
        .prefetch(sampling.visits // 2)
        .batch(sampling.visits, drop_remainder=True)
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
    chunks: Sequence[Chunk], reading: Reading, sampling: Sampling, *, limit: int
) -> tuple[Pixels, Labels]:
    """Cut patches that stay the same, unchanged, from all sets alike.

    Returns
    -------
    pixels : (n, size, size, 3) float16, 0–255
    labels : (n, size, size, 1) uint8
        At most `limit` patches, sets taking turns.
    """
    size = sampling.size
    places: dict[str, list[tuple[Chunk, int, int]]] = {}
    for chunk in chunks:
        height, width = (stop - start for start, stop in (chunk.rows, chunk.columns))
        places.setdefault(chunk.example.set, []).extend(
            (chunk, y, x)
            for y in range(0, max(height - size // 2, 1), size)
            for x in range(0, max(width - size // 2, 1), size)
        )
    share = -(-limit // len(places))
    chosen = []
    for members in places.values():
        every = np.linspace(0, len(members) - 1, min(share, len(members))).round().astype(int)
        chosen.append([members[i] for i in every])
    turns = [
        members[i] for i in range(max(map(len, chosen))) for members in chosen if i < len(members)
    ]
    made = [_validation_patch(chunk, y, x, size, reading) for chunk, y, x in turns[:limit]]
    pixels, labels = zip(*made, strict=True)
    return np.stack(pixels), np.stack(labels)[..., None]


def _validation_patch(
    chunk: Chunk, y: int, x: int, size: int, reading: Reading
) -> tuple[Any, Labels]:
    source = read(chunk, reading)
    height, width = source.label.shape
    y, x = max(0, min(y, height - size)), max(0, min(x, width - size))
    window = np.s_[y : y + size, x : x + size]
    image, label = source.pixels[window], source.label[window]
    pad = [(0, size - label.shape[0]), (0, size - label.shape[1])]
    image = np.pad(image, [*pad, (0, 0)], "symmetric")
    return (image * 255).astype("float16"), np.pad(label, pad, constant_values=NODATA)


class _Draw:
    """Chooses a chunk: first a set, then cloudy or clear, then one of its chunks."""

    def __init__(self, chunks: Sequence[Chunk], sampling: Sampling):
        self.sets: dict[str, tuple[list[Chunk], list[Chunk]]] = {}
        for chunk in chunks:
            cloudy, clear = self.sets.setdefault(chunk.example.set, ([], []))
            if chunk.cloud:
                cloudy.append(chunk)
            if chunk.clear:
                clear.append(chunk)
        check_mix(chunks, sampling)
        mix = dict(sampling.mix)
        weights = np.array([mix.get(name, 1.0) for name in self.sets])
        self.weights = weights / weights.sum()

    def __call__(self, rng: np.random.Generator) -> tuple[Chunk, bool]:
        """A chunk, and whether its patches should lie on cloud."""
        name = list(self.sets)[int(rng.choice(len(self.sets), p=self.weights))]
        cloudy, clear = self.sets[name]
        towards_cloud = bool(cloudy) and (not clear or rng.random() < 0.6)
        members = cloudy if towards_cloud else clear
        return members[int(rng.integers(len(members)))], towards_cloud


def _mattes(draw: _Draw, reading: Reading, sampling: Sampling) -> list[Pixels]:
    """Opacities of real clouds, of chunks drawn as in training."""
    rng = np.random.default_rng([sampling.seed, 2**32])
    made: list[Pixels] = []
    for _ in range(8 * _MATTES):
        chunk, towards_cloud = draw(rng)
        if towards_cloud and len(made) < _MATTES:
            pixels, labels = patches(
                read(chunk, reading), 1, sampling.size, rng, augment=("turn",), towards_cloud=True
            )
            found = matte(pixels[0] / 255, labels[0])
            if found is not None:
                made.append(found.astype("float32"))
    return made
