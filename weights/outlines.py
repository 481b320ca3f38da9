"""Tell how much of a model's error lies on the outlines of the labels.

    python weights/outlines.py MODEL MANIFEST [--split val] [--scale 65535]

Labels are drawn coarsely, generously or by a threshold, so along their outlines nobody knows what
is right. For each set: F1 of all pixels, and without those within one and two pixels of the border
between labelled cloud and clear, as the PASCAL VOC challenge leaves a border unscored (Everingham
et al. 2010, https://doi.org/10.1007/s11263-009-0275-4).
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cloudmask import load_model, predict
from cloudmask.chunks import Block
from cloudmask.cli.output import log_to_stderr
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.labelled import Reading, open_pair
from cloudmask.manifest import read_examples, select_split
from cloudmask.scores import score, tally

WIDTHS = (0, 1, 2)


def main() -> None:
    """Read the command line and print a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--scale", type=float)
    args = parser.parse_args()
    log_to_stderr(quiet=False)
    model, reading = load_model(args.model), Reading(scale=args.scale)
    found = defaultdict(list)
    for example in select_split(read_examples(args.manifest), args.split):
        scene, label = open_pair(example, reading)
        classes = label.to_numpy()
        if (classes == CLOUD).any():
            probability = predict(scene, model).to_numpy()
            found[example.set].append(
                [tally(probability, without_outline(classes, width)) for width in WIDTHS]
            )
    print(f"{'set':16}" + "".join(f"{f'{width} px':>8}" for width in WIDTHS))
    for name, tallies in found.items():
        f1 = [score(of_width, model.threshold).f1 for of_width in zip(*tallies, strict=True)]
        print(f"{name:16}" + "".join(f"{value:8.3f}" for value in f1))


def without_outline(classes: Block, width: int) -> Block:
    """Classes with pixels within `width` of both cloud and clear no longer scored."""
    if width == 0:
        return classes
    outline = near(classes == CLOUD, width) & near(classes == CLEAR, width)
    return np.where(outline, NODATA, classes).astype("uint8")


def near(pixels: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels that have one of these within `width` rows and columns."""
    picture = Image.fromarray(pixels.astype("uint8"))
    return np.asarray(picture.filter(ImageFilter.MaxFilter(2 * width + 1))) > 0


if __name__ == "__main__":
    main()
