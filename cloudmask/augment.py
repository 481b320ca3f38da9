"""Patches cut from a chunk and changed, so that few labelled scenes stand for many sensors.

NumPy only. Pixels are (y, x, 3) float32, 0–1 in here; labels are uint8, 0, 1, and 255 where not
scored. Every function takes its random generator, so that a seed repeats a run.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.fill import fill_nodata
from cloudmask.pasting import Labels, Pixels, haze, lay_sea, paste_cloud, turn

AUGMENTATIONS = (
    "turn", "scale", "radiometry", "tint", "haze", "sea", "paste", "degrade", "nodata",
)  # fmt: skip
"""What can be done to a patch; all of it is by default."""


@dataclass(frozen=True)
class Source:
    """A chunk to cut patches from, and what the whole of it looks like."""

    pixels: Pixels
    """(y, x, 3), 0–1, nodata filled."""
    label: Labels
    """(y, x)."""
    gsd: float | None = None
    """Ground sample distance in metres, where known."""

    @property
    def sample(self) -> tuple[Pixels, NDArray[np.bool_]]:
        """A few thousand scored pixels (n, 3), and which of them are clear."""
        step = max(1, min(self.label.shape) // 64)
        label = self.label[::step, ::step]
        scored = label != NODATA
        if not scored.any():
            scored = np.ones_like(scored)
        return self.pixels[::step, ::step][scored], label[scored] == CLEAR


def patches(
    source: Source,
    count: int,
    size: int,
    rng: np.random.Generator,
    *,
    augment: Sequence[str] = AUGMENTATIONS,
    mattes: Sequence[Pixels] = (),
    towards_cloud: bool = False,
) -> tuple[Pixels, Labels]:
    """Cut patches at random places and change them.

    Parameters
    ----------
    source : Source
        Smaller ones than `size` are mirrored.
    count, size : int
        Number of patches, and their height and width.
    rng : numpy.random.Generator
    augment : sequence of str
        Some of `AUGMENTATIONS`.
    mattes : sequence of (size, size) arrays
        Opacities of real clouds, to paste beside invented ones; see `matte`.
    towards_cloud : bool
        Let each patch hold a cloudy pixel, where there is one.

    Returns
    -------
    pixels : (count, size, size, 3) float32, 0–255
    labels : (count, size, size) uint8
    """
    sample, clear = source.sample
    cloudy = np.flatnonzero(source.label == CLOUD)[::17] if towards_cloud else np.empty(0, int)
    limits = _scales(source, size) if "scale" in augment else (1.0, 1.0)
    # Linear reflectance leaves clear ground dark; a picture made for the eye does not.
    dark = float(np.quantile(sample[clear] if clear.any() else sample, 0.95)) < 0.4
    made = []
    for _ in range(count):
        image, label = _cut(source, size, limits, cloudy, rng)
        if "turn" in augment:
            image, label = turn(image, label, rng)
        if (label == CLOUD).mean() < 0.002:
            if "sea" in augment and rng.random() < 0.45 and not (label == CLOUD).any():
                image = lay_sea(image, dark, rng)
            if "paste" in augment and rng.random() < 0.6:
                image, label = paste_cloud(image, label, dark, mattes, rng)
        if "radiometry" in augment:
            image = _radiometry(image, sample, clear, dark, rng)
        if "tint" in augment:
            image = tint(image, rng)
        if "haze" in augment and rng.random() < 0.15:
            image = haze(image, rng)
        if "degrade" in augment:
            image = degrade(image, rng)
        if "nodata" in augment and rng.random() < 0.12:
            image, label = _nodata_edge(image, label, rng)
        made.append((np.clip(image, 0, 1), label))
    images, labels = zip(*made, strict=True)
    return np.stack(images).astype("float32") * 255, np.stack(labels)


def _scales(source: Source, size: int) -> tuple[float, float]:
    """How much a patch may shrink or grow: down to 120 m, and hardly beyond its own detail."""
    fine = source.gsd is not None and source.gsd < 20
    coarsest = 0.25 if source.gsd is None else max(0.25, min(1.0, source.gsd / 120))
    fits = min(1.0, 0.43 * size / min(source.label.shape))
    return max(coarsest, fits), 1.3 if fine else 2.0


def _cut(
    source: Source,
    size: int,
    limits: tuple[float, float],
    cloudy: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[Pixels, Labels]:
    height, width = source.label.shape
    plain = limits[0] == limits[1] or rng.random() < 0.3
    scale = 1.0 if plain else math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1])))
    side = round(size / scale)
    if cloudy.size:
        at = int(rng.choice(cloudy))
        y = at // width - int(rng.integers(side // 8, 7 * side // 8 + 1))
        x = at % width - int(rng.integers(side // 8, 7 * side // 8 + 1))
    else:
        y, x = (int(rng.integers(max(length - side, 0) + 1)) for length in (height, width))
    y, x = (min(max(v, 0), max(n - side, 0)) for v, n in zip((y, x), (height, width), strict=True))
    window = np.s_[y : y + side, x : x + side]
    image, label = source.pixels[window], source.label[window]
    if scale != 1:
        image, label = _resized(image, label, scale)
    image, label = image[:size, :size], label[:size, :size]
    pad = [(0, size - label.shape[0]), (0, size - label.shape[1])]
    return np.pad(image, [*pad, (0, 0)], "symmetric"), np.pad(label, pad, "symmetric")


def _resized(image: Pixels, label: Labels, scale: float) -> tuple[Pixels, Labels]:
    """Resample; a pixel is cloud where most of it is, and scored where nearly all of it is."""
    shape = tuple(max(1, round(length * scale)) for length in label.shape)

    def resize(plane: NDArray[Any]) -> Pixels:
        picture = Image.fromarray(np.ascontiguousarray(plane, "float32"))
        return np.asarray(picture.resize(shape[::-1], Image.Resampling.BILINEAR))

    bands = np.stack([resize(image[..., band]) for band in range(3)], axis=-1)
    cloud, scored = resize(label == CLOUD), resize(label != NODATA)
    return bands, np.where(scored < 0.9, NODATA, cloud > 0.5).astype("uint8")


def _radiometry(
    image: Pixels,
    sample: Pixels,
    clear: NDArray[np.bool_],
    dark: bool,
    rng: np.random.Generator,
) -> Pixels:
    """As stored, as reflectance, as the package stretches, or as people stretch for the eye."""
    kind = rng.random()
    if kind < 0.3:
        gain = math.exp(rng.normal(0, 0.1)) * np.exp(rng.normal(0, 0.02, 3))
        return image * gain + rng.normal(0, 0.01)
    if dark and kind < 0.55:  # raw Landsat numbers and reflectance differ by an offset
        return (image * 1.31 - 0.1) * math.exp(rng.normal(0.1, 0.25))
    if kind < 0.45:
        return image * rng.uniform(0.25, 0.7) + rng.uniform(0, 0.1)
    if kind < 0.67 or not dark:
        image = np.clip(image, 1e-4, 1) ** math.exp(rng.normal(0, 0.2))
        gain = math.exp(rng.normal(0.05, 0.2)) * np.exp(rng.normal(0, 0.04, 3))
        return image * gain + rng.normal(0, 0.02)
    if kind < 0.8:
        percent = math.exp(rng.uniform(math.log(0.5), math.log(10)))
        low, high = np.percentile(sample, [percent, 100 - percent], axis=0)
        return (image - low) / np.maximum(high - low, 0.02)
    ground = sample[clear] if clear.mean() > 0.05 and rng.random() < 0.6 else sample
    ends = [rng.uniform(0.1, 3), rng.uniform(96, 99.9)]
    low, high = np.percentile(ground, ends, axis=0 if rng.random() < 0.5 else None)
    low = low * rng.uniform(0.6, 1)
    image = (image - low) / np.maximum(high - low, 0.04) * rng.uniform(0.4, 1.05)
    return np.clip(image, 0, 1) ** rng.uniform(0.6, 1.1)


def tint(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Warm or cold light, or bands stretched apart, two times in five: clouds are not white."""
    if rng.random() < 0.6:
        return image
    warmth = rng.normal(0, 0.15) * np.array([1, 0, -1])
    gain = np.exp(warmth + rng.normal(0, 0.03, 3)).astype("float32")
    return image * (gain / gain.mean())


def degrade(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Other saturation, texture, JPEG."""
    if rng.random() < 0.3:
        grey = image.mean(axis=-1, keepdims=True)
        image = grey + (image - grey) * rng.uniform(0.6, 1.4)
    image = retexture(image, rng)
    if rng.random() < 0.15:
        file = io.BytesIO()
        _picture(image).save(file, "JPEG", quality=int(rng.integers(50, 96)))
        image = np.asarray(Image.open(file), "float32") / 255
    return image


def retexture(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Blur, sharpen, add noise, or not: without it all that is smooth is taken for cloud."""
    kind = rng.random()
    if kind < 0.35:  # a scene may be resampled much finer than it was taken
        radius = math.exp(rng.uniform(math.log(0.4), math.log(3)))
        image = _filtered(image, ImageFilter.GaussianBlur(radius))
    elif kind < 0.45:
        mask = ImageFilter.UnsharpMask(rng.uniform(0.5, 2), int(rng.integers(30, 150)), 0)
        image = _filtered(image, mask)
    if rng.random() < 0.3:
        deviation = math.exp(rng.uniform(math.log(0.002), math.log(0.05)))
        image = image + rng.standard_normal(image.shape, "float32") * deviation
    return image


def _filtered(image: Pixels, by: ImageFilter.Filter) -> Pixels:
    return np.asarray(_picture(image).filter(by), "float32") / 255


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray((np.clip(image, 0, 1) * 255).round().astype("uint8"))


def _nodata_edge(image: Pixels, label: Labels, rng: np.random.Generator) -> tuple[Pixels, Labels]:
    """A scene's edge, filled as `predict` fills nodata, and not scored."""
    size = label.shape[0]
    y, x = np.mgrid[:size, :size] - rng.integers(size // 6, size - size // 6, size=(2, 1, 1))
    angle = rng.uniform(0, 2 * np.pi)
    valid = y * np.sin(angle) + x * np.cos(angle) < rng.uniform(0, size / 3)
    if not valid.any():
        return image, label
    filled = fill_nodata(np.clip(image * 255, 0, 255).astype("float32"), valid) / 255
    return filled, np.where(valid, label, NODATA).astype("uint8")
