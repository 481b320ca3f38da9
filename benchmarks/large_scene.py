"""Ask what a 20,000 × 20,000 px scene costs, and where the time goes.

    python benchmarks/large_scene.py FOLDER [--short] [--side 20000] [--factor 10] [--runs 3]

`cloudmask segment` on a scene in tiles and one in strips, decimated, mask on the scene's grid.
"""

from functools import partial

from measuring import alternate, options, report, sample, segment


def main() -> None:
    """Run the benchmark."""
    asked = options(__doc__, side=(20_000, 4_000), factor=(10.0, 10.0))
    scenes = {
        "tiled": sample(asked.folder, asked.side),
        "striped": sample(asked.folder, asked.side, "--striped"),
    }
    mask = asked.folder / "mask.tif"
    contestants = {
        kind: partial(segment, scene, mask, "--resize-factor", asked.factor)
        for kind, scene in scenes.items()
    }
    report(__file__, __doc__, asked, alternate(contestants, asked.runs))


if __name__ == "__main__":
    main()
