"""Average the weights of models that were trained from one another, into one model.

    python weights/average.py RUN MODEL MODEL… [--like NAME] [--statistics MANIFEST]

Where one of them misses cloud and another sees too much, the mean often does better than both, at
the price of one; a model that is named twice counts twice. RUN becomes a folder such as `cloudmask
train` leaves; its card is that of the first model, a run or one of the registry's, or of `--like`.
After Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.

What batch normalisation knows of each channel is no mean of what it knew of others, where these
are far apart: `--statistics` estimates it anew, over training patches, after Izmailov et al. 2018,
https://arxiv.org/abs/1803.05407.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from pool import READING
from runs import check_new, read_card, write_run

from cloudmask.cli.options import Mix
from cloudmask.cli.output import log_to_stderr
from cloudmask.dataset import training_batches
from cloudmask.draw import Sampling
from cloudmask.labelled import labelled_chunks
from cloudmask.manifest import read_examples, select_split
from cloudmask.network import build_network, start_tensorflow
from cloudmask.registry import load_model
from cloudmask.weightfile import read_weights


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--like", metavar="NAME", help="whose card it gets; default: the first's")
    parser.add_argument("--statistics", type=Path, metavar="MANIFEST")
    parser.add_argument("--batches", type=int, default=24, help="of 32 patches, for statistics")
    parser.add_argument("--mix", type=lambda text: Mix().convert(text, None, None), default=())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    log_to_stderr(quiet=False)
    check_new(args.run)
    card = read_card(args.like or args.models[0])
    models = [load_model(name) for name in args.models]
    start_tensorflow()
    network = build_network(models[0].architecture, "float32")
    found = []
    for model in models:
        read_weights(network, Path(model.path))
        found.append(network.get_weights())
    network.set_weights([np.mean(values, axis=0) for values in zip(*found, strict=True)])
    trained = f"mean of the weights of {' and '.join(args.models)}"
    if args.statistics:
        sampling = Sampling(seed=args.seed, mix=args.mix)
        estimate(network, args.statistics, sampling, args.batches)
        trained += ", with statistics of its own"
    write_run(args.run, network, card, trained)


def estimate(network: Any, manifest: Path, sampling: Sampling, count: int) -> None:
    """Set the statistics of batch normalisation to their mean over batches of patches."""
    from keras import layers

    chunks = labelled_chunks(select_split(read_examples(manifest), "train"), READING)
    norms = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]
    batches = training_batches(chunks, READING, sampling).take(count)
    for number, (pixels, _) in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1 - 1 / number  # so that each batch counts the same
        network(pixels, training=True)


if __name__ == "__main__":
    main()
