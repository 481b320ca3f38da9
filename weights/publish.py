"""Put a trained model into the registry, with the scores of its card.

    python weights/publish.py RUN NAME --summary TEXT --gsd 30 --gsd-range 2 130 \
        --scores val=FOLDER test=FOLDER [--default]

RUN is the folder that `cloudmask train` left; FOLDER what `cloudmask evaluate --out` left, one for
each split. Copies the weights, writes NAME.scores.json with everything that was measured, and the
card with one line for each set.
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from cloudmask.registry import CARD

HERE = Path(__file__).parent
KEPT = ("f1", "precision", "recall", "f2", "iou", "brier")


def line(scores: dict[str, Any]) -> dict[str, Any]:
    """What the card says of a set: F1 and its kin, or false cloud where there is none."""
    if scores["recall"] is None or math.isnan(scores["recall"]):
        values: dict[str, Any] = {"false_cloud": scores["false_cloud"]}
    else:
        values = {name: scores[name] for name in KEPT}
        if "f1" in scores["intervals"]:
            values["f1_interval"] = scores["intervals"]["f1"]
    return rounded(values) | {"scenes": scores["scenes"]}


def rounded(value: Any) -> Any:
    """Five digits are more than is known."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 5)
    return value


def main() -> None:
    """Publish a model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--summary", required=True)
    parser.add_argument("--threshold", type=float, help="chosen on validation; default: the run's")
    parser.add_argument("--gsd", type=float, required=True)
    parser.add_argument("--gsd-range", type=float, nargs=2, required=True)
    parser.add_argument("--scores", nargs="+", required=True, metavar="SPLIT=FOLDER")
    parser.add_argument("--default", action="store_true")
    options = parser.parse_args()

    card = json.loads((options.run / CARD).read_text())
    file = f"{options.name}.weights.h5"
    facts = {
        split: json.loads((Path(folder) / "scores.json").read_text())
        for split, folder in (item.split("=", 1) for item in options.scores)
    }
    threshold = card["threshold"] if options.threshold is None else options.threshold
    for split, found in facts.items():
        found.pop("scenes")  # of which there are hundreds
        if found["threshold"] != threshold:
            parser.error(f"{split} was scored at {found['threshold']}, the card says {threshold}")
        of = found["model_sha256"], found["split"]
        if of != (card["sha256"], split):
            parser.error(f"what is given for {split} was scored on {of[1]}, or is of another model")
    registry_file = HERE / "registry.json"
    registry = json.loads(registry_file.read_text())
    # The licence of a set is what an earlier card says of it.
    licences = {
        item["set"]: item["licence"]
        for known in registry["models"].values()
        for item in known["training_data"]
        if "licence" in item
    }
    licences |= {i["set"]: i["licence"] for i in card["training_data"] if "licence" in i}
    if unknown := {item["set"] for item in card["training_data"]} - licences.keys():
        cards = f"training_data of {options.run / CARD}"
        parser.error(f"{', '.join(sorted(unknown))}: add the licence to {cards}")
    if f"weights/{file}" not in (HERE.parent / "pyproject.toml").read_text():
        parser.error(f"wheels would lack {file}: add it to pyproject.toml")
    for item in card["training_data"]:
        item["licence"] = licences[item["set"]]
    registry["models"][options.name] = card | {
        "summary": options.summary,
        "file": file,
        "threshold": threshold,
        "gsd": options.gsd,
        "gsd_range": options.gsd_range,
        "scores": {
            split: {name: line(scores) for name, scores in found["sets"].items()}
            for split, found in facts.items()
        },
    }
    if options.default:
        registry["default"] = options.name
    # All that can fail lies behind.
    shutil.copy(options.run / card["file"], HERE / file)
    (HERE / f"{options.name}.scores.json").write_text(json.dumps(rounded(facts), indent=1) + "\n")
    registry_file.write_text(json.dumps(registry, indent=2) + "\n")


if __name__ == "__main__":
    main()
