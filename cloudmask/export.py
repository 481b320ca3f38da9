"""What a finished training run leaves: a model folder that `load_model` takes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cloudmask.dataset import VALIDATION_BATCH
from cloudmask.losses import beta_of
from cloudmask.manifest import Example
from cloudmask.recipe import Recipe
from cloudmask.registry import CARD
from cloudmask.runs import read_history
from cloudmask.scores import Tally, best_threshold, tally
from cloudmask.weightfile import file_sha256, read_weights, write_weights
from cloudmask.write import write_json


def export(
    network: Any,
    recipe: Recipe,
    validation: tuple[Any, Any],
    examples: Sequence[Example],
    folder: Path,
) -> None:
    """Write the model: its weights in float16, and its card with the threshold of these."""
    weights = folder / f"{folder.name}.weights.h5"
    write_weights(network, weights, half=True)
    read_weights(network, weights)
    left_out = {name for name, share in recipe.sampling.mix if share == 0}
    used = [e for e in examples if e.split == "train" and e.set not in left_out]
    gsds = [example.gsd for example in used if example.gsd]
    sets = Counter(example.set for example in used)
    epochs = len(read_history(folder))
    write_json(
        folder / CARD,
        {
            "summary": f"{recipe.architecture} trained with loss {recipe.loss}",
            "architecture": recipe.architecture,
            "file": weights.name,
            "sha256": file_sha256(weights),
            "threshold": best_threshold(_tallies(network, *validation), beta_of(recipe.loss)),
            "gsd": float(np.median(gsds)) if gsds else None,
            "gsd_range": [min(gsds), max(gsds)] if gsds else None,
            "trained": f"{epochs} epochs, loss {recipe.loss}, seed {recipe.sampling.seed}",
            "training_data": [{"set": name, "tiles": count} for name, count in sets.items()],
        },
    )


def _tallies(network: Any, pixels: Any, label: Any) -> list[Tally]:
    """Count the validation patches, a batch at a time."""
    starts = range(0, len(pixels), VALIDATION_BATCH)
    batches = [slice(start, start + VALIDATION_BATCH) for start in starts]
    return [
        tally(network(pixels[batch].astype("float32"), training=False), label[batch])
        for batch in batches
    ]
