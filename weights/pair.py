"""Make a `lite_pair` of two `lite`s: the second looks as if at an image enlarged twice.

    python weights/pair.py RUN HALF WHOLE [--like NAME]

RUN becomes a folder such as `cloudmask train` leaves, to start from. An image enlarged twice,
bilinearly, mixes each pixel with its neighbours, so the first convolution of WHOLE, 6 × 6 with a
stride of 2 over it, is one of 5 × 5 over the image itself. Of four pixels that WHOLE would say of
one, the mean of their logits is taken.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from runs import check_new, read_card, write_run

from cloudmask.models.lite_pair import SIDE
from cloudmask.network import build_network, start_tensorflow
from cloudmask.registry import load_model
from cloudmask.weightfile import read_weights

# Pixel i enlarged is 2 i and 2 i + 1, of which a quarter is the neighbour on that side; `lite`'s
# first convolution begins two before.
ENLARGED = np.zeros((6, SIDE), "float32")
for k, own in enumerate((1, 1, 2, 2, 3, 3)):
    ENLARGED[k, own] = 0.75
    ENLARGED[k, own + (1 if k % 2 else -1)] = 0.25


def find_lite(name: str) -> Path:
    """The weight file of a `lite`; another architecture ends the program."""
    model = load_model(name)
    if model.architecture != "lite":
        raise SystemExit(f"{name} is a {model.architecture}: give two of lite")
    return Path(model.path)


def enlarged(name: str, values: list[Any]) -> list[Any]:
    """The weights of a layer, as those of one that sees the image itself."""
    if name == "stem":
        return [np.einsum("pa,qb,pqio->abio", ENLARGED, ENLARGED, values[0])]
    if name == "clouds":
        return [value.mean(axis=-1, keepdims=True) for value in values]
    return values


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("half", metavar="HALF")
    parser.add_argument("whole", metavar="WHOLE")
    parser.add_argument("--like", metavar="NAME", help="whose card it gets; default: HALF's")
    args = parser.parse_args()
    check_new(args.run)
    card = read_card(args.like or args.half)
    half, whole = find_lite(args.half), find_lite(args.whole)
    start_tensorflow()
    pair, lite = (build_network(name, "float32") for name in ("lite_pair", "lite"))
    trained = [layer for layer in lite.layers if layer.weights]
    read_weights(lite, half)
    for layer in trained:
        pair.get_layer(f"half_{layer.name}").set_weights(layer.get_weights())
    read_weights(lite, whole)
    for layer in trained:
        values = enlarged(layer.name, layer.get_weights())
        pair.get_layer(f"whole_{layer.name}").set_weights(values)
    write_run(args.run, pair, card, f"{args.half}, and {args.whole} of the image enlarged twice")


if __name__ == "__main__":
    main()
