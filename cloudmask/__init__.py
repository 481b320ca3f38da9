"""cloudmask finds clouds in satellite and very-high-resolution RGB scenes of any size.

Names are imported at their first use: the command line answers ``--help`` before xarray is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudmask.cluster import connect, send_weights
    from cloudmask.draw import Sampling
    from cloudmask.enlarging import enlarge
    from cloudmask.evaluation import evaluate, evaluate_model
    from cloudmask.labelled import Reading
    from cloudmask.manifest import read_examples
    from cloudmask.mask import threshold
    from cloudmask.planes import open_label, open_valid
    from cloudmask.prediction import predict, segment
    from cloudmask.recipe import Recipe
    from cloudmask.registry import CloudModel, list_models, load_model
    from cloudmask.report import cloud_cover, quicklook
    from cloudmask.sample import write_sample
    from cloudmask.scene import open_scene
    from cloudmask.training import train
    from cloudmask.write import write_cog, write_png, write_zarr

__all__ = [
    "CloudModel",
    "Reading",
    "Recipe",
    "Sampling",
    "cloud_cover",
    "connect",
    "enlarge",
    "evaluate",
    "evaluate_model",
    "list_models",
    "load_model",
    "open_label",
    "open_scene",
    "open_valid",
    "predict",
    "quicklook",
    "read_examples",
    "segment",
    "send_weights",
    "threshold",
    "train",
    "write_cog",
    "write_png",
    "write_sample",
    "write_zarr",
]

_HOME = {
    "CloudModel": "registry",
    "Reading": "labelled",
    "Recipe": "recipe",
    "Sampling": "draw",
    "cloud_cover": "report",
    "connect": "cluster",
    "enlarge": "enlarging",
    "evaluate": "evaluation",
    "evaluate_model": "evaluation",
    "list_models": "registry",
    "load_model": "registry",
    "open_label": "planes",
    "open_scene": "scene",
    "open_valid": "planes",
    "predict": "prediction",
    "quicklook": "report",
    "read_examples": "manifest",
    "segment": "prediction",
    "send_weights": "cluster",
    "threshold": "mask",
    "train": "training",
    "write_cog": "write",
    "write_png": "write",
    "write_sample": "sample",
    "write_zarr": "write",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cloudmask")
    if name in _HOME:
        value = getattr(import_module(f"cloudmask.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'cloudmask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
