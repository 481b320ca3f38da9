"""From a weight file to a function that runs: the only place where a network is loaded.

Once per process, whichever thread comes first; nothing here is ever pickled or unpickled.
"""

import ctypes
import hashlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cloudmask.chunks import Block
from cloudmask.models import ARCHITECTURES, build, weights_folder
from cloudmask.stopwatch import stage

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16", "float16")

# One call uses all cores. A second at the same time was no faster where it was measured, and took
# 0.6 to 0.9 GB more: larger chunks, with less halo, are the better use of that.
_FORWARD = threading.Lock()
_LOAD = threading.Lock()

STRIP_BYTES = 1200 * 2**20
"""Memory of a forward pass: 1,000 pixels square of a U-Net in 16 bits are one strip."""

_HERE: dict[str, Path] = {}
"""Weight files that were sent to this process, by sha256."""


def forward(
    path: str, sha256: str, architecture: str, precision: str | None, pixels: Block
) -> Block:
    """Run the network of a weight file: (n, y, x, 3) RGB 0–255 → (n, y, x) probabilities."""
    with _LOAD:
        call = _loaded(path, sha256, architecture, precision)
    with _FORWARD, stage("network"):
        return call(np.asarray(pixels))


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
    _HERE[sha256] = path


def ships_with_package(name: str, sha256: str) -> bool:
    """Whether a file of this name and sha256 comes with every installation."""
    path = weights_folder() / name
    return path.is_file() and file_sha256(path) == sha256


def _find_weights(path: str, sha256: str) -> Path:
    """The file of a card, which may have been made on another machine."""
    own, packaged = Path(path), weights_folder() / Path(path).name
    for candidate in (own, _HERE.get(sha256, own), packaged):
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
    for name, architecture in ARCHITECTURES.items():
        if architecture.weights == count:
            return name
    known = ", ".join(f"{name} has {a.weights:,}" for name, a in ARCHITECTURES.items())
    raise ValueError(f"{path} holds {count:,} weights, which no architecture has: {known}")


def start_tensorflow() -> ModuleType:
    """TensorFlow, started without the lines that it prints whatever its log level."""
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        # TensorFlow exports the zstd it holds, and an extension that is loaded later uses that one:
        # a worker's chunks would be packed into other bytes than those of a process that has both.
        import numcodecs.zstd  # noqa: F401
        import tensorflow

        for gpu in tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        tensorflow.constant(0)  # looks for drivers, and prints what it did not find
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    return tensorflow


def choose_precision() -> str:
    """The fastest precision of this machine that the networks tolerate.

    float16 or bfloat16 on a GPU; bfloat16 on a CPU with instructions for it (AMX-BF16 or
    AVX512-BF16), where it is several times faster; else float32.
    """
    tf = start_tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability")
        return "bfloat16" if capability and capability[0] >= 8 else "float16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "bfloat16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "float32"


def keep_freed_memory() -> None:
    """Tell glibc to keep freed activations instead of returning and faulting them in again.

    Takes effect for what is allocated afterwards; does nothing without glibc. The thresholds are
    malloc(3)'s M_MMAP_THRESHOLD, at its largest allowed, and M_TRIM_THRESHOLD.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 32 * 2**20)
        libc.mallopt(m_trim_threshold, 2**30)


@lru_cache(maxsize=2)
def _loaded(
    path: str, sha256: str, architecture: str, precision: str | None
) -> Callable[[Block], Block]:
    tf = start_tensorflow()
    path = str(_find_weights(path, sha256))
    chosen = precision or choose_precision()
    why = "asked for" if precision else "fastest on this machine"
    logger.info("%s in %s (%s)", architecture, chosen, why)
    network = build_network(architecture, chosen)
    read_weights(network, Path(path))

    if ARCHITECTURES[architecture].window is None:
        from cloudmask.strips import Strips

        strips = Strips(network)
        rows = partial(_strip_rows, architecture, chosen)
        return lambda pixels: strips(pixels, rows(pixels.shape[2]))

    # One trace for any size: a fixed shape would be no faster, and each shape would trace again.
    def probability(pixels: Any) -> Any:
        return network(pixels, training=False)[..., 0]

    run = tf.function(probability, [tf.TensorSpec((None, None, None, 3), tf.float32)])
    return lambda pixels: run(tf.cast(tf.constant(pixels), tf.float32)).numpy()


def _strip_rows(architecture: str, precision: str, width: int) -> int:
    """Height of strips that fit in `STRIP_BYTES`, at least two strides.

    Measured: a strip takes twice the memory of one pass over its pixels, since layers wait for each
    other; and what they keep until the next strip takes as much as half the halo.
    """
    card = ARCHITECTURES[architecture]
    pixel = 2 * card.bytes_per_pixel // (1 if precision == "float32" else 2)
    rows = STRIP_BYTES // (pixel * width) - card.overlap // 2
    return max(rows // card.stride, 2) * card.stride


def build_network(architecture: str, precision: str) -> "keras.Model":
    """Build a network, weights untrained, that computes in `precision`."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
    try:
        return build(architecture)
    finally:
        keras.config.set_dtype_policy(before)


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
    """
    import keras

    bare = keras.Model(network.inputs, network.outputs, name=network.name)  # shares all layers
    temporary = path.with_name(f"new.{path.name}")
    bare.save_weights(temporary)
    if half:
        smaller = path.with_name(f"half.{path.name}")
        with h5py.File(temporary) as source, h5py.File(smaller, "w") as target:
            _copy_half(source, target)
        smaller.replace(temporary)
    temporary.replace(path)


def _copy_half(source: h5py.File, target: h5py.File) -> None:
    def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            made = target.require_group(name)
        else:
            values = item[()]
            made = target.create_dataset(
                name, data=values.astype("float16") if values.ndim > 1 else values
            )
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
    line = str(error).strip().split("\n")[0]
    return ValueError(f"{path} does not hold the weights of {network.name}: {line}")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
