"""The networks. Importing this package imports no TensorFlow; building a network does."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Architecture:
    """What can be known of a network before it is built."""

    stride: int
    """Block sizes and origins must be multiples of this."""
    overlap: int
    """Pixels of context beyond which float32 probabilities change by less than 1e-4."""
    window: int | None
    """Fixed height and width of the input; None where any multiple of the stride will do."""
    weights: int
    """Number of weights, which tells a file of one architecture from that of another."""
    bytes_per_pixel: int
    """Memory of a forward pass in float32, measured; half of it in 16 bits."""
    encoder: str = ""
    """What the names of its VGG16 convolutions begin with; empty where it has none."""


ARCHITECTURES = {
    # Measured with unet-f1 on a Landsat and a Sentinel-2 scene, chunked against whole: 96 px leave
    # 0.016, 128 0.007, 160 0.001, 192 0.00005 of a difference in probability, and 224 none.
    "unet_vgg16": Architecture(
        stride=32,
        overlap=224,
        window=None,
        weights=23_770_769,
        bytes_per_pixel=1000,
        encoder="block",
    ),
    # The convolutions of these two reach 224 and 222 px from a multiple of the stride.
    "unet_slim": Architecture(
        stride=32, overlap=224, window=None, weights=1_672_473, bytes_per_pixel=390
    ),
    "lite": Architecture(
        stride=32, overlap=224, window=None, weights=1_369_892, bytes_per_pixel=160
    ),
    "slim_lite": Architecture(
        stride=32, overlap=224, window=None, weights=3_042_365, bytes_per_pixel=430
    ),
    # Two of `lite`, of which the second, on four times as many squares, reaches half as far.
    "lite_pair": Architecture(
        stride=32, overlap=224, window=None, weights=2_738_125, bytes_per_pixel=680
    ),
    # Its pyramid pools over the whole input, so the 256 × 256 window is part of the model.
    # Windows lie on a grid of half their size; a halo of that holds all that touch a chunk.
    # A pixel takes 860 bytes in float32, and 500 in 16 bits.
    "cloudx_net": Architecture(
        stride=128, overlap=128, window=256, weights=19_513_905, bytes_per_pixel=1000
    ),
}


def build(architecture: str) -> "keras.Model":
    """Build a network, weights untrained, under Keras' current dtype policy.

    Returns
    -------
    keras.Model
        (n, y, x, 3) RGB 0–255 → (n, y, x, 1) float32 probabilities.
    """
    return getattr(import_module(f"cloudmask.models.{architecture}"), architecture)()


def weights_folder() -> Path:
    """Where the package's own weight files are: inside it, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"
