"""Fold a partial desaturation of the input into a model's first convolution.

    python weights/desaturate.py RUN MODEL --saturation 0.25

The network then sees mean + SATURATION · (pixel − mean), where mean is that of the pixel's bands,
at no cost: a cloud that light or stretch has tinted is nearly as white as others. RUN becomes a
folder such as `cloudmask train` leaves, with the card of the model.
"""

import argparse
from pathlib import Path

import numpy as np
from runs import write_run

from cloudmask.models.unet_vgg16 import CAFFE_MEAN_BGR
from cloudmask.network import build_network, start_tensorflow
from cloudmask.registry import load_model
from cloudmask.weightfile import read_weights


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("model")
    parser.add_argument("--saturation", type=float, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    start_tensorflow()
    network = build_network(model.architecture, "float32")
    read_weights(network, Path(model.path))
    first = next(layer for layer in network.layers if layer.weights)
    kernel, *bias = first.get_weights()  # (y, x, band, filter)
    mix = np.full((3, 3), (1 - args.saturation) / 3) + args.saturation * np.eye(3)
    muted = np.einsum("yxif,ij->yxjf", kernel, mix)
    # Where an unequal mean was subtracted, in the same order of bands, its own colour goes, too;
    # the others subtract one number, which is grey.
    if model.architecture == "unet_vgg16":
        shift = mix @ np.array(CAFFE_MEAN_BGR) - CAFFE_MEAN_BGR
        bias = [bias[0] + np.einsum("yxif,i->f", kernel, shift)]
    first.set_weights([muted, *bias])
    trained = f"{args.model}, its input desaturated to {args.saturation:g}"
    write_run(args.run, network, args.model, trained)


if __name__ == "__main__":
    main()
