"""Tell how good models are on scenes as they are, and on ones that are softer, brighter, coarser.

    python weights/robustness.py MANIFEST MODEL… [--only as-is] [--split val] [--scale 65535]
        [--threshold T] [--every 4]

MODEL may be several models, and they may be shown other views: views.py. A line for each condition:
F1 of each set, the share of false cloud over images without cloud, and the measure that
models and thresholds were chosen by: the mean F1 of the sets less five times that share. The
threshold is the one of the best measure on images as they are, in steps of 0.05, unless given.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image, ImageFilter
from views import committee

from cloudmask import CloudModel, predict
from cloudmask.cli.output import log_to_stderr
from cloudmask.constants import CLOUD, NODATA
from cloudmask.labelled import Reading, open_pair
from cloudmask.manifest import read_examples, select_split
from cloudmask.scores import score, tally
from cloudmask.stretch import from_percentiles

Array = Any
THRESHOLDS = np.arange(0.2, 0.85, 0.05)
CLOUDLESS = "clear_rgb"
"""The set without any cloud."""
LINEAR = ("cloudxnet_l8", "biome_l8", "cloud38_l8_raw")
"""Sets that hold Landsat's numbers; the others stay as they are where reflectance is asked for."""


def blurred(radius: float) -> Any:
    """By a Gaussian, as of a scene that was resampled finer than it was taken."""

    def change(pixels: Array, label: Array) -> tuple[Array, Array]:
        known = ~np.isnan(pixels)
        whole = np.where(known, pixels, 0).round().astype("uint8")
        picture = Image.fromarray(np.moveaxis(whole, 0, -1))
        softer = np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))
        return np.where(known, np.moveaxis(softer, -1, 0), np.nan), label

    return change


def times(factor: float) -> Any:
    """Brighter or darker."""
    return lambda pixels, label: (np.clip(pixels * factor, 0, 255), label)


def reflectance(pixels: Array, label: Array) -> tuple[Array, Array]:
    """Landsat's reflectance, times 255, of its numbers on the scale of their 16 bits."""
    return np.clip(pixels * (65535 * 2e-5) - 0.1 * 255, 0, 255), label


def stretched(pixels: Array, label: Array) -> tuple[Array, Array]:
    """By the second percentile of each band, as `--stretch 2` does."""
    return from_percentiles(pixels, 2)(pixels), label


def halved(pixels: Array, label: Array) -> tuple[Array, Array]:
    """At half of the resolution; a pixel is cloud where most of it is, and scored where all is."""
    y, x = (length // 2 for length in label.shape)
    pixels = pixels[:, : 2 * y, : 2 * x].reshape(3, y, 2, x, 2).mean((2, 4))
    label = label[: 2 * y, : 2 * x].reshape(y, 2, x, 2)
    cloud, scored = (label == CLOUD).mean((1, 3)) > 0.5, (label != NODATA).all((1, 3))
    return pixels, np.where(scored, cloud, NODATA).astype("uint8")


def doubled(pixels: Array, label: Array) -> tuple[Array, Array]:
    """Enlarged twice, bilinearly."""
    size = label.shape[1] * 2, label.shape[0] * 2
    bands = [
        Image.fromarray(band).resize(size, Image.Resampling.BILINEAR)
        for band in np.nan_to_num(pixels).astype("float32")
    ]
    is_nodata = np.isnan(pixels).any(axis=0).repeat(2, 0).repeat(2, 1)
    larger = np.where(is_nodata, np.nan, np.stack([np.asarray(band) for band in bands]))
    return larger, label.repeat(2, 0).repeat(2, 1)


CONDITIONS = {
    "as-is": lambda pixels, label: (pixels, label),
    "blurred-0.7": blurred(0.7),
    "blurred-1": blurred(1),
    "blurred-1.5": blurred(1.5),
    "blurred-2.5": blurred(2.5),
    "reflectance": reflectance,
    "stretched": stretched,
    "brighter": times(1.4),
    "darker": times(0.7),
    "halved": halved,
    "doubled": doubled,
}


def images(
    manifest: Path, split: str, scale: float | None, every: int
) -> Iterator[tuple[str, Array, Array]]:
    """Set, pixels (3, y, x) 0–255 with NaN for nodata, label; one in `every` of those all clear."""
    clear = 0
    for example in select_split(read_examples(manifest), split):
        clear += example.set == CLOUDLESS
        if example.set == CLOUDLESS and clear % every:
            continue
        scene, label = open_pair(example, Reading(scale=scale))
        yield example.set, scene.to_numpy().astype("float32"), label.to_numpy()


def whole(model: CloudModel, pixels: Array) -> Array:
    """What a model says of images of any size, with nodata."""
    scene = xr.DataArray(pixels, dims=("time", "y", "x", "band")).transpose(
        "time", "band", "y", "x"
    )
    return predict(scene.chunk(), model).to_numpy()


def main() -> None:
    """Read the command line and print a line for each condition."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--only", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--split", default="val")
    parser.add_argument("--threshold", type=float, help="as it was chosen on validation")
    parser.add_argument("--scale", type=float)
    parser.add_argument(
        "--every", type=int, default=4, help="one in so many of the images without cloud is taken"
    )
    args = parser.parse_args()
    log_to_stderr(quiet=False)
    read = list(images(args.manifest, args.split, args.scale, args.every))
    if not any(name == CLOUDLESS for name, *_ in read):
        parser.error(
            f"{args.manifest} has fewer than {args.every} images of {CLOUDLESS} in {args.split}"
        )
    sets = [name for name in dict.fromkeys(name for name, *_ in read) if name != CLOUDLESS]

    def measure(
        tallies: dict[str, list[Any]], threshold: float
    ) -> tuple[float, list[float], float]:
        f1 = [score(tallies[name], threshold).f1 for name in sets]
        false = score(tallies[CLOUDLESS], threshold).false_cloud
        return float(np.mean(f1)) - 5 * false, f1, false

    print(f"{'model':31} {'':12}", *(f"{name:>15}" for name in [*sets, "false cloud", "measure"]))
    for name in args.models:
        model, threshold = committee(name, whole), args.threshold
        for condition in dict.fromkeys(["as-is", *args.only]):
            tallies = defaultdict(list)
            for of_set, pixels, label in read:
                is_told = condition != "reflectance" or of_set in LINEAR
                change = CONDITIONS[condition if is_told else "as-is"]
                seen, classes = change(pixels, label)
                (said,) = model(np.moveaxis(seen.astype("float32"), 0, -1)[None])
                tallies[of_set].append(tally(said, classes))
            if threshold is None:
                threshold = max(THRESHOLDS, key=lambda t: measure(tallies, t)[0])
            found, f1, false = measure(tallies, threshold)
            values = [*(f"{value:15.3f}" for value in f1), f"{false:15.2%}", f"{found:15.3f}"]
            print(f"{Path(name).stem[-31:]:31} {condition:12}", *values, f"{threshold:.2f}")


if __name__ == "__main__":
    main()
