"""Make a network that says the mean of two: of a `unet_slim` and a `lite`, or of two `lite`s.

    python weights/pair.py RUN FIRST SECOND [--like NAME]

RUN becomes a folder such as `cloudmask train` leaves, to start from. FIRST tells what is made. A
`unet_slim` and a `lite` make a `slim_lite`, in which they are what they were. Of two `lite`s, which
make a `lite_pair`, the second looks as if at an image enlarged twice: bilinearly, which mixes each
pixel with its neighbours, so its first convolution, 6 × 6 with a stride of 2 over that, is one of
5 × 5 over the image itself. Of four pixels that it would say of one, the mean of their logits is
taken.
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


MADE_OF = {
    "slim_lite": ("unet_slim", "", "lite_"),
    "lite_pair": ("lite", "half_", "whole_"),
}
"""The first of the two (the second is a `lite`), and what the names of their layers begin with."""


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
    parser.add_argument("first", metavar="FIRST")
    parser.add_argument("second", metavar="SECOND")
    parser.add_argument("--like", metavar="NAME", help="whose card it gets; default: FIRST's")
    args = parser.parse_args()
    check_new(args.run)
    card = read_card(args.like or args.first)
    first, second = load_model(args.first), load_model(args.second)
    made = [name for name, (of, *_) in MADE_OF.items() if of == first.architecture]
    if not made or second.architecture != "lite":
        parser.error(
            f"{args.first} is a {first.architecture}, {args.second} a {second.architecture}: "
            "give a unet_slim and a lite, or two of lite"
        )
    start_tensorflow()
    pair = build_network(made[0], "float32")
    for model, begins in zip((first, second), MADE_OF[made[0]][1:], strict=True):
        network = build_network(model.architecture, "float32")
        read_weights(network, Path(model.path))
        for layer in network.layers:
            if values := layer.get_weights():
                if begins == "whole_":
                    values = enlarged(layer.name, values)
                pair.get_layer(f"{begins}{layer.name}").set_weights(values)
    of_it = " of the image enlarged twice" if made[0] == "lite_pair" else ""
    write_run(args.run, pair, card, f"the mean of {args.first} and {args.second}{of_it}")


if __name__ == "__main__":
    main()
