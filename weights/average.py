"""Average the weights of models that were trained from one another, into one model.

    python weights/average.py RUN MODEL MODEL…

Where one of them misses cloud and another sees too much, the mean often does better than both, at
the price of one. RUN becomes a folder such as `cloudmask train` leaves; its card is that of the
first model, a run or one of the registry's. After Wortsman et al. 2022,
https://arxiv.org/abs/2203.05482.
"""

import argparse
from pathlib import Path

import numpy as np
from runs import write_run

from cloudmask.network import build_network, start_tensorflow
from cloudmask.registry import load_model
from cloudmask.weightfile import read_weights


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    args = parser.parse_args()
    models = [load_model(name) for name in args.models]
    start_tensorflow()
    network = build_network(models[0].architecture, "float32")
    found = []
    for model in models:
        read_weights(network, Path(model.path))
        found.append(network.get_weights())
    network.set_weights([np.mean(values, axis=0) for values in zip(*found, strict=True)])
    trained = f"mean of the weights of {' and '.join(args.models)}"
    write_run(args.run, network, args.models[0], trained)


if __name__ == "__main__":
    main()
