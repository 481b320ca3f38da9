"""Train a network on labelled scenes: from a manifest to a model folder that `load_model` takes."""

import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cloudmask import network as networks
from cloudmask.checks import shown
from cloudmask.constants import CLOUD
from cloudmask.dataset import (
    BATCHES_HELD,
    ROUND,
    VALIDATION_BATCH,
    training_batches,
    validation_patches,
)
from cloudmask.draw import check_mix
from cloudmask.export import export
from cloudmask.initial import check_start, initial_network
from cloudmask.labelled import LONGEST, LabelledChunk, labelled_chunks, longest_short_side
from cloudmask.losses import make_loss
from cloudmask.manifest import Example, read_examples, select_split
from cloudmask.models import ARCHITECTURES
from cloudmask.paths import read_json, resolved, unsigned
from cloudmask.recipe import Recipe
from cloudmask.registry import CloudModel, load_model
from cloudmask.runs import CONFIG, check_disk, check_run, leave_finished, read_history, run_folder

logger = logging.getLogger(__name__)


def train(
    manifest: str | Path,
    name: str,
    recipe: Recipe | None = None,
    *,
    runs: str | Path = "runs",
    resume: bool = False,
    overwrite: bool = False,
    batches: Callable[[int], Any] | None = None,
) -> CloudModel:
    """Train a network, and keep the weights of the lowest validation loss.

    Parameters
    ----------
    manifest : str or Path
        As for `read_examples`; splits ``train`` and ``val`` are used.
    name : str
        Of the run: 3–30 characters of A–Z, a–z, 0–9, _ and, but for the first, full stop.
    recipe : Recipe, optional
        Architecture, loss, schedule, sampling.
    runs : str or Path
        Folder of the run's folder: config.json, history.json, history.png, logs for TensorBoard,
        checkpoint (once it is finished, the best weights in float32), and the model: card.json and
        NAME.weights.h5.
    resume : bool
        Go on after the last finished epoch of a run that was stopped; one that is finished is left
        as it is.
    overwrite : bool
        Replace a run of this name. It lies in .NAME.replaced until this one is finished.
    batches : callable, optional
        Instead of patches of the manifest: from the number of rounds (`dataset.ROUND` batches) that
        are done to an endless tf.data.Dataset such as `dataset.training_batches` makes.

    Returns
    -------
    CloudModel
        What ``load_model(f"{runs}/{name}")`` returns.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError
        One line that names the value and the cure, before any training.
    FloatingPointError
        The loss became NaN; the best weights until then are kept.
    MemoryError
        A batch does not fit.
    OSError
        An image cannot be read, or the run cannot be written: the disk is full.
    """
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise ValueError(f"recipe is {recipe!r}: give a Recipe")
    for what, value in (("manifest", manifest), ("name", name), ("runs", runs)):
        if not isinstance(value, str | Path):
            raise ValueError(f"{what} is {shown(value)}: give a name or a path")
    if batches is not None and not callable(batches):
        raise ValueError(f"batches is {shown(batches)}: give what makes them of a round's number")
    examples = read_examples(manifest)
    config = _config(manifest, examples, recipe)
    folder = check_run(Path(runs), str(name), config, resume=resume, overwrite=overwrite)
    if resume and leave_finished(folder):
        logger.info("%s is finished", folder)
        return load_model(folder)
    check_disk(folder, ARCHITECTURES[recipe.architecture].weights, resume=resume)
    if recipe.weights and Path(recipe.weights).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} is to start from its own weights: choose another name")
    _check_memory(recipe)
    # A run that has begun has all that it took from its first weights: they may be gone by now.
    is_begun = resume and bool(read_history(folder))
    if not is_begun:
        check_start(recipe)
    chunks = {split: _checked_chunks(examples, split, recipe) for split in ("train", "val")}
    check_mix(dict.fromkeys(chunk.example.set for chunk in chunks["train"]), recipe.sampling)
    # Checkpoints hold an optimiser of one precision, and machines differ in what they choose.
    if resume and (begun := read_json(folder / CONFIG, cure="").get("precision")):
        recipe = replace(recipe, precision=begun)
    network = initial_network(recipe, is_begun=is_begun)
    config["precision"] = recipe.precision or networks.choose_precision()
    validation = validation_patches(
        chunks["val"], recipe.reading, recipe.sampling, limit=recipe.validation_patches
    )
    if not (validation[1] == CLOUD).any():
        raise ValueError(
            f"no pixel of the {len(validation[1])} validation patches is cloud: give more of them, "
            "or images with more cloud"
        )
    with run_folder(folder, config, resume=resume, overwrite=overwrite):
        try:
            _fit(network, recipe, chunks["train"], validation, folder, batches)
        finally:
            _draw(folder)
        export(network, recipe, validation, examples, folder)
    return load_model(folder)


def _config(manifest: str | Path, examples: Sequence[Example], recipe: Recipe) -> dict[str, Any]:
    def named(path: str) -> str:
        return unsigned(resolved(path))

    packages = ("cloudmask", "tensorflow", "keras", "numpy", "dask", "rasterio")
    rows = [
        replace(e, image=named(e.image), label=named(e.label), scene=unsigned(e.scene))
        for e in examples
    ]
    text = json.dumps([asdict(row) for row in rows])
    return {
        "manifest": str(manifest),
        "examples": hashlib.sha256(text.encode()).hexdigest(),
        "recipe": asdict(recipe),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }


def _check_memory(recipe: Recipe) -> None:
    """Refuse, with a MemoryError, batches that cannot fit: the kernel would end it without a word.

    Counted are the pipeline's patches in float16 with their labels, and on a CPU what a forward
    pass alone takes in 16 bits; training takes more.
    """
    from distributed.system import MEMORY_LIMIT  # of the container, where there is one

    # For TensorFlow's pool, which can tell what the kernel would not.
    os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(9 * MEMORY_LIMIT // 10 // 2**20))
    sampling = recipe.sampling
    held = BATCHES_HELD * sampling.batch_size + recipe.validation_patches
    need = held * 7 * sampling.size**2
    if not networks.gpus():
        forward = ARCHITECTURES[recipe.architecture].bytes_per_pixel // 2
        need += sampling.batch_size * forward * sampling.size**2
    if need > MEMORY_LIMIT:
        raise MemoryError(
            f"batches of {sampling.batch_size} patches of {sampling.size} px take at least "
            f"{need / 1e9:.0f} GB, of {MEMORY_LIMIT / 1e9:.0f}: lower the batch size"
        )


def _checked_chunks(examples: Sequence[Example], split: str, recipe: Recipe) -> list[LabelledChunk]:
    chunks = labelled_chunks(select_split(examples, split), recipe.reading)
    if not any(chunk.cloud for chunk in chunks):
        raise ValueError(
            f"no pixel of split {split!r} is cloud: label some, or check the labels (255 is not "
            "scored unless cloud=(255,) or --cloud 255 says so) and nodata of the images, which is "
            "not scored either"
        )
    size, largest = recipe.sampling.size, longest_short_side(chunks)
    if size > largest:
        fits = largest // recipe.stride * recipe.stride
        cure = f"give at most {fits}" if fits else f"{recipe.stride} px are needed"
        raise ValueError(
            f"patch is {size}, every image of split {split!r} is smaller, or is read in chunks of "
            f"{LONGEST}: {cure}"
        )
    return chunks


def _fit(
    network: Any,
    recipe: Recipe,
    chunks: Sequence[LabelledChunk],
    validation: tuple[Any, Any],
    folder: Path,
    batches: Callable[[int], Any] | None,
) -> None:
    import tensorflow as tf

    from cloudmask.fitting import Phase, Schedule, fit

    steps = _steps(recipe, chunks)
    schedule = Schedule(
        recipe.epochs,
        steps,
        recipe.learning_rate,
        recipe.patience,
        ARCHITECTURES[recipe.architecture].encoder,
        recipe.sampling.seed,
    )
    phases = [Phase(0, recipe.frozen, True), Phase(recipe.frozen, recipe.epochs, False)]
    logger.info(
        "%d chunks of %d images, %d epochs of %d batches of %d",
        len(chunks), len({chunk.example for chunk in chunks}), recipe.epochs, steps,
        recipe.sampling.batch_size,
    )  # fmt: skip

    def from_epoch(first: int) -> Any:
        first_round = first * steps // ROUND
        if batches is not None:
            given = batches(first_round)
            if (count := int(given.cardinality())) >= 0:
                raise ValueError(f"batches ends after {count}: let it go on for ever (repeat)")
            return given
        return training_batches(chunks, recipe.reading, recipe.sampling, first_round=first_round)

    fixed = (
        tf.data.Dataset.from_tensor_slices(validation)
        .batch(VALIDATION_BATCH)
        .map(lambda pixels, label: (tf.cast(pixels, tf.float32), label))
    )
    try:
        for phase in phases:
            if phase.first < phase.last:
                with network.distribute_strategy.scope():
                    fit(network, phase, schedule, make_loss(recipe.loss), from_epoch, fixed, folder)
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise MemoryError(
            f"a batch of {recipe.sampling.batch_size} does not fit in memory: lower the batch size"
        ) from error
    except tf.errors.OpError as error:
        # What is raised while a chunk is read comes back as text, in the middle of a traceback.
        found_line = re.search(r"^\w*Error: (.+)$", error.message, re.MULTILINE)
        if found_line is None:
            raise
        raise OSError(found_line[1]) from error


def _draw(folder: Path) -> None:
    from cloudmask.plots import draw_history

    epochs = read_history(folder)
    if epochs:
        draw_history(epochs, folder / "history.png")


def _steps(recipe: Recipe, chunks: Sequence[LabelledChunk]) -> int:
    """Batches of an epoch, in whole rounds, so that a run can be resumed after each epoch."""
    patch = recipe.sampling.size**2 * recipe.sampling.batch_size
    steps = recipe.steps or sum(chunk.clear + chunk.cloud for chunk in chunks) / patch
    return max(1, round(steps / ROUND)) * ROUND
