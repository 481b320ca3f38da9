"""Patches for training without TensorFlow: images of a manifest, and processes that cut them.

NumPy, Pillow and tifffile only, on any machine; images are those of weights/make_manifest.py.
"""

import csv
import math
import mmap
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from cloudmask.augment import Source, patches
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.draw import Draw, Sampling, by_set, real_clouds

Array = Any
PER_VISIT = 2
"""Patches cut from a chunk at a time."""
PLAIN = 0.4
"""Share of the visits whose patches keep their own texture."""
SLOTS = 48
"""Batches that wait."""


def opened(path: Path) -> Array:
    """(y, x) or (y, x, band) as stored."""
    if path.suffix == ".tif":
        image = tifffile.imread(path)
        return image if image.ndim == 2 or image.shape[-1] == 3 else np.moveaxis(image[:3], 0, -1)
    image = Image.open(path)
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def read_split(manifest: Path, split: str) -> list[SimpleNamespace]:
    """Images of a split with their labels: name of the set, pixels, label, gsd."""
    with manifest.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]

    def load(row: dict[str, str]) -> SimpleNamespace:
        pixels, label = opened(Path(row["image"])), opened(Path(row["label"]))
        gsd = float(row["gsd"]) if row["gsd"] else None
        return SimpleNamespace(set=row["set"], pixels=pixels, label=label, gsd=gsd)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, rows))


def source(image: SimpleNamespace) -> Source:
    """As `cloudmask.labelled.read` would read it."""
    scale = np.float32(1 / np.iinfo(image.pixels.dtype).max)
    return Source(image.pixels * scale, image.label, image.gsd)


def windows(images: list[SimpleNamespace], side: int) -> dict[str, tuple[Array, Array]]:
    """Pixels (n, side, side, 3) uint8 and labels of each set, cut side by side."""
    cut: dict[str, list[tuple[Array, Array]]] = {}
    for image in images:
        pixels = (source(image).pixels * 255).round().astype("uint8")
        high, wide = (-length % side for length in image.label.shape)
        pixels = np.pad(pixels, [(0, high), (0, wide), (0, 0)], "symmetric")
        label = np.pad(image.label, [(0, high), (0, wide)], constant_values=NODATA)
        for y in range(0, label.shape[0], side):
            for x in range(0, label.shape[1], side):
                at = np.s_[y : y + side, x : x + side]
                cut.setdefault(image.set, []).append((pixels[at], label[at]))
    return {
        name: tuple(np.stack(part) for part in zip(*pairs, strict=True))
        for name, pairs in cut.items()
    }


class Patches:
    """Batches that processes make without end, in memory they share."""

    def __init__(self, images: list[SimpleNamespace], sampling: Sampling, makers: int):
        sets = by_set(
            (image.set, (image.label == CLOUD).any(), (image.label == CLEAR).any(), image)
            for image in images
        )
        self.sampling, self.draw = sampling, Draw(sets, sampling)
        self.mattes = real_clouds(self.draw, source, sampling)
        shape = (SLOTS, sampling.batch_size, sampling.size, sampling.size)
        self.pixels, self.labels = (
            np.frombuffer(mmap.mmap(-1, math.prod(shape) * bands), "uint8").reshape(*shape, bands)
            for bands in (3, 1)
        )
        self.sets = list(sets)
        self.of_set = np.frombuffer(mmap.mmap(-1, shape[0] * shape[1]), "uint8").reshape(shape[:2])
        fork = multiprocessing.get_context("fork")
        self.free, self.ready = fork.SimpleQueue(), fork.SimpleQueue()
        for slot in range(SLOTS):
            self.free.put(slot)
        for number in range(makers):
            fork.Process(target=self._make, args=(number,), daemon=True).start()

    def _make(self, number: int) -> None:
        rng = np.random.default_rng([self.sampling.seed, number])
        while True:
            slot = self.free.get()
            for at in range(0, self.sampling.batch_size, PER_VISIT):
                image, towards_cloud = self.draw(rng)
                plain = rng.random() < PLAIN
                changes = [c for c in self.sampling.augment if not (plain and c == "degrade")]
                made = patches(
                    source(image), PER_VISIT, self.sampling.size, rng, mattes=self.mattes,
                    augment=changes, towards_cloud=towards_cloud,
                )  # fmt: skip
                self.pixels[slot, at : at + PER_VISIT] = made[0].round()
                self.labels[slot, at : at + PER_VISIT, ..., 0] = made[1]
                self.of_set[slot, at : at + PER_VISIT] = self.sets.index(image.set)
            self.ready.put(slot)

    def __call__(self) -> tuple[Array, Array, Array]:
        """The next batch: pixels, labels, and the name of the set of each."""
        slot = self.ready.get()
        names = np.array(self.sets)[self.of_set[slot]]
        batch = self.pixels[slot].copy(), self.labels[slot].copy(), names
        self.free.put(slot)
        return batch
