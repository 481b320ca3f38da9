"""Tell how much of scenes a model takes for cloud, near nodata and because of it.

    python weights/false_cloud.py MODEL SCENE… [--stretch 2] [--threshold T]

For each scene, at its own pixels: the share of valid pixels that are cloud, and that of those which
lie within 8 pixels of nodata, both of all valid pixels. Where there are clouds, some of these lie
near nodata, too. So slanting stripes of nodata are laid over the scene, 64 px wide, 256 px apart:
of the pixels within 8 px of them, the share that is cloud with them alone, and without them alone.
"""

import argparse

import numpy as np
from outlines import near

from cloudmask import load_model, open_scene, predict
from cloudmask.chunks import Block
from cloudmask.cli.output import log_to_stderr
from cloudmask.scene import describe

REACH = 8
APART, WIDE = 256, 64


def stripes(shape: tuple[int, ...]) -> Block:
    """Where stripes of nodata lie; they slant as the frames of Landsat's scenes do."""
    y, x = np.indices(shape)
    return (x + y // 4) % APART < WIDE


def main() -> None:
    """Read the command line and print a line for each scene."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("scenes", nargs="+", metavar="SCENE")
    parser.add_argument("--stretch", type=float, help="percentile to clip of what is not uint8")
    parser.add_argument("--threshold", type=float, help="default: the model's")
    args = parser.parse_args()
    log_to_stderr(quiet=False)
    model = load_model(args.model)
    threshold = model.threshold if args.threshold is None else args.threshold
    print(f"{'cloud':>9} {'at edges':>9} {'made':>9} {'lost':>9}  scene")
    for path in args.scenes:
        is_displayed = describe(path)["dtype"] == "uint8"
        scene = open_scene(path, stretch=None if is_displayed else args.stretch)
        scene = scene.astype("float32")  # which knows nodata
        probability = predict(scene, model).to_numpy()
        invalid, cloud = np.isnan(probability), probability >= threshold
        cut = stripes(cloud.shape)
        with_stripes = predict(scene.where(~cut), model).to_numpy() >= threshold
        beside = near(cut, REACH) & ~cut & ~invalid
        found = (
            (cloud, ~invalid),
            (cloud & near(invalid, REACH), ~invalid),
            (with_stripes & ~cloud, beside),
            (cloud & ~with_stripes, beside),
        )
        shares = (pixels[of].mean() for pixels, of in found)
        print(" ".join(f"{share:9.3%}" for share in shares), f" {path}")


if __name__ == "__main__":
    main()
