"""Tell how much of scenes without cloud, or of the edges of nodata, a model takes for cloud.

    python weights/false_cloud.py MODEL SCENE… [--stretch 2]

For each scene, at its own pixels: the share of valid pixels that are cloud, and that of those which
lie within 8 pixels of nodata, both of all valid pixels.
"""

import argparse

from outlines import near

from cloudmask import load_model, open_scene, segment
from cloudmask.constants import CLOUD, NODATA
from cloudmask.scene import describe

REACH = 8


def main() -> None:
    """Read the command line and print a line for each scene."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("scenes", nargs="+", metavar="SCENE")
    parser.add_argument("--stretch", type=float, help="percentile to clip of what is not uint8")
    args = parser.parse_args()
    model = load_model(args.model)
    print(f"{'cloud':>9} {'at edges':>9}  scene")
    for path in args.scenes:
        is_displayed = describe(path)["dtype"] == "uint8"
        scene = open_scene(path, stretch=None if is_displayed else args.stretch)
        mask = segment(scene, model).to_numpy()
        cloud, valid = mask == CLOUD, (mask != NODATA).sum()
        at_edges = cloud & near(mask == NODATA, REACH)
        shares = [found.sum() / valid for found in (cloud, at_edges)]
        print(" ".join(f"{share:9.3%}" for share in shares), f" {path}")


if __name__ == "__main__":
    main()
