"""Ask whether peak memory grows with the scene.

    python benchmarks/memory.py FOLDER [--short] [--sides 8000 16000 32000 60000] [--coarse 60000]
        [--real 8000] [--models slim-lite unet-f1] [--runs 3]

Scenes at their own pixels, and one of COARSE px at every 20th, mask on the scene's grid, through a
network that costs nothing; then the command with real ones at REAL px. The masks take COARSE²
bytes of disk.
"""

from functools import partial
from typing import Any

import numpy as np
from measuring import Fake, alternate, apart, options, repeated, report, sample, segment


class Cheap(Fake):
    """Brightness taken for probability."""

    def __call__(self, pixels: Any) -> Any:
        """One of the three bands."""
        return np.multiply(pixels[..., 0], np.float32(1 / 255), dtype="float32")


def cheap(scene: str, mask: str, factor: float) -> dict[str, Any]:
    """What the command does, with another network."""
    from cloudmask import open_scene, predict, threshold, write_cog

    probability = predict(open_scene(scene, resize_factor=factor), Cheap())
    if factor == 1:
        write_cog(threshold(probability, 0.5), mask, overwrite=True)
    else:
        write_cog(probability, mask, like=scene, overwrite=True)
    return {}


def main() -> None:
    """Run the benchmark."""
    models = ["slim-lite", "unet-f1"]
    asked = options(
        __doc__,
        sides=([8_000, 16_000, 32_000, 60_000], [2_000, 4_000, 8_000]),
        coarse=(60_000, 15_000),
        real=(8_000, 1_024),
        models=(models, models),
    )
    mask = asked.folder / "mask.tif"
    contestants: dict[str, Any] = {
        f"{side:,}² px, network that costs nothing": partial(
            apart, cheap, scene=repeated(asked.folder, side), mask=mask, factor=1
        )
        for side in asked.sides
    }
    contestants[f"{asked.coarse:,}² px at factor 20, network that costs nothing"] = partial(
        apart, cheap, scene=repeated(asked.folder, asked.coarse), mask=mask, factor=20
    )
    scene = sample(asked.folder, asked.real)
    for model in asked.models:
        how = ("--gsd", "native", "--model", model)
        contestants[f"{asked.real:,}² px, {model}"] = partial(segment, scene, mask, *how)
    rows = alternate(contestants, asked.runs)
    keys = ("seconds", "peak_bytes", "runs")
    report(__file__, __doc__, asked, {n: {k: row[k] for k in keys} for n, row in rows.items()})


if __name__ == "__main__":
    main()
