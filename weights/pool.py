"""Ask a model once what it says of many patches, for others to learn from; or several models.

    python weights/pool.py MANIFEST POOL --teacher unet-slim:mirrored,lite:doubled --patches 1408

POOL gets augmented patches of the split `train` (pixels.npy), the mean of their label and of what
the model says (targets.npy), and what it was made from (pool.json). Of several models it is the
mean of what they say, and a model may be shown other views of a patch than the patch itself.
`distil.py` takes it from there; `slim.py`, too, if a U-Net was asked.
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
from views import committee

from cloudmask.augment import AUGMENTATIONS
from cloudmask.cli.options import Mix
from cloudmask.cli.output import log_to_stderr
from cloudmask.constants import NODATA
from cloudmask.dataset import training_batches
from cloudmask.draw import Sampling
from cloudmask.labelled import Reading, labelled_chunks
from cloudmask.manifest import read_examples, select_split
from cloudmask.network import start_tensorflow

logger = logging.getLogger("cloudmask")
FACTS = "pool.json"
READING = Reading(scale=65535)
BATCH = 8


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--teacher", required=True, help="or several; see views.py")
    parser.add_argument("--patches", type=int, required=True)
    parser.add_argument("--mix", type=lambda text: Mix().convert(text, None, None), default=())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    teacher = committee(args.teacher)
    log_to_stderr(quiet=False)
    start_tensorflow()
    # Tinted later: of cloud in its own colours the teacher knows more.
    plain = tuple(name for name in AUGMENTATIONS if name != "tint")
    draw = Sampling(batch_size=BATCH, seed=args.seed, augment=plain, mix=args.mix)
    chunks = labelled_chunks(select_split(read_examples(args.manifest), "train"), READING)
    args.pool.mkdir(parents=True)
    pixels, targets = (
        np.lib.format.open_memmap(
            args.pool / f"{name}.npy", "w+", "uint8", (args.patches, draw.size, draw.size, bands)
        )
        for name, bands in (("pixels", 3), ("targets", 1))
    )
    batches = training_batches(chunks, READING, draw)
    for at, (image, label) in zip(range(0, args.patches, BATCH), batches, strict=False):
        said, given = teacher(image.numpy())[..., None], label.numpy()
        end = min(at + BATCH, args.patches)
        pixels[at:end] = image.numpy().round()[: end - at]
        mean = np.where(given == NODATA, NODATA, np.round((said + given) * 100))
        targets[at:end] = mean[: end - at]
        if at // BATCH % 50 == 0:
            logger.info("pool: %d of %d patches", end, args.patches)
    facts = {"teacher": args.teacher, "seed": args.seed, "mix": dict(args.mix)}
    (args.pool / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
