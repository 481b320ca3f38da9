"""Labelled tiles, and the augmented patches that training is fed with.

Values of patches are float32, 0–1 of the file's type, until they leave as RGB 0–255. Labels: 0
clear, 1 cloud, 255 not scored.
"""

import csv
import io
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageFilter

from cloudmask.fill import fill_nodata

SIZE, BATCH = 256, 8
MIX = {
    "cloudxnet_l8": 0.30,
    "biome_l8": 0.16,
    "oncloudn_s2": 0.12,
    "cloud38_l8_raw": 0.08,
    "cloud38_l8": 0.07,
    "cloud95_l8": 0.05,
    "gf1": 0.05,
    "clear_rgb": 0.17,
}
"""Share of the patches that each set gives."""
LINEAR = {"cloudxnet_l8", "biome_l8", "cloud38_l8", "cloud38_l8_raw"}
"""Sets in linear radiometry, about (reflectance + 0.1) / 1.31; the others are as displayed."""


@dataclass
class Tile:
    """One labelled image: integers as stored, label, and where it has data."""

    set: str
    image: np.ndarray
    label: np.ndarray
    valid: np.ndarray

    def __post_init__(self):
        self.cloudy = np.flatnonzero(self.label == 1)[::101]


def smear(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Replace invalid pixels by the nearest valid one of their row, or by the mean."""
    if valid.all() or not valid.any():
        return image
    filled = np.where(valid[..., None], image, image[valid].mean(axis=0).astype(image.dtype))
    columns = np.arange(valid.shape[1])
    left = np.maximum.accumulate(np.where(valid, columns, -1), axis=1)
    right = np.where(valid, columns, 10**6)[:, ::-1]
    right = np.minimum.accumulate(right, axis=1)[:, ::-1]
    nearer = (left >= 0) & (columns - left <= right - columns)
    rows = valid.any(axis=1)
    source = np.where(nearer, left, right)[rows]
    filled[rows] = np.take_along_axis(image[rows], source[..., None], axis=1)
    return filled


def read_tiles(data: Path, split: str) -> dict[str, list[Tile]]:
    """All tiles of one split, by set, nodata filled and unscored."""
    tiles: dict[str, list[Tile]] = {}
    with (data / "manifest.csv").open() as f:
        rows = [row for row in csv.DictReader(f) if row["split"] == split]
    for row in rows:
        if row["image"].endswith(".tif"):
            with rasterio.open(data / row["image"]) as source:
                image = source.read([1, 2, 3]).transpose(1, 2, 0)
        else:
            image = np.asarray(Image.open(data / row["image"]).convert("RGB"))
        label = np.asarray(Image.open(data / row["label"])).copy()
        valid = np.ones(label.shape, bool) if row["set"] == "clear_rgb" else image.any(axis=-1)
        label[~valid] = 255
        tiles.setdefault(row["set"], []).append(Tile(row["set"], smear(image, valid), label, valid))
    return tiles


def resize(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample one float plane, averaging where it shrinks."""
    return np.asarray(Image.fromarray(plane).resize(shape[::-1], Image.Resampling.BILINEAR))


def crop(tile: Tile, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut one patch at a random place, scale and orientation; small tiles are mirrored."""
    h, w = tile.label.shape
    low, high = (0.25, 1.3) if tile.set == "clear_rgb" else (0.5, 2.0)
    low = max(low, min(1.0, 110 / min(h, w)))
    scale = 1.0 if rng.random() < 0.3 else np.exp(rng.uniform(np.log(low), np.log(high)))
    side = round(SIZE / scale)
    if tile.cloudy.size and rng.random() < 0.6:
        y, x = np.unravel_index(rng.choice(tile.cloudy), (h, w))
        y, x = y - rng.integers(side // 4, 3 * side // 4 + 1), x - rng.integers(side)
    else:
        y, x = rng.integers(max(h - side, 0) + 1), rng.integers(max(w - side, 0) + 1)
    y, x = np.clip(y, 0, max(h - side, 0)), np.clip(x, 0, max(w - side, 0))
    at = np.s_[y : y + side, x : x + side]
    image = tile.image[at].astype("f4") / np.iinfo(tile.image.dtype).max
    label = tile.label[at]
    cloud, scored = (label == 1).astype("f4"), (label != 255).astype("f4")
    if scale != 1:
        shape = (round(label.shape[0] * scale), round(label.shape[1] * scale))
        bands = np.ascontiguousarray(image.transpose(2, 0, 1))
        image = np.dstack([resize(band, shape) for band in bands])
        cloud, scored = resize(cloud, shape), resize(scored, shape)
    label = np.where(scored < 0.9, 255, cloud > 0.5).astype("u1")[:SIZE, :SIZE]
    image = image[:SIZE, :SIZE]
    pad = [(0, SIZE - label.shape[0]), (0, SIZE - label.shape[1])]
    label, image = np.pad(label, pad, "symmetric"), np.pad(image, [*pad, (0, 0)], "symmetric")
    turns, mirror = int(rng.integers(4)), rng.integers(2)
    image, label = np.rot90(image, turns), np.rot90(label, turns)
    return (image[:, ::-1], label[:, ::-1]) if mirror else (image, label)


def noise_fields(rng: np.random.Generator, count: int = 96, side: int = 384) -> np.ndarray:
    """Fractal noise, from the grain of cumulus to that of large decks."""
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    fields = []
    for _ in range(count):
        spectrum = (f**2 + np.exp(rng.uniform(0, 3.2)) ** 2) ** (-rng.uniform(1.7, 2.8) / 2)
        field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * spectrum)
        fields.append(((field - field.mean()) / field.std()).astype("f4"))
    return np.stack(fields)


class Augmenter:
    """Makes patches of all sets look like scenes of many sensors and stretches."""

    def __init__(self, tiles: dict[str, list[Tile]], seed: int):
        self.tiles, self.rng = tiles, np.random.default_rng(seed)
        self.fields = noise_fields(self.rng)

    def field(self) -> np.ndarray:
        """A random patch of fractal noise."""
        y, x = self.rng.integers(self.fields.shape[1] - SIZE, size=2)
        return self.fields[self.rng.integers(len(self.fields)), y : y + SIZE, x : x + SIZE]

    def noise_alpha(self) -> np.ndarray:
        """Opacity of clouds made from fractal noise."""
        noise, rng = self.field(), self.rng
        start = np.quantile(noise[::4, ::4], 1 - np.exp(rng.uniform(np.log(0.005), np.log(0.6))))
        alpha = (noise - start) / (rng.uniform(0.2, 1.0) * max(noise.max() - start, 0.1))
        return np.clip(alpha, 0, 1) * rng.uniform(0.6, 1)

    def real_alpha(self) -> np.ndarray | None:
        """Opacity of real clouds, from their brightness over a dark, even surface."""
        tiles = self.tiles[self.rng.choice(["cloudxnet_l8", "cloud38_l8", "cloud38_l8_raw"])]
        image, label = crop(tiles[self.rng.integers(len(tiles))], self.rng)
        grey, cloud, clear = image.mean(axis=-1), label == 1, label == 0
        if not (0.005 < cloud.mean() < 0.6) or clear.mean() < 0.2:
            return None
        ground, spread, bright = (
            np.median(grey[clear]),
            grey[clear].std(),
            np.quantile(grey[cloud], 0.95),
        )
        if bright - ground < max(0.12, 4 * spread):
            return None
        near = Image.fromarray(cloud.astype("u1") * 255).filter(ImageFilter.BoxBlur(3))
        alpha = np.clip((grey - ground - spread) / (bright - ground), 0, 1)
        return alpha * np.minimum(np.asarray(near).astype("f4") / 60, 1)

    def lay_water(self, image: np.ndarray, linear: bool) -> np.ndarray:
        """Cover part of a clear patch with hazy or glinting sea: even, bluish, no cloud."""
        rng = self.rng
        y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
        angle = rng.uniform(0, 2 * np.pi)
        coast = y * np.sin(angle) + x * np.cos(angle) + 0.15 * self.field() + rng.uniform(-1, 1)
        cover = np.clip(coast / np.exp(rng.uniform(-4, 0.5)), 0, 1) * min(1, rng.uniform(0.5, 1.6))
        bright = rng.uniform(0.09, 0.25) if linear else rng.uniform(0.15, 0.65)
        colour = bright * rng.uniform([0.75, 0.85, 1.03], [1.0, 1.0, 1.25])
        slope = 1 + rng.uniform(-0.2, 0.2) * y + rng.uniform(-0.2, 0.2) * x
        waves = slope + rng.uniform(0, 0.06) * self.field() + rng.normal(0, 0.02, y.shape)
        cover = cover[..., None]
        return np.clip(image * (1 - cover) + cover * waves[..., None] * colour, 0, 1)

    def paste_clouds(self, image: np.ndarray, label: np.ndarray, linear: bool):
        """Lay clouds and their shadows over a clear patch, unless it is almost white."""
        rng = self.rng
        if np.quantile(image, 0.8) > 0.8:
            return image, label
        alpha = self.real_alpha() if rng.random() < 0.5 else self.noise_alpha()
        if alpha is None:
            alpha = self.noise_alpha()
        shadow = np.roll(alpha, rng.integers(-20, 21, size=2), axis=(0, 1))
        image = image * (1 - rng.uniform(0, 0.6) * shadow[..., None])
        white = rng.uniform(0.3, 0.75) if linear else rng.uniform(0.75, 1.2)
        texture = 1 + rng.uniform(0, 0.1) * self.field() - rng.uniform(0, 0.25) * (1 - alpha)
        tint = 1 + rng.uniform(-0.04, 0.04, 3).astype("f4")
        cloud = np.maximum(white * texture, np.quantile(image, 0.8) + 0.05)[..., None] * tint
        image = np.clip(image * (1 - alpha[..., None]) + cloud * alpha[..., None], 0, 1)
        changed = np.where(alpha > 0.4, 1, np.where(alpha > 0.15, 255, label))
        return image, np.where(label == 255, 255, changed).astype("u1")

    def radiometry_linear(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """As stored, as reflectance, or as stretched for the eye over the clear ground or all."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.4:
            return image * np.exp(rng.normal(0, 0.08)) + rng.normal(0, 0.01)
        if kind < 0.55:
            return (image * 1.31 - 0.1) * np.exp(rng.normal(0.1, 0.25))
        clear = label[::3, ::3] == 0
        if kind < 0.7:  # the package's own stretch
            percent = np.exp(rng.uniform(np.log(0.5), np.log(10)))
            low, high = np.percentile(image[::3, ::3], [percent, 100 - percent], axis=(0, 1))
            return (image - low) / np.maximum(high - low, 0.02)
        sample = image[::3, ::3][clear if clear.mean() > 0.05 and rng.random() < 0.6 else ...]
        sample = sample.reshape(-1, 3)
        limits = [rng.uniform(0.1, 3), rng.uniform(96, 99.9)]
        low, high = np.percentile(sample, limits, axis=0 if rng.random() < 0.5 else None)
        low = low * rng.uniform(0.6, 1)
        image = (image - low) / np.maximum(high - low, 0.04) * rng.uniform(0.4, 1.05)
        return np.clip(image, 0, 1) ** rng.uniform(0.6, 1.1)

    def radiometry_displayed(self, image: np.ndarray) -> np.ndarray:
        """Other gains and gammas; now and then as dark as linear radiometry."""
        rng = self.rng
        image = image ** np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.12))
        image = image * np.exp(rng.normal(0, 0.04, 3)) + rng.normal(0, 0.02)
        return image * rng.uniform(0.25, 0.6) + rng.uniform(0, 0.1) if rng.random() < 0.2 else image

    def degrade(self, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Haze, other saturation, blur, noise, JPEG, and nodata that has been filled."""
        rng = self.rng
        if rng.random() < 0.15:
            haze = np.clip(0.08 + 0.04 * self.field(), 0, 0.15)[..., None] * rng.uniform(0.3, 1)
            image = image * (1 - haze) + haze * min(1, image.max())
        if rng.random() < 0.3:
            grey = image.mean(axis=-1, keepdims=True)
            image = grey + (image - grey) * rng.uniform(0.6, 1.4)
        if rng.random() < 0.3:
            image = image + rng.normal(0, rng.uniform(0, 0.02), image.shape)
        image = np.clip(image, 0, 1).astype("f4")
        if rng.random() < 0.25:
            picture = Image.fromarray((image * 255).round().astype("u1"))
            if rng.random() < 0.5:
                picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))
            else:
                jpeg = io.BytesIO()
                picture.save(jpeg, "JPEG", quality=int(rng.integers(50, 96)))
                picture = Image.open(jpeg)
            image = np.asarray(picture).astype("f4") / 255
        if rng.random() < 0.12:
            y, x = np.mgrid[:SIZE, :SIZE] - rng.integers(40, SIZE - 40, size=(2, 1, 1))
            angle = rng.uniform(0, 2 * np.pi)
            valid = y * np.sin(angle) + x * np.cos(angle) < rng.uniform(0, 80)
            fill = fill_nodata if rng.random() < 0.7 else smear
            image = fill(image * 255, valid) / 255
            label = np.where(valid, label, 255).astype("u1")
        return image, label

    def patch(self) -> tuple[np.ndarray, np.ndarray]:
        """One augmented patch, RGB 0–255 float32, and its label."""
        rng = self.rng
        name = rng.choice(list(MIX), p=list(MIX.values()))
        image, label = crop(self.tiles[name][rng.integers(len(self.tiles[name]))], rng)
        linear = name in LINEAR
        if (label == 1).mean() < 0.002:
            displayed = name == "clear_rgb"
            if rng.random() < (0.4 if displayed else 0.25):
                image = self.lay_water(image, linear)
            if rng.random() < (0.55 if displayed else 0.25):
                image, label = self.paste_clouds(image, label, linear)
        image = self.radiometry_linear(image, label) if linear else self.radiometry_displayed(image)
        image, label = self.degrade(np.clip(image, 0, 1), label)
        return image * 255, label

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Endless batches, prepared in a thread of their own."""
        ready: queue.Queue = queue.Queue(6)

        def work():
            while True:
                images, labels = zip(*(self.patch() for _ in range(BATCH)), strict=True)
                ready.put((np.stack(images).astype("f4"), np.stack(labels)[..., None]))

        threading.Thread(target=work, daemon=True).start()
        while True:
            yield ready.get()
