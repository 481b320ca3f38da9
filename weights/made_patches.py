"""Patches for training without TensorFlow: images of a manifest, and processes that cut them.

NumPy, Pillow and tifffile only, on any machine; images are those of weights/make_manifest.py.
"""

import csv
import math
import mmap
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile
from parts import enlarged, part
from PIL import Image

from cloudmask.augment import AUGMENTATIONS, Source, degrade, patches, tint
from cloudmask.constants import CLEAR, CLOUD
from cloudmask.draw import Draw, Sampling, by_set, real_clouds

Array = Any
PER_VISIT = 2
"""Patches cut from a chunk at a time."""
PLAIN = 0.4
"""Share of the patches that keep their own texture."""
LATER = ("tint", "degrade")
"""Augmentations of what students see, and teachers do not: they know more of what is as it was."""
SLOTS = 32
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


class Patches:
    """Batches that processes make without end, in memory they share.

    A batch has what a teacher sees (n, side, side, 3) uint8, the labels of that, what students see
    of it, and where that lies: (n, 3), first row and column, and the side.
    """

    def __init__(self, images: list[SimpleNamespace], sampling: Sampling, makers: int):
        sets = by_set(
            (image.set, (image.label == CLOUD).any(), (image.label == CLEAR).any(), image)
            for image in images
        )
        self.sampling, self.draw = sampling, Draw(sets, sampling)
        self.mattes = real_clouds(self.draw, source, sampling)
        self.sets = list(sets)
        many, side = (SLOTS, sampling.batch_size), (sampling.size, sampling.size)
        self.shown = shared("uint8", *many, *side, 3)
        self.labels = shared("uint8", *many, *side)
        self.seen = shared("uint8", *many, *side, 3)
        self.parts = shared("int16", *many, 3)
        self.of_set = shared("uint8", *many)
        fork = multiprocessing.get_context("fork")
        self.free, self.ready = fork.SimpleQueue(), fork.SimpleQueue()
        for slot in range(SLOTS):
            self.free.put(slot)
        self.makers = [
            fork.Process(target=self._make, args=(number,), daemon=True) for number in range(makers)
        ]
        for maker in self.makers:
            maker.start()

    def _make(self, number: int) -> None:
        rng, side = np.random.default_rng([self.sampling.seed, number]), self.sampling.size
        now = [name for name in AUGMENTATIONS if name not in LATER]
        while True:
            slot = self.free.get()
            for first in range(0, self.sampling.batch_size, PER_VISIT):
                image, towards_cloud = self.draw(rng)
                pixels, labels = patches(
                    source(image), PER_VISIT, side, rng, mattes=self.mattes, augment=now,
                    towards_cloud=towards_cloud,
                )  # fmt: skip
                for at, whole, label in zip(count(first), pixels, labels, strict=False):
                    shown, (y, x, seen) = whole.round().astype("uint8"), part(rng, side, side)
                    view = enlarged(shown[y : y + seen, x : x + seen], side) / np.float32(255)
                    view = tint(view, rng)
                    if rng.random() >= PLAIN:
                        view = degrade(view, rng)
                    self.shown[slot, at], self.labels[slot, at] = shown, label
                    self.seen[slot, at] = (np.clip(view, 0, 1) * 255).round()
                    self.parts[slot, at] = y, x, seen
                    self.of_set[slot, at] = self.sets.index(image.set)
            self.ready.put(slot)

    def __call__(self) -> tuple[Array, ...]:
        """The next batch, and the name of the set of each; a RuntimeError without their makers."""
        while self.ready.empty():
            if wait([maker.sentinel for maker in self.makers], timeout=0.005):
                raise RuntimeError("a process that makes patches has ended: see what it said")
        slot = self.ready.get()
        held = (self.shown, self.labels, self.seen, self.parts)
        batch = *(array[slot].copy() for array in held), np.array(self.sets)[self.of_set[slot]]
        self.free.put(slot)
        return batch


def shared(kind: str, *shape: int) -> Array:
    """An array in memory that processes share."""
    held = mmap.mmap(-1, math.prod(shape) * np.dtype(kind).itemsize)
    return np.frombuffer(held, kind).reshape(shape)
