"""Ask what start-up costs: from shell prompt to an answer, and to the mask of a small scene.

    python benchmarks/startup.py FOLDER [--short] [--runs 5]

Each a process of its own, with warm file caches.
"""

import sys
from functools import partial
from typing import Any

from measuring import alternate, options, report, run, sample, segment


def cost(*command: Any) -> dict[str, Any]:
    """Seconds and peak memory of a command of Python's."""
    return run([sys.executable, *command])[1]


def main() -> None:
    """Run the benchmark."""
    asked = options(__doc__, runs=(5, 1))
    scene, mask = sample(asked.folder, 1000), asked.folder / "mask.tif"
    contestants = {
        "cloudmask --version": partial(cost, "-m", "cloudmask", "--version"),
        "cloudmask --help": partial(cost, "-m", "cloudmask", "--help"),
        "import cloudmask": partial(cost, "-c", "import cloudmask"),
        "from cloudmask import segment": partial(cost, "-c", "from cloudmask import segment"),
        "1000² px, default model": partial(segment, scene, mask),
        "1000² px, native, default model": partial(segment, scene, mask, "--gsd", "native"),
        "1000² px, native, U-Net": partial(
            segment, scene, mask, "--gsd", "native", "--model", "unet-f1"
        ),
    }
    report(__file__, __doc__, asked, alternate(contestants, asked.runs))


if __name__ == "__main__":
    main()
