"""Ask whether the labels of several sets mean the same by "cloud", and lie on their images.

    python weights/look_at_labels.py MANIFEST

For each set, over the training images that show cloud on ground they can be told from: the share
of cloud pixels dimmer than a quarter of the way from clear ground (its median) to bright cloud (the
0.9 quantile), which generous outlines and thin cloud raise; the share of clear pixels brighter than
half of that way, which missed cloud raises; and the shift in pixels (down, right) at which label
and brightness agree best.
"""

import sys
import warnings
from collections import defaultdict

import numpy as np
import rasterio
from numpy.typing import NDArray

from cloudmask.manifest import read_examples

REACH = 4


def main() -> None:
    """Print a line for each set."""
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    found = defaultdict(list)
    for example in read_examples(sys.argv[1]):
        if example.split != "train":
            continue
        with rasterio.open(example.image) as image, rasterio.open(example.label) as label:
            grey, classes = image.read([1, 2, 3]).mean(axis=0), label.read(1)
        cloud, clear = classes == 1, classes == 0
        if cloud.mean() < 0.02 or clear.mean() < 0.1:
            continue
        ground, bright = np.median(grey[clear]), np.quantile(grey[cloud], 0.9)
        if bright < ground + 0.08 * np.iinfo(image.dtypes[0]).max:
            continue
        way = (grey - ground) / (bright - ground)
        agreement = correlation(np.where(classes == 255, 0, np.clip(way, 0, 1)), cloud)
        found[example.set].append(
            ((way[cloud] < 0.25).mean(), (way[clear] > 0.5).mean(), agreement)
        )
    print(f"{'set':16} {'images':>6} {'dim cloud':>9} {'bright clear':>12} {'shift':>8}")
    for name, rows in found.items():
        dim, bright, agreement = (np.mean([row[i] for row in rows], axis=0) for i in range(3))
        y, x = np.unravel_index(agreement.argmax(), agreement.shape)
        print(f"{name:16} {len(rows):6} {dim:9.2f} {bright:12.3f} {y - REACH:4d} {x - REACH:3d}")


def correlation(image: NDArray[np.float64], label: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How well the label, moved by up to `REACH` pixels each way, agrees with the image."""
    spectra = [np.fft.fft2(plane - plane.mean()) for plane in (label, image)]
    product = np.fft.ifft2(spectra[0] * np.conj(spectra[1])).real
    moved = np.roll(product, (REACH, REACH), axis=(0, 1))[: 2 * REACH + 1, : 2 * REACH + 1]
    return moved / (label.std() * image.std() * label.size)


if __name__ == "__main__":
    main()
