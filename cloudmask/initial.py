"""The network that a training run starts from."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudmask import network as networks
from cloudmask.models.encoder import encoder_file, read_encoder
from cloudmask.recipe import Recipe
from cloudmask.registry import load_model
from cloudmask.weightfile import read_weights

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)


def check_start(recipe: Recipe) -> None:
    """Refuse weights that a network cannot start from, as far as can be told without a download.

    Parameters
    ----------
    recipe : Recipe
        Names the weights of a model or of an encoder.

    Raises
    ------
    ValueError, OSError
        The weights are of another architecture, or not there.
    """
    if recipe.encoder_weights != "imagenet":
        _find_start(recipe)


def _find_start(recipe: Recipe) -> Path | None:
    """The file of the weights that a network starts from, if any."""
    if recipe.weights:
        base = load_model(recipe.weights)
        if base.architecture != recipe.architecture:
            raise ValueError(
                f"weights {recipe.weights} are of {base.architecture}, not of "
                f"{recipe.architecture}: choose the architecture {base.architecture}"
            )
        return Path(base.path)
    return encoder_file(str(recipe.encoder_weights)) if recipe.encoder_weights else None


def initial_network(recipe: Recipe, *, is_begun: bool = False) -> "keras.Model":
    """Build a network, with the weights that it starts from.

    Parameters
    ----------
    recipe : Recipe
        Architecture, precision, seed, and the weights of a model or of an encoder.
    is_begun : bool
        Leave out these weights: a checkpoint will take their place.

    Raises
    ------
    ValueError, OSError
        As for `check_start`; or ImageNet's weights cannot be downloaded, or a file holds others.
    """
    networks.start_tensorflow()
    import keras

    start = None if is_begun else _find_start(recipe)
    keras.utils.set_random_seed(recipe.sampling.seed)
    with _strategy().scope():
        precision = recipe.precision or networks.choose_precision()
        network = networks.build_network(recipe.architecture, precision)
    logger.info("%s trains in %s", recipe.architecture, precision)
    if start is not None:
        (read_weights if recipe.weights else read_encoder)(network, start)
    if recipe.weights:
        # A few patches of many kinds have other means than all have: with those of each batch what
        # was learned is lost before it is better (https://keras.io/guides/transfer_learning).
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    return network


def _strategy() -> Any:
    """A copy of the network on each GPU, where there are several."""
    import tensorflow as tf

    several = len(networks.gpus()) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()
