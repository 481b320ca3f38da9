import numpy as np
import pytest


def test_scores_are_pooled_over_batches_without_unscored_pixels(rng):
    from cloudmask.metrics import CloudScores

    metric, seen = CloudScores(), []
    for _ in range(3):
        label = rng.choice([0, 1, 255], size=(2, 16, 16, 1)).astype("uint8")
        probability = rng.random(label.shape, "float32")
        metric.update_state(label, probability)
        seen.append((label[label != 255] == 1, probability[label != 255] >= 0.5))
    truth, found = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    tp, fp, fn = (found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum()
    result = {key: float(value) for key, value in metric.result().items()}
    assert result == pytest.approx(
        {
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "f2": 5 * tp / (5 * tp + fp + 4 * fn),
            "iou": tp / (tp + fp + fn),
        },
        rel=1e-5,
    )
    metric.reset_state()
    assert all(float(value) == 0 for value in metric.result().values())
