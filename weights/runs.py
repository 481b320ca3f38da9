"""Folders such as `cloudmask train` leaves, for weights that came about in another way.

    python weights/runs.py RUN FILE --like NAME --trained TEXT

makes one of a weight file, such as `together.py` leaves.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from cloudmask.network import build_network, start_tensorflow
from cloudmask.registry import CARD, list_models, load_model
from cloudmask.weightfile import file_sha256, read_weights, write_weights


def read_card(like: str) -> dict[str, Any]:
    """The card of a run or of a registered model; other names end the program."""
    run, models = Path(like) / CARD, list_models()
    if run.is_file():
        return dict(json.loads(run.read_text()))
    if like not in models:
        raise SystemExit(f"{like} has no card: say whose it gets, --like {' or '.join(models)}")
    return dict(models[like])


def check_new(folder: Path) -> None:
    """End the program where a run's folder exists, before any work."""
    if folder.exists():
        raise SystemExit(f"{folder} exists: name another, or remove it")


def write_run(folder: Path, network: Any, card: dict[str, Any], trained: str) -> None:
    """Write a network's weights and their card, all but a few lines of it as given.

    Raises
    ------
    FileExistsError
        The folder exists.
    """
    for key in ("scores", "default"):
        card.pop(key, None)
    folder.mkdir(parents=True)
    file = folder / f"{folder.name}.weights.h5"
    write_weights(network, file, half=True)
    card |= {
        "architecture": network.name,
        "file": file.name,
        "sha256": file_sha256(file),
        "trained": trained,
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--like", required=True, metavar="NAME", help="whose card it gets")
    parser.add_argument("--trained", required=True, metavar="TEXT", help="how it came about")
    args = parser.parse_args()
    check_new(args.run)
    card = read_card(args.like)
    start_tensorflow()
    network = build_network(load_model(args.file).architecture, "float32")
    read_weights(network, args.file)
    write_run(args.run, network, card, args.trained)


if __name__ == "__main__":
    main()
