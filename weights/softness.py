"""Tell what a model makes of scenes that are less sharp than their pixels: resampled, enlarged.

    python weights/softness.py MODEL MANIFEST [--split val] [--scale 65535]

Images are rounded to 8 bits and blurred by a Gaussian of 0 to 2.5 pixels. For each of these: F1 of
each set, and the share of false cloud over `CLEAR_IMAGES` images without cloud, evenly chosen.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image, ImageFilter

from cloudmask import load_model, predict
from cloudmask.constants import CLOUD
from cloudmask.labelled import Reading, open_pair
from cloudmask.manifest import read_examples, select_split
from cloudmask.scores import score, tally

RADII = (0, 0.7, 1, 1.5, 2.5)
CLEAR_IMAGES = 72


def main() -> None:
    """Read the command line and print a line for each radius."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--scale", type=float)
    args = parser.parse_args()
    model, reading = load_model(args.model), Reading(scale=args.scale)
    clear, cloudy = [], []
    for example in select_split(read_examples(args.manifest), args.split):
        scene, label = open_pair(example, reading)
        classes = label.to_numpy()
        kind = cloudy if (classes == CLOUD).any() else clear
        kind.append((example.set, scene, classes))
    chosen = np.linspace(0, len(clear) - 1, min(CLEAR_IMAGES, len(clear))).round().astype(int)
    images = cloudy + [("clear", *clear[i][1:]) for i in chosen]
    sets = list(dict.fromkeys(name for name, *_ in images))
    print("radius", *(f"{name:>15}" for name in sets))
    for radius in RADII:
        found = defaultdict(list)
        for name, scene, classes in images:
            found[name].append(tally(predict(blurred(scene, radius), model).to_numpy(), classes))
        scores = [score(found[name], model.threshold) for name in sets]
        said = [
            f"{of_set.false_cloud:15.2%}" if name == "clear" else f"{of_set.f1:15.3f}"
            for name, of_set in zip(sets, scores, strict=True)
        ]
        print(f"{radius:6}", *said)


def blurred(scene: xr.DataArray, radius: float) -> xr.DataArray:
    """A scene in 8 bits, blurred; what is nodata stays it."""
    pixels = scene.to_numpy()
    known = ~np.isnan(pixels.astype("float32"))
    whole = np.where(known, pixels, 0).round().astype("uint8")
    picture = Image.fromarray(np.moveaxis(whole, 0, -1))
    softer = np.moveaxis(np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))), -1, 0)
    return scene.copy(data=np.where(known, softer, np.nan).astype("float32")).chunk()


if __name__ == "__main__":
    main()
