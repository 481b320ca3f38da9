"""Folders such as `cloudmask train` leaves, for weights that were not trained but reckoned."""

import json
from pathlib import Path
from typing import Any

from cloudmask.registry import CARD, list_models
from cloudmask.weightfile import file_sha256, write_weights


def write_run(folder: Path, network: Any, like: str, trained: str) -> None:
    """Write a network's weights and their card: that of `like`, a run or a registered model.

    Raises
    ------
    FileExistsError
        The folder exists.
    """
    run = Path(like) / CARD
    card = json.loads(run.read_text()) if run.is_file() else list_models()[like]
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
