"""What is watched while a network trains."""

from typing import Any

import keras
from keras import ops

from cloudmask.constants import CLOUD, NODATA


class CloudScores(keras.metrics.Metric):  # type: ignore[misc]  # keras is untyped
    """Precision, recall, F1, F2 and IoU at probability 0.5, over all scored pixels so far."""

    def __init__(self, name: str = "scores"):
        super().__init__(name=name, dtype="float32")
        # float32 counts to 2²⁴ exactly; shares of batches, in megapixels, keep their digits.
        self.found, self.false, self.missed = (
            self.add_weight(name=kind, initializer="zeros") for kind in ("found", "false", "missed")
        )

    def update_state(self, label: Any, probability: Any, sample_weight: None = None) -> None:
        """Count a batch; label 255 is left out, labels between 0 and 1 are rounded."""
        del sample_weight  # Keras passes it by position
        label = ops.cast(label, "float32")
        scored = label != NODATA
        true, says = label >= CLOUD / 2, ops.cast(probability, "float32") >= 0.5
        for count, at in [
            (self.found, scored & true & says),
            (self.false, scored & ~true & says),
            (self.missed, scored & true & ~says),
        ]:
            count.assign_add(ops.sum(ops.cast(at, "float32")) / 1e6)

    def result(self) -> dict[str, Any]:
        """By name, each between 0 and 1; 0 where there is no cloud."""
        found, false, missed = self.found, self.false, self.missed

        return {
            "precision": ops.divide_no_nan(found, found + false),
            "recall": ops.divide_no_nan(found, found + missed),
            "f1": ops.divide_no_nan(2 * found, 2 * found + false + missed),
            "f2": ops.divide_no_nan(5 * found, 5 * found + false + 4 * missed),
            "iou": ops.divide_no_nan(found, found + false + missed),
        }
