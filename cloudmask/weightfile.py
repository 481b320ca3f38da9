"""Weight files: found on this machine, told apart, read and written. No TensorFlow here."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from cloudmask.errors import first_line
from cloudmask.models import ARCHITECTURES, weights_folder

if TYPE_CHECKING:
    import keras

_SENT: dict[str, Path] = {}
"""Weight files that were sent to this process, by sha256."""


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_weights(path: Path, sha256: str) -> None:
    """Note where a weight file lies on this machine, for cards made on another.

    Raises
    ------
    ValueError
        The file has another sha256.
    """
    if file_sha256(path) != sha256:
        raise ValueError(f"{path} did not arrive whole: its sha256 is not {sha256[:12]}…")
    _SENT[sha256] = path


def ships_with_package(name: str, sha256: str) -> bool:
    """Whether a file of this name and sha256 comes with every installation."""
    path = weights_folder() / name
    return path.is_file() and file_sha256(path) == sha256


def find_weights(path: str, sha256: str) -> Path:
    """The file of a card, which may have been made on another machine."""
    own, packaged = Path(path), weights_folder() / Path(path).name
    sent = [_SENT[sha256]] if sha256 in _SENT else []
    for candidate in (own, *sent, packaged):
        if candidate.is_file() and file_sha256(candidate) == sha256:
            return candidate
    if own.is_file():
        raise ValueError(f"{path} has changed since the model was loaded: load it again")
    raise FileNotFoundError(
        f"{path} is not on this machine: on a cluster, send it with cloudmask.send_weights"
    )


def identify(path: Path) -> str:
    """Tell a weight file's architecture from its number of weights.

    Raises
    ------
    ValueError
        Not a complete HDF5 file, or no known number.
    """
    with _open_weights(path) as file:
        count = 0

        def add(name: str, item: object) -> None:
            nonlocal count
            if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
                count += int(item.size)

        file.visititems(add)
        if "layers" in file and not path.name.endswith(".weights.h5"):  # Keras goes by the name
            raise ValueError(
                f"{path} is a weight file of Keras 3: let its name end in .weights.h5, such as "
                f"{path.stem}.weights.h5"
            )
    for name, architecture in ARCHITECTURES.items():
        if architecture.weights == count:
            return name
    known = ", ".join(f"{name} has {a.weights:,}" for name, a in ARCHITECTURES.items())
    raise ValueError(f"{path} holds {count:,} weights, which no architecture has: {known}")


def read_weights(network: "keras.Model", path: Path) -> None:
    """Set a network's weights from a Keras 3 or a Keras 2 weight file.

    Raises
    ------
    ValueError
        The file does not hold every layer of the network in its shape.
    """
    with _open_weights(path) as file:
        legacy = file.get("model_weights", file)  # a whole Keras 2 model keeps them in a group
        if "layer_names" in legacy.attrs:
            _read_keras2(network, legacy, path)
            return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that does not fit, Keras warns, then raises
            network.load_weights(path)
    except (ValueError, KeyError, OSError) as error:
        raise _misfit(path, network, error) from error


def write_weights(network: "keras.Model", path: Path, *, half: bool = False) -> None:
    """Write a network's weights, without its optimiser's, in place of what was there.

    Parameters
    ----------
    half : bool
        Kernels in float16, at half the size. Vectors stay float32: a batch normalisation's
        variance can lie above float16's 65504.

    Raises
    ------
    FloatingPointError
        A weight is not finite, or not in float16.
    """
    import keras

    bare = keras.Model(network.inputs, network.outputs, name=network.name)  # shares all layers
    with whole_file(path) as temporary:
        bare.save_weights(temporary)
        if half:
            with (
                whole_file(temporary) as smaller,
                h5py.File(temporary) as source,
                h5py.File(smaller, "w") as target,
            ):
                _copy_half(source, target)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to fill beside `path`, in whose place it comes when it is whole."""
    temporary = path.with_name(f"new.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # what is left of one that is not


def _copy_half(source: h5py.File, target: h5py.File) -> None:
    def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            made = target.require_group(name)
        else:
            values = item[()]
            if values.ndim > 1:
                with np.errstate(over="ignore"):
                    values = values.astype("float16")
            if not np.isfinite(values).all():
                raise FloatingPointError(
                    f"weights {name} do not fit float16: lower the learning rate, and begin again"
                )
            made = target.create_dataset(name, data=values)
        made.attrs.update(item.attrs)

    target.attrs.update(source.attrs)
    source.visititems(copy)


def _read_keras2(network: "keras.Model", file: h5py.Group, path: Path) -> None:
    for layer in network.layers:
        if layer.weights:
            try:
                group = file[layer.name]
                names = [_text(name) for name in group.attrs["weight_names"]]
                layer.set_weights([group[name][()] for name in names])
            except (KeyError, ValueError) as error:
                raise _misfit(path, network, error) from error


def _open_weights(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = "truncated" if "truncated" in str(error) else "not an HDF5 weight file"
        raise ValueError(f"{path} is {reason}: copy or download it again") from error


def _misfit(path: Path, network: "keras.Model", error: Exception) -> ValueError:
    return ValueError(f"{path} does not hold the weights of {network.name}: {first_line(error)}")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
