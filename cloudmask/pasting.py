"""Clouds, sea and haze laid over a patch, and the fractal noise that they are made of.

Pixels are (y, x, 3) float32, 0–1; labels uint8, 0, 1, and 255 where not scored.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cloudmask.constants import CLEAR, CLOUD, NODATA

Pixels = NDArray[Any]
Labels = NDArray[Any]

_FIELDS = 64
"""Fields of noise that patches are cut from."""

_OPAQUE, _VEIL = 0.3, 0.12
"""Opacity from which a pasted cloud is labelled cloud, and below which still clear."""
_MOSTLY, _HARDLY = 0.35, 0.25
"""The same where pixels are coarse and mix thick cloud with ground."""
_AFAR = 0.35
"""Share of the pasted clouds whose pixels are coarse."""


def matte(image: Pixels, label: Labels) -> Pixels | None:
    """Opacity 0–1 of a patch's clouds by their brightness over dark, even ground; else None."""
    grey, cloud, clear = image.mean(axis=-1), label == CLOUD, label == CLEAR
    if not 0.005 < cloud.mean() < 0.6 or clear.mean() < 0.2:
        return None
    ground, spread = np.median(grey[clear]), grey[clear].std()
    contrast = np.quantile(grey[cloud], 0.95) - ground
    if contrast < max(0.12, 4 * spread):
        return None
    near = Image.fromarray(cloud.astype("uint8") * 255).filter(ImageFilter.BoxBlur(3))
    opacity = np.clip((grey - ground - spread) / contrast, 0, 1)
    return opacity * np.minimum(np.asarray(near, "float32") / 60, 1)


def turn(image: Pixels, label: Labels, rng: np.random.Generator) -> tuple[Pixels, Labels]:
    """Turned by quarters and mirrored, or not."""
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    image, label = np.rot90(image, turns), np.rot90(label, turns)
    return (image[:, ::-1], label[:, ::-1]) if mirrored else (image, label)


def paste_cloud(
    image: Pixels, label: Labels, dark: bool, mattes: Sequence[Pixels], rng: np.random.Generator
) -> tuple[Pixels, Labels]:
    """Lay clouds and their shadows over clear ground, unless it is almost white itself."""
    bright = float(np.quantile(image, 0.8))
    if bright > 0.8:
        return image, label
    opacity = _real_cloud(mattes, rng) if mattes and rng.random() < 0.5 else None
    if opacity is None or opacity.shape != label.shape:
        opacity = _invented_cloud(label.shape[0], rng)
    opaque, veil, times = _OPAQUE, _VEIL, 1
    if rng.random() < _AFAR:
        opaque, veil, times = _MOSTLY, _HARDLY, int(rng.integers(2, 5))
        opacity = _from_afar(opacity, times)
    reach = max(2, label.shape[0] // 12 // times)
    fall = rng.integers(-reach, reach + 1, size=2)
    shadow = np.roll(opacity, fall, axis=(0, 1))
    # A cumulus is bright towards the sun and grey towards its shadow.
    lit = opacity - np.roll(opacity, -np.sign(fall) * rng.integers(1, 4), axis=(0, 1))
    image = image * (1 - rng.uniform(0, 0.6) * shadow[..., None])
    white = rng.uniform(0.3, 0.75) if dark else rng.uniform(0.75, 1.2)
    texture = 1 + rng.uniform(0, 0.15) * _noise(label.shape[0], rng)
    texture = texture - rng.uniform(0, 0.25) * (1 - opacity) - rng.uniform(0, 0.3) * lit
    tint = 1 + rng.uniform(-0.04, 0.04, 3).astype("float32")
    cloud = np.maximum(white * texture, bright + 0.05)[..., None] * tint
    image = np.clip(image * (1 - opacity[..., None]) + cloud * opacity[..., None], 0, 1)
    changed = np.where(opacity > opaque, CLOUD, np.where(opacity > veil, NODATA, label))
    return image, np.where(label == NODATA, NODATA, changed).astype("uint8")


def _invented_cloud(size: int, rng: np.random.Generator) -> Pixels:
    """Opacity of a cloud field made of fractal noise, from a few cumulus to a deck."""
    noise = _noise(size, rng)
    share = math.exp(rng.uniform(math.log(0.003), math.log(0.6)))
    start = np.quantile(noise[::4, ::4], 1 - share)
    soft = math.exp(rng.uniform(math.log(0.1), 0))
    rise = soft * max(float(noise.max() - start), 0.1)
    # What rises steeply is thick; only a slow rise may be a veil all over.
    return np.clip((noise - start) / rise, 0, 1) * rng.uniform(max(0.5, 1 - soft), 1)


def _real_cloud(mattes: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
    chosen = mattes[int(rng.integers(len(mattes)))]
    return turn(chosen, chosen, rng)[0]


def _from_afar(opacity: Pixels, times: int) -> Pixels:
    """The same clouds so many times smaller, mirrored to fill the patch."""
    side = len(opacity) // times
    parts = opacity[: side * times, : side * times].reshape(side, times, side, times)
    return np.pad(parts.mean(axis=(1, 3)), [(0, len(opacity) - side)] * 2, "symmetric")


def lay_sea(image: Pixels, dark: bool, rng: np.random.Generator) -> Pixels:
    """Cover part of a clear patch with hazy or glinting sea: even, bluish, no cloud."""
    size = image.shape[0]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype("float32")
    angle = rng.uniform(0, 2 * np.pi)
    coast = y * np.sin(angle) + x * np.cos(angle) + 0.15 * _noise(size, rng) + rng.uniform(-1, 1)
    cover = np.clip(coast / math.exp(rng.uniform(-4, 0.5)), 0, 1) * min(1, rng.uniform(0.5, 1.6))
    bright = rng.uniform(0.06, 0.25) if dark else rng.uniform(0.1, 0.68)
    colour = bright * rng.uniform([0.7, 0.75, 1.0], [1.0, 1.0, 1.25])
    slope = 1 + rng.uniform(-0.3, 0.3) * y + rng.uniform(-0.3, 0.3) * x
    glint = rng.standard_normal(y.shape, "float32") * 0.02
    waves = slope + rng.uniform(0, 0.1) * _noise(size, rng) + glint
    cover = cover[..., None]
    return np.clip(image * (1 - cover) + cover * waves[..., None] * colour, 0, 1)


def haze(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A thin veil, of which the label says nothing."""
    veil = np.clip(0.08 + 0.04 * _noise(image.shape[0], rng), 0, 0.15) * rng.uniform(0.3, 1)
    return image * (1 - veil[..., None]) + veil[..., None] * min(1.0, float(image.max()))


def _noise(size: int, rng: np.random.Generator) -> Pixels:
    """A patch of fractal noise, mean 0 and deviation 1 over its field."""
    fields = _noise_fields(size * 3 // 2)
    y, x = rng.integers(fields.shape[1] - size + 1, size=2)
    return fields[int(rng.integers(len(fields))), y : y + size, x : x + size]


@lru_cache(maxsize=2)
def _noise_fields(side: int) -> Pixels:
    """Fields of noise from the grain of small cumulus to that of large decks."""
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    fields = np.empty((_FIELDS, side, side), "float32")
    for field in fields:
        corner, slope = math.exp(rng.uniform(0, 4.2)), rng.uniform(1.7, 2.8)
        spectrum = (f**2 + corner**2) ** (-slope / 2)
        noise = np.fft.irfft2(
            np.fft.rfft2(rng.standard_normal((side, side))) * spectrum, (side,) * 2
        )
        field[:] = (noise - noise.mean()) / noise.std()
    return fields
