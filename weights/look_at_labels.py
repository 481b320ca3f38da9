"""Ask whether the labels of several sets mean the same by "cloud", and lie on their images.

    python weights/look_at_labels.py MANIFEST [--page labels.png]

For each set, over the training images that show cloud on ground they can be told from: the share
of cloud pixels dimmer than a quarter of the way from clear ground (its median) to bright cloud (the
0.9 quantile), which generous outlines and thin cloud raise; the share of clear pixels brighter than
half of that way, which missed cloud raises; and the shift in pixels (down, right) at which label
and brightness agree best. The page shows, of each set, the two images with the most dim cloud: the
image, its label, and where that is dim (orange) or clear ground bright (magenta).
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from cloudmask.cli.output import log_to_stderr
from cloudmask.constants import NODATA
from cloudmask.manifest import read_examples
from cloudmask.plots import Tile, draw_worst

REACH = 4


def main() -> None:
    """Print a line for each set, and draw the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--page", type=Path, help="PNG to write")
    args = parser.parse_args()
    log_to_stderr(quiet=False)
    found, tiles = defaultdict(list), defaultdict(list)
    for example in read_examples(args.manifest):
        if example.split != "train":
            continue
        with rasterio.open(example.image) as image, rasterio.open(example.label) as label:
            pixels, classes = image.read([1, 2, 3]), label.read(1)
        grey = pixels.mean(axis=0)
        cloud, clear = classes == 1, classes == 0
        if cloud.mean() < 0.02 or clear.mean() < 0.1:
            continue
        ground, bright = np.median(grey[clear]), np.quantile(grey[cloud], 0.9)
        largest = np.iinfo(pixels.dtype).max
        if bright < ground + 0.08 * largest:
            continue
        way = (grey - ground) / (bright - ground)
        agreement = correlation(np.where(classes == NODATA, 0, np.clip(way, 0, 1)), cloud)
        dim = (way[cloud] < 0.25).mean()
        found[example.set].append((dim, (way[clear] > 0.5).mean(), agreement))
        shown = np.where(classes == NODATA, NODATA, way > np.where(cloud, 0.25, 0.5))
        title = f"{example.set}: {Path(example.image).name}, {dim:.0%} of the cloud is dim"
        rgb = np.moveaxis(pixels * (255 / largest), 0, -1)
        tiles[example.set].append((dim, Tile(title, rgb, classes, shown)))
    print(f"{'set':16} {'images':>6} {'dim cloud':>9} {'bright clear':>12} {'shift':>8}")
    for name, rows in found.items():
        dim, bright, agreement = (np.mean([row[i] for row in rows], axis=0) for i in range(3))
        y, x = np.unravel_index(agreement.argmax(), agreement.shape)
        print(f"{name:16} {len(rows):6} {dim:9.2f} {bright:12.3f} {y - REACH:4d} {x - REACH:3d}")
    if args.page:
        most = [sorted(members, key=lambda pair: -pair[0])[:2] for members in tiles.values()]
        draw_worst([tile for pairs in most for _, tile in pairs], args.page)


def correlation(image: NDArray[np.float64], label: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How well label and image agree, if the label lies up to `REACH` pixels off, each way."""
    spectra = [np.fft.fft2(plane - plane.mean()) for plane in (label, image)]
    product = np.fft.ifft2(spectra[0] * np.conj(spectra[1])).real
    moved = np.roll(product, (REACH, REACH), axis=(0, 1))[: 2 * REACH + 1, : 2 * REACH + 1]
    return moved / (label.std() * image.std() * label.size)


if __name__ == "__main__":
    main()
