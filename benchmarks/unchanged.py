"""Ask whether another checkout makes the same masks: what work on speed must not change.

    python benchmarks/unchanged.py FOLDER --before CHECKOUT --scenes SCENE… [--precision float32]

Both make a mask of each scene at its own pixels with the same weight file, and the pixels that
differ are counted. Scenes that are not uint8 are stretched by 2 %. CHECKOUT is another working tree
of this repository (`git worktree add CHECKOUT COMMIT`); it needs no environment of its own.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from context import context
from measuring import report

HERE = Path(__file__).parent


def mask(checkout: Path, scene: Path, out: Path, weights: Path, precision: str) -> Any:
    """The mask that a checkout makes of a scene."""
    with rasterio.open(scene) as dataset:
        stretch = [] if dataset.dtypes[0] == "uint8" else ["--stretch", "2"]
        bands = [] if dataset.count > 2 else ["--bands", "1,1,1"]
    command = [sys.executable, "-m", "cloudmask", "segment", scene, out, "--model", weights]
    command += ["--threshold", "0.5", "--gsd", "native", "--precision", precision, "--overwrite"]
    subprocess.run(
        [str(part) for part in [*command, *stretch, *bands, "--quiet"]],
        check=True,
        cwd=checkout,  # where Python looks first
        env=os.environ | {"PYTHONPATH": str(checkout)},
    )
    with rasterio.open(out) as dataset:
        return dataset.read(1)


def main() -> None:
    """Read the command line, count, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for masks")
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--scenes", type=Path, nargs="+", required=True)
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    asked = parser.parse_args()
    asked.context, asked.results = context(), HERE  # before anything runs
    asked.folder.mkdir(parents=True, exist_ok=True)
    out, weights = asked.folder.resolve() / "mask.tif", HERE.parent / "weights/unet-f1.weights.h5"
    rows = {}
    for precision in asked.precision:
        pixels = differ = 0
        for scene in asked.scenes:
            before, now = (
                mask(checkout.resolve(), scene.resolve(), out, weights.resolve(), precision)
                for checkout in (asked.before, HERE.parent)
            )
            pixels += now.size
            differ += int(np.count_nonzero(before != now))
            print(f"{precision}: {scene.name}", file=sys.stderr, flush=True)
        rows[precision] = {
            "scenes": len(asked.scenes),
            "pixels": pixels,
            "differ": differ,
            "percent": 100 * differ / pixels,
        }
    commit = ["git", "-C", str(asked.before), "rev-parse", "--short", "HEAD"]
    asked.before = subprocess.run(commit, check=True, capture_output=True, text=True).stdout.strip()
    asked.scenes = [scene.name for scene in asked.scenes]
    report(__file__, __doc__, asked, rows)


if __name__ == "__main__":
    main()
