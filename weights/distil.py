"""Teach a network what others say of patches, beside their labels.

    python weights/distil.py MANIFEST NAME POOL --architecture unet_slim --weights runs/slim

POOL is of `pool.py`: the teacher is slow, so it was asked once. Its patches are turned, mirrored,
cropped, enlarged, given other texture and tinted whenever they are drawn; the teacher saw them as
they were. What is learned is the mean of label and teacher; pixels without a label are not
scored. The run is one that `cloudmask train` could have left: `runs/NAME` holds history,
checkpoints and the model.

After Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from parts import enlarged, part, places
from pool import FACTS, READING

from cloudmask import train, training
from cloudmask.augment import retexture, tint
from cloudmask.cli.output import log_to_stderr
from cloudmask.constants import NODATA
from cloudmask.dataset import ROUND
from cloudmask.draw import Sampling
from cloudmask.initial import initial_network
from cloudmask.models import ARCHITECTURES
from cloudmask.network import start_tensorflow
from cloudmask.pasting import turn
from cloudmask.recipe import Recipe
from cloudmask.registry import CARD


def drawn(pool: list[Any], sampling: Sampling, side: int, first_step: int) -> Any:
    """Endless batches of the pool: each patch about once a round, turned, mirrored and cropped."""
    import tensorflow as tf

    def crop(i: int, rng: np.random.Generator) -> tuple[Any, Any]:
        y, x, seen = part(rng, pool[0].shape[1], side)
        image, target = turn(*(held[i, y : y + seen, x : x + seen] for held in pool), rng)
        at = places(seen, side)
        view = tint(retexture(enlarged(image, side) / 255, rng), rng)
        return np.clip(view, 0, 1) * 255, target[np.ix_(at, at)]

    def batches():
        for step in range(first_step, 2**31):
            rounds, at = divmod(step * sampling.batch_size, len(pool[0]))
            order = np.random.default_rng([sampling.seed, rounds]).permutation(len(pool[0]))
            chosen = np.sort(np.take(order, range(at, at + sampling.batch_size), mode="wrap"))
            rng = np.random.default_rng([sampling.seed, rounds, at])
            crops = [crop(i, rng) for i in chosen]
            pixels, targets = (np.stack(part) for part in zip(*crops, strict=True))
            target = np.where(targets == NODATA, NODATA, targets / 200).astype("float32")
            yield pixels.astype("float32"), target

    shapes = [(sampling.batch_size, side, side, bands) for bands in (3, 1)]
    signature = tuple(tf.TensorSpec(shape, tf.float32) for shape in shapes)
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4)


def thawed(recipe: Recipe, **more: Any) -> Any:
    """A network to go on with, whose batch normalisation learns, as from random weights."""
    network = initial_network(recipe, **more)
    for layer in network.layers:
        layer.trainable = True
    return network


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("name")
    parser.add_argument("pool", type=Path)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="lite")
    parser.add_argument("--weights", help="what the student starts from; else random weights")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--crop", type=int, default=256, help="side of what a step sees of a patch")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--thaw", action="store_true", help="with --weights: normalisation learns, too"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    log_to_stderr(quiet=False)
    start_tensorflow()
    recipe = Recipe(
        architecture=args.architecture, loss="bce+dice", epochs=args.epochs, steps=args.steps,
        learning_rate=args.learning_rate, weights=args.weights, validation_patches=192,
        sampling=Sampling(batch_size=args.batch_size, seed=args.seed),
        reading=READING,
    )  # fmt: skip
    pool = [np.load(args.pool / f"{name}.npy", mmap_mode="r") for name in ("pixels", "targets")]
    teacher = json.loads((args.pool / FACTS).read_text())["teacher"]

    def from_pool(first_round: int) -> Any:
        return drawn(pool, recipe.sampling, args.crop, first_round * ROUND)

    if args.thaw:
        training.initial_network = thawed
    train(args.manifest, args.name, recipe, resume=args.resume, batches=from_pool)
    card = Path("runs") / args.name / CARD
    facts = json.loads(card.read_text())
    how = f", from {args.weights or 'random weights'}, teacher {teacher}"
    facts["trained"] = facts["trained"].removesuffix(how) + how  # resumed, it may be there
    card.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
