"""The epochs of a training run: two phases, a checkpoint after each, the best weights kept."""

import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from cloudmask.constants import NODATA
from cloudmask.metrics import CloudScores
from cloudmask.runs import BEST, HISTORY, read_history
from cloudmask.weightfile import read_weights, whole_file, write_weights
from cloudmask.write import write_json

logger = logging.getLogger(__name__)

_AVERAGE = 0.99
"""Momentum of the moving average of the weights, which is what is validated and kept."""
_WARM_UP = 0.05
"""Share of a phase in which the learning rate rises."""
_SAY_EVERY = 60.0
"""Seconds between two lines within an epoch."""
_EXAMPLES = 6
"""Validation patches drawn in TensorBoard."""


@dataclass(frozen=True)
class Phase:
    """Epochs with one optimiser."""

    first: int
    """Number of the first epoch, from 0."""
    last: int
    """Number of the one after the last."""
    frozen: bool
    """The encoder keeps its weights."""


@dataclass(frozen=True)
class Schedule:
    """What both phases share."""

    epochs: int
    """Of both."""
    steps: int
    """Batches of an epoch."""
    learning_rate: float
    """Highest; a phase warms up to it and decays by a cosine."""
    patience: int | None
    """Epochs without a lower validation loss after which the second phase stops."""
    encoder: str
    """What the names of the encoder's layers begin with."""
    seed: int
    """Of dropout."""


def fit(
    network: keras.Model,
    phase: Phase,
    schedule: Schedule,
    loss: Callable[[Any, Any], Any],
    batches: Callable[[int], tf.data.Dataset],
    validation: tf.data.Dataset,
    folder: Path,
) -> None:
    """Run one phase, or what is left of it; the best weights so far end up in the network.

    Parameters
    ----------
    batches : callable
        From the number of the first epoch to an endless dataset.
    validation : tf.data.Dataset
        Finite.
    folder : Path
        The run's.
    """
    if phase.first and (start := _start_of(phase, folder)).exists():
        read_weights(network, start)
    for layer in network.layers:
        if schedule.encoder and layer.name.startswith(schedule.encoder):
            layer.trainable = not phase.frozen
    total = (phase.last - phase.first) * schedule.steps
    warm_up = round(_WARM_UP * total)
    rate = keras.optimizers.schedules.CosineDecay(
        schedule.learning_rate / 100,
        decay_steps=total - warm_up,
        alpha=0.01,
        warmup_target=schedule.learning_rate,
        warmup_steps=warm_up,
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=1e-4, global_clipnorm=1.0, use_ema=True, ema_momentum=_AVERAGE
    )
    network.compile(optimizer, loss=loss, metrics=[CloudScores()])
    network.optimizer.build(network.trainable_variables)  # in float16 what scales the loss, too
    keeper = _Keeper(folder, phase, schedule, validation.unbatch().take(_EXAMPLES))
    if len(keeper.history) > phase.last:
        return  # resumed in a later phase
    first = max(len(keeper.history), phase.first)
    if first < phase.last and not keeper.exhausted:
        keeper.restore(network)
        network.fit(
            batches(first),
            initial_epoch=first,
            epochs=phase.last,
            steps_per_epoch=schedule.steps,
            validation_data=validation,
            callbacks=[keeper],
            shuffle=False,  # the batches are
            verbose=0,
        )
    read_weights(network, folder / "checkpoint" / BEST)


def _start_of(phase: Phase, folder: Path) -> Path:
    """Best weights of the phase before, kept apart.

    The first epoch of this phase may replace them and be stopped before it is in the history; what
    resumes it must begin as it did.
    """
    best = folder / "checkpoint" / BEST
    start = best.with_name(f"start-{phase.first:04d}.weights.h5")
    if best.exists() and not start.exists():
        with whole_file(start) as temporary:
            shutil.copy(best, temporary)
    return start


class _Keeper(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Validates the averaged weights, keeps the best, and leaves a checkpoint after each epoch."""

    def __init__(self, folder: Path, phase: Phase, schedule: Schedule, examples: tf.data.Dataset):
        super().__init__()
        self.folder, self.phase, self.schedule, self.examples = folder, phase, schedule, examples
        self.history = read_history(folder)
        self.logs = tf.summary.create_file_writer(str(folder / "logs"))

    def restore(self, network: keras.Model) -> None:
        """Load the checkpoint of this phase, if any; a ValueError where it does not fit."""
        done = len(self.history)
        if done > self.phase.first:
            checkpoint = self._checkpoint(done)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", UserWarning)  # Keras skips what does not fit
                    network.load_weights(checkpoint)
            except (UserWarning, ValueError) as error:
                raise ValueError(
                    f"{checkpoint} is not of this optimiser: resume the run with the precision "
                    "that it was begun in"
                ) from error

    @property
    def exhausted(self) -> bool:
        """Whether this phase has waited long enough for a lower validation loss."""
        losses = [entry["val_loss"] for entry in self.history[self.phase.first :]]
        patience = None if self.phase.frozen else self.schedule.patience
        return (
            patience is not None
            and bool(losses)
            and (len(losses) - 1 - losses.index(min(losses)) >= patience)
        )

    def on_epoch_begin(self, epoch: int, _logs: Any = None) -> None:
        """Dropout repeats after a resume only if its state follows from the epoch."""
        self.began = self.said = time.monotonic()
        self.epoch = epoch
        for layer in self.model.layers:
            if hasattr(layer, "seed_generator"):
                layer.seed_generator.state.assign([self.schedule.seed, epoch])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop at NaN, and say now and then how far it is."""
        self._check_finite("loss", logs["loss"])
        if time.monotonic() - self.said > _SAY_EVERY:
            self.said = time.monotonic()
            logger.info(
                "epoch %d, batch %d of %d: loss %.4f",
                self.epoch + 1, batch + 1, self.schedule.steps, logs["loss"],
            )  # fmt: skip

    def _check_finite(self, name: str, loss: float) -> None:
        if math.isfinite(loss):
            return
        best = self.folder / "checkpoint" / BEST
        kept = f", and go on under another name with --weights {best}" if best.exists() else ""
        raise FloatingPointError(
            f"the {name} became {loss} in epoch {self.epoch + 1}: lower the learning rate{kept}"
        )

    def on_test_begin(self, _logs: Any = None) -> None:
        """Put the averaged weights in."""
        self.raw = [variable.numpy() for variable in self.model.trainable_variables]
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def on_test_end(self, logs: Any = None) -> None:
        """Keep the averaged weights if they are the best, and take them out again.

        No loss is lower than NaN: what follows could never be the best.
        """
        self._check_finite("validation loss", logs["loss"])
        best = min((entry["val_loss"] for entry in self.history), default=math.inf)
        if logs["loss"] < best:
            write_weights(self.model, self.folder / "checkpoint" / BEST)
        self._draw_examples()
        for variable, value in zip(self.model.trainable_variables, self.raw, strict=True):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the checkpoint, then the history that says that it is whole."""
        seconds = time.monotonic() - self.began
        rate = float(self.model.optimizer.learning_rate)
        entry = {key: float(value) for key, value in logs.items()}
        entry |= {"learning_rate": rate, "seconds": round(seconds, 1)}
        self.history.append(entry)
        checkpoint = self._checkpoint(epoch + 1)
        with whole_file(checkpoint) as temporary:
            self.model.save_weights(temporary)
        write_json(self.folder / HISTORY, {"epochs": self.history})
        self._checkpoint(epoch).unlink(missing_ok=True)
        with self.logs.as_default(step=epoch + 1):
            for key, value in entry.items():
                tf.summary.scalar(key, value)
        logger.info(
            "epoch %d of %d: loss %.4f, validation loss %.4f, F1 %.3f, precision %.3f, recall %.3f,"
            " %.0f s",
            epoch + 1, self.schedule.epochs, entry["loss"], entry["val_loss"], entry["val_f1"],
            entry["val_precision"], entry["val_recall"], seconds,
        )  # fmt: skip
        self.logs.flush()  # the command exits without taking TensorFlow apart
        if self.exhausted:
            self.model.stop_training = True

    def _checkpoint(self, epochs: int) -> Path:
        return self.folder / "checkpoint" / f"epoch-{epochs:04d}.weights.h5"

    def _draw_examples(self) -> None:
        """Each example, its label (not scored: grey) and its probability, one above the other."""
        with self.logs.as_default(step=self.epoch + 1):
            for i, (pixels, label) in enumerate(self.examples):
                probability = self.model(pixels[None], training=False)[0]
                known = tf.where(label == NODATA, 0.5, tf.cast(label, tf.float32))
                grey = [known, probability]
                column = [pixels / 255, *(tf.repeat(plane, 3, axis=-1) for plane in grey)]
                tf.summary.image(f"example_{i}", tf.concat(column, axis=0)[None])
