"""From a card to a function that runs: the only place where a network is loaded.

Once per process, whichever thread comes first; nothing here is ever pickled or unpickled.
"""

import gc
import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cloudmask.chunks import Block, round_up
from cloudmask.models import ARCHITECTURES, build
from cloudmask.stopwatch import timed
from cloudmask.weightfile import find_weights, read_weights

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16", "float16")

DRAWN = ("glorot_uniform", "he_normal", "he_uniform")
"""Initializers that the networks name for their kernels."""

_LOAD = threading.Lock()
_STARTED_IN: set[int] = set()
"""The process in which TensorFlow was started."""

SIDE_BY_SIDE = 2
"""Forward passes at the same time, on a CPU. One uses all cores but leaves gaps: two were 8 %
faster with a U-Net in 16 bits, 10 % with `lite` in float32."""
_LIGHT = 300
"""Bytes that a pixel takes at most in one of two in float32. With 390, the slim U-Net, one pass in
strips of twice the height is faster by 4 %; with a U-Net's 1000 two would be too much memory."""
_TURNS, _NEXT = threading.Semaphore(SIDE_BY_SIDE), threading.Lock()
STRIP_BYTES = 1200 * 2**20
"""Memory of the passes that run at the same time, roughly at most."""
_HIGHEST = 384
"""Rows of a strip, where a block takes several: of 160 and of 288 rows they were equally fast, at a
width of 2,048, and higher ones only take more memory."""


def check_precision(precision: str | None) -> None:
    """Refuse what is no precision of a network, nor None for the machine's, with a ValueError."""
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision is {precision!r}: choose {', '.join(PRECISIONS)}")


def forward(
    path: str, sha256: str, architecture: str, precision: str | None, pixels: Block
) -> Block:
    """Run the network of a weight file: (n, y, x, 3) RGB 0–255 → (n, y, x) probabilities.

    Raises
    ------
    MemoryError
        A pass does not fit in a GPU's memory, or in what TensorFlow may have of this machine's.
    """
    _check_process()
    with _LOAD:
        call, chosen = _loaded(path, sha256, architecture, precision)
    how = passing(architecture, chosen, *pixels.shape[1:3])
    try:
        with _turn(1 if gpus() else how.side_by_side), timed("network"):
            return call(np.asarray(pixels), how.rows)
    except start_tensorflow().errors.ResourceExhaustedError as error:
        height, width = pixels.shape[1:3]
        raise MemoryError(
            f"{height} × {width} px do not fit in memory: choose a smaller chunk"
        ) from error


@contextmanager
def _turn(side_by_side: int) -> Iterator[None]:
    """Wait until no more passes run than may with this one."""
    share = SIDE_BY_SIDE // side_by_side
    with _NEXT:  # or two that each want all turns would have one, and wait for the other's
        for _ in range(share):
            _TURNS.acquire()
    try:
        yield
    finally:
        _TURNS.release(share)


def _check_process() -> None:
    """Refuse a process that was forked from one in which TensorFlow ran: it would wait for ever."""
    if _STARTED_IN and os.getpid() not in _STARTED_IN:
        raise RuntimeError(
            "this process was forked from one in which TensorFlow ran: start it with "
            "multiprocessing.get_context('spawn')"
        )
    _STARTED_IN.add(os.getpid())


def start_tensorflow() -> ModuleType:
    """TensorFlow, started without the lines that it prints whatever its log level."""
    _check_process()
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Without a pool each large tensor is mapped, faulted in and unmapped: a tenth of the time. On
    # CPUs with VNNI or AMX TensorFlow has one anyway.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        # TensorFlow exports the zstd it holds, and an extension that is loaded later uses that one:
        # a worker's chunks would be packed into other bytes than those of a process that has both.
        import numcodecs.zstd  # noqa: F401

        with _imported_when_used("matplotlib.pyplot"):  # Keras draws with it; it takes 0.6 s
            import tensorflow

        for gpu in tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        tensorflow.constant(0)  # looks for drivers, and prints what it did not find
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    return tensorflow


@contextmanager
def _imported_when_used(name: str) -> Iterator[None]:
    """Let what is imported in here, and imports module `name`, get one that loads it later."""
    if name in sys.modules:
        yield
        return
    later = ModuleType(name)

    def leave() -> None:
        if sys.modules.get(name) is later:
            del sys.modules[name]

    def attribute(of: str) -> Any:
        if of.startswith("__"):  # as of every module, who looks for where something comes from
            raise AttributeError(of)
        leave()
        return getattr(importlib.import_module(name), of)

    vars(later)["__getattr__"] = attribute
    sys.modules[name] = later
    try:
        yield
    finally:
        leave()


def gpus() -> list[Any]:
    """GPUs that TensorFlow may use."""
    return list(start_tensorflow().config.list_physical_devices("GPU"))


def choose_precision() -> str:
    """The fastest precision of this machine that the networks tolerate.

    float16 or bfloat16 on a GPU; bfloat16 on a CPU with instructions for it (AMX-BF16 or
    AVX512-BF16), where it is twice as fast or more; else float32.
    """
    if found := gpus():
        details = start_tensorflow().config.experimental.get_device_details(found[0])
        capability = details.get("compute_capability")
        return "bfloat16" if capability and capability[0] >= 8 else "float16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "bfloat16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "float32"


@lru_cache(maxsize=8)  # more than a job has, and few enough for a process that tries many
def _loaded(
    path: str, sha256: str, architecture: str, precision: str | None
) -> tuple[Callable[[Block, int], Block], str]:
    """A network, given pixels and rows of a strip, and its precision."""
    tf = start_tensorflow()
    path = str(find_weights(path, sha256))
    chosen = precision or choose_precision()
    why = "asked for" if precision else "fastest on this machine"
    logger.info("%s in %s (%s)", Path(path).name.removesuffix(".weights.h5"), chosen, why)
    network = build_network(architecture, chosen, is_drawn=False)
    read_weights(network, Path(path))
    if ARCHITECTURES[architecture].window is None:
        from cloudmask.strips import Strips

        strips = Strips(network)
        del network
        gc.collect()  # layers know each other: 95 MB of a U-Net would stay
        return strips, chosen

    # One trace for any size: a fixed shape would be no faster, and each shape would trace again.
    def probability(pixels: Any) -> Any:
        return network(pixels, training=False)[..., 0]

    run = tf.function(probability, [tf.TensorSpec((None, None, None, 3), tf.float32)])
    return lambda pixels, _: run(tf.cast(tf.constant(pixels), tf.float32)).numpy(), chosen


def side_by_side(architecture: str, precision: str) -> int:
    """How many forward passes run at the same time on a CPU, over blocks of many strips."""
    light = precision != "float32" or ARCHITECTURES[architecture].bytes_per_pixel <= _LIGHT
    return SIDE_BY_SIDE if light else 1


class Passing(NamedTuple):
    """How a block passes through a network."""

    side_by_side: int
    """How many blocks do so at the same time on a CPU."""
    rows: int
    """Height of its strips: at least two strides."""


def passing(architecture: str, precision: str, height: int, width: int) -> Passing:
    """How blocks of a size pass through a network.

    One that fits in `STRIP_BYTES` is one strip, if need be alone: to compile how strips meet takes
    one to three seconds, and strips of 2,048 px take a quarter to a half more time than one pass.
    """
    card = ARCHITECTURES[architecture]
    most = side_by_side(architecture, precision)
    for count in range(most, 0, -1):
        if count * height * width * _pixel_bytes(architecture, precision) <= STRIP_BYTES:
            return Passing(count, round_up(height, card.stride))
    row = _strip_pixel(architecture, precision) * width
    rows = min(STRIP_BYTES // (row * most) - card.overlap // 3, _HIGHEST)
    return Passing(most, max(rows // card.stride, 2) * card.stride)


def passes_bytes(architecture: str, precision: str, height: int, width: int) -> int:
    """Memory of the forward passes that run at the same time, over blocks of a size."""
    count, rows = passing(architecture, precision, height, width)
    rows += ARCHITECTURES[architecture].overlap // 3
    strip = rows * _strip_pixel(architecture, precision)
    return count * width * min(strip, height * _pixel_bytes(architecture, precision))


def _strip_pixel(architecture: str, precision: str) -> int:
    """Bytes that a pixel of a strip takes.

    Measured: a strip takes twice the memory of one pass over its pixels, since layers wait for each
    other; and what they keep until the next strip takes as much as a third of the halo.
    """
    return 2 * _pixel_bytes(architecture, precision)


def _pixel_bytes(architecture: str, precision: str) -> int:
    """Bytes that a pixel of one pass takes."""
    return ARCHITECTURES[architecture].bytes_per_pixel // (1 if precision == "float32" else 2)


def build_network(architecture: str, precision: str, *, is_drawn: bool = True) -> "keras.Model":
    """Build a network, weights untrained, that computes in `precision`.

    Parameters
    ----------
    is_drawn : bool
        Draw random weights; else kernels are 0, since a file's will take their place: to draw them
        takes as long as to build the rest.
    """
    import keras

    if (backend := keras.backend.backend()) != "tensorflow":
        raise ValueError(
            f"Keras computes with {backend}, a model here with TensorFlow: set KERAS_BACKEND="
            "tensorflow before Keras is imported"
        )
    initializers = {} if is_drawn else dict.fromkeys(DRAWN, keras.initializers.Zeros)
    before = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
    keras.config.set_image_data_format("channels_last")
    try:
        with keras.utils.custom_object_scope(initializers):
            return build(architecture)
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_image_data_format(before[1])
