"""Write the manifest that the models here were trained and scored on.

    python weights/make_manifest.py DATA [--scene IMAGE LABEL GSD] manifest.csv

DATA holds `manifest.csv` (set, image, label, scene, gsd_m, split) and the images and labels that it
names. Paths become absolute; a scene that is never trained on is added as a set of its own, by the
first part of its name, in `val`. The scenes of clear_rgb are kinds of pictures, such as
aid150/Beach, in all splits, and get the split's name as well: they share no place.
"""

import argparse
import csv
from pathlib import Path

COLUMNS = ("image", "label", "split", "scene", "set", "gsd")
KINDS = "clear_rgb"
"""The set whose scenes are kinds of pictures."""


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scene", nargs=3, metavar=("IMAGE", "LABEL", "GSD"))
    args = parser.parse_args()
    data = args.data.resolve()
    with (data / "manifest.csv").open(newline="") as file:
        rows = [
            {
                "image": data / row["image"],
                "label": data / row["label"],
                "split": row["split"],
                "scene": f"{row['scene']} {row['split']}" if row["set"] == KINDS else row["scene"],
                "set": row["set"],
                "gsd": row["gsd_m"],
            }
            for row in csv.DictReader(file)
        ]
    if args.scene:
        image, label = (Path(path).resolve() for path in args.scene[:2])
        name = image.stem.split("_")[0]
        place = {"image": image, "label": label, "split": "val"}
        rows.append(place | {"scene": name, "set": name, "gsd": args.scene[2]})
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
