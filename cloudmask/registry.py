"""Models by name or by file: a small frozen card, which loads its network at its first call."""

import json
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloudmask.mask import check_threshold
from cloudmask.models import ARCHITECTURES, weights_folder
from cloudmask.paths import read_json

_LEGACY = (".hdf5", ".h5")
CARD = "card.json"
"""File of a run's folder that makes it a model."""


@dataclass(frozen=True)
class CloudModel:
    """A network with its weights: small enough to travel with every task.

    Call it with (n, y, x, 3) RGB 0–255, y and x multiples of `stride` (`window` where that is set:
    other sizes are other inputs than it was trained on), for (n, y, x) float32 probabilities. The
    network is loaded at the first call, once per process.
    """

    name: str
    """Name in the registry, or the file's."""
    architecture: str
    """Key of `ARCHITECTURES`."""
    path: str
    """The weight file."""
    sha256: str
    """Of the weight file."""
    threshold: float
    """Probability from which a pixel is cloud, chosen on validation data."""
    gsd: float | None
    """Ground sample distance in metres that finer scenes are read at; None: their own."""
    gsd_range: tuple[float, float] | None
    """Finest and coarsest ground sample distance in metres that the model was trained for."""
    precision: str | None = None
    """"float32", "bfloat16" or "float16"; None: what the machine that runs it is fastest at."""

    @property
    def stride(self) -> int:
        """Block sizes and origins must be multiples of this."""
        return ARCHITECTURES[self.architecture].stride

    @property
    def overlap(self) -> int:
        """Context in pixels that a chunk needs on each side."""
        return ARCHITECTURES[self.architecture].overlap

    @property
    def window(self) -> int | None:
        """Fixed side of the network's input; None where any multiple of the stride will do."""
        return ARCHITECTURES[self.architecture].window

    @property
    def provenance(self) -> dict[str, str]:
        """What a result should say of where it comes from."""
        chosen = {} if self.precision is None else {"precision": self.precision}
        return {
            "model": self.name,
            "model_sha256": self.sha256,
            **chosen,
            "cloudmask_version": version("cloudmask"),
        }

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities (n, y, x) float32 of `pixels` (n, y, x, 3) RGB 0–255.

        Raises
        ------
        ValueError
            Of another shape, or y or x no multiple of the stride; or the weight file has changed.
        FileNotFoundError
            The weight file is not on this machine.
        MemoryError
            It does not fit.
        RuntimeError
            The process was forked from one in which TensorFlow ran.
        """
        from cloudmask.network import forward

        shape = np.shape(pixels)
        sides = shape[1:3]
        if len(shape) != 4 or shape[3] != 3 or 0 in shape or any(s % self.stride for s in sides):
            raise ValueError(
                f"pixels are {shape}: give (n, y, x, 3) with y and x multiples of {self.stride}"
            )
        return forward(self.path, self.sha256, self.architecture, self.precision, pixels)


def load_model(
    name_or_path: str | Path | None = None,
    *,
    architecture: str | None = None,
    precision: str | None = None,
) -> CloudModel:
    """Find a model and check its file; TensorFlow is not imported before the first call.

    Parameters
    ----------
    name_or_path : str or Path, optional
        Nothing: the registry's default. A name that `list_models` lists. The folder of a run of
        `train`. A Keras 3 ``.weights.h5`` file, or a Keras 2 ``.hdf5`` or ``.h5`` file of the
        older scripts.
    architecture : str, optional
        One of `cloudmask.models.ARCHITECTURES`, such as "unet_vgg16": what a file holds; by default
        it is told from the number of its weights.
    precision : {"float32", "bfloat16", "float16"}, optional
        By default the fastest of the machine that runs it.

    Returns
    -------
    CloudModel

    Raises
    ------
    ValueError
        Unknown name, architecture or precision; a file that is truncated, of another architecture
        or, for a registered model, with another sha256.
    FileNotFoundError
        No such file.
    """
    from cloudmask.network import check_precision
    from cloudmask.weightfile import file_sha256, identify

    check_precision(precision)
    if architecture not in (None, *ARCHITECTURES):
        raise ValueError(f"architecture is {architecture!r}: choose {', '.join(ARCHITECTURES)}")
    registry = _registry()
    name = str(registry["default"] if name_or_path is None else name_or_path)
    entry = registry["models"].get(name)
    if entry is not None:
        path = weights_folder() / entry["file"]
    elif (Path(name) / CARD).is_file():
        needed = ("file", "sha256", "architecture", "threshold", "gsd", "gsd_range")
        entry = read_json(
            Path(name) / CARD, *needed, cure="give the weight file, or train it again"
        )
        path, name = _checked(entry, Path(name)), Path(name).resolve().name
    else:
        path = Path(name)
        if not name.endswith(_LEGACY):
            raise ValueError(
                f"no model is called {name!r}: choose {', '.join(registry['models'])}, or give the "
                "folder of a finished training run or a .weights.h5, .hdf5 or .h5 file"
            )
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
    sha256 = file_sha256(path)
    if entry is None:  # a copy of a registered file has its card
        known = (item for item in registry["models"].items() if item[1]["sha256"] == sha256)
        name, entry = next(known, (path.name, None))
    elif sha256 != entry["sha256"]:
        raise ValueError(
            f"{path} has sha256 {sha256[:12]}…, its card says {entry['sha256'][:12]}…: "
            "the file is damaged, take another copy"
        )
    found = identify(path)
    wanted = architecture or (entry["architecture"] if entry else found)
    if found != wanted:
        raise ValueError(f"{path} holds a {found}, not a {wanted}")
    card = entry or {"threshold": 0.5, "gsd": None, "gsd_range": None}
    check_threshold(card["threshold"])
    return CloudModel(
        name=name,
        architecture=found,
        path=str(path.resolve()),
        sha256=sha256,
        threshold=card["threshold"],
        gsd=card["gsd"],
        gsd_range=tuple(card["gsd_range"]) if card["gsd_range"] else None,
        precision=precision,
    )


def _checked(card: dict[str, Any], run: Path) -> Path:
    """The weight file of a run; an error where its card was changed, or the file is gone."""
    scale = card["gsd_range"] or []
    if (
        not all(isinstance(card[name], str) for name in ("file", "sha256", "architecture"))
        or not (isinstance(scale, list) and len(scale) in (0, 2))
        or any(not isinstance(gsd, float | int) or gsd <= 0 for gsd in (card["gsd"] or 1, *scale))
    ):
        raise ValueError(f"{run / CARD} is damaged: give the weight file, or train it again")
    if not (run / card["file"]).is_file():
        raise FileNotFoundError(f"{run / card['file']}, the weights of {run}, does not exist")
    return run / str(card["file"])


def list_models() -> dict[str, dict[str, Any]]:
    """Find the models that come with the package.

    Returns
    -------
    dict
        For each name its card: architecture, threshold, GSD, training data, licences and scores.
    """
    registry = deepcopy(_registry())
    return {
        name: {**entry, "default": name == registry["default"]}
        for name, entry in registry["models"].items()
    }


@cache
def _registry() -> dict[str, Any]:
    registry: dict[str, Any] = json.loads((weights_folder() / "registry.json").read_text())
    return registry
