import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudmask.scores import BINS, best_threshold, intervals, score, sweep, tally

ARRAYS = st.integers(0, 10_000).map(np.random.default_rng)


def example(rng, size=400):
    label = rng.choice([0, 1, 255], size=size, p=[0.5, 0.4, 0.1]).astype("uint8")
    probability = np.clip(rng.normal(0.3 + 0.4 * (label == 1), 0.2), 0, 1).astype("float32")
    probability[rng.random(size) < 0.1] = np.nan
    return probability, label


@given(ARRAYS, st.integers(1, 19).map(lambda step: step / 20))
def test_scores_are_those_of_a_count_by_hand(rng, threshold):
    probability, label = example(rng)
    # A pixel at the very edge of a bin may fall on either side in float32.
    bins = np.minimum(np.floor(probability * BINS), BINS - 1)
    probability = ((bins + rng.uniform(0.1, 0.9, bins.shape)) / BINS).astype("float32")
    scores = score([tally(probability, label)], threshold)
    known = np.isfinite(probability) & (label != 255)
    p, truth = probability[known], label[known] == 1
    found = p >= threshold
    tp, fp, fn = (found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum()
    tn = (~found & ~truth).sum()

    def ratio(part, whole):
        return part / whole if whole else math.nan

    expected = {
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "f2": ratio(5 * tp, 5 * tp + fp + 4 * fn),
        "iou": ratio(tp, tp + fp + fn),
        "miou": (ratio(tp, tp + fp + fn) + ratio(tn, tn + fp + fn)) / 2,
        "accuracy": ratio(tp + tn, known.sum()),
        "brier": float(((p.astype("float64") - truth) ** 2).mean()),
    }
    for name, value in expected.items():
        assert getattr(scores, name) == pytest.approx(value, nan_ok=True), name


@given(ARRAYS, st.integers(1, 399))
def test_tallies_of_parts_add_up_to_that_of_the_whole(rng, cut):
    probability, label = example(rng)
    parts = tally(probability[:cut], label[:cut]) + tally(probability[cut:], label[cut:])
    whole = tally(probability, label)
    np.testing.assert_array_equal(parts.clear, whole.clear)
    np.testing.assert_array_equal(parts.cloud, whole.cloud)
    assert parts.squared_error == pytest.approx(whole.squared_error)
    assert parts.pixels == (np.isfinite(probability) & (label != 255)).sum()


def test_a_mask_is_a_probability_of_nought_or_one():
    label = np.array([0, 0, 1, 1, 255, 1], "uint8")
    mask = np.array([0, 1, 1, 0, 1, 255], "uint8")
    scores = score([tally(mask, label)], 0.3)
    assert (scores.precision, scores.recall, scores.accuracy) == (0.5, 0.5, 0.5)


def test_at_a_threshold_of_one_what_is_certain_is_cloud():
    assert score([tally(np.array([1, 0], "uint8"), np.array([1, 0], "uint8"))], 1.0).f1 == 1


def test_the_best_threshold_follows_what_a_miss_costs(rng):
    one = tally(*example(rng, 20_000))
    scores = sweep([one])
    f1, f2 = best_threshold([one]), best_threshold([one], beta=2)
    assert scores[f1].f1 == max(s.f1 for s in scores.values())
    assert scores[f2].f2 == max(s.f2 for s in scores.values())
    assert f2 < f1


def test_of_thresholds_that_are_as_good_the_middle_one_is_the_best():
    exact = np.array([0, 0, 1], "uint8")
    assert best_threshold([tally(exact, exact)]) == 0.5
    label, sure = np.array([0, 1], "uint8"), np.array([0.3, 0.9], "float32")
    assert best_threshold([tally(sure, label)]) == 0.65  # of 0.35 … 0.9


def test_a_scene_without_a_scored_pixel_is_not_the_second_that_tells():
    clear = np.zeros(400, "uint8")
    mask = clear.copy()
    mask[:4] = 1
    assert intervals([tally(mask, clear), tally(clear, clear + 255)], 0.5) == {}


def test_without_cloud_there_is_no_best_threshold():
    label = np.zeros(100, "uint8")
    assert best_threshold([tally(np.linspace(0, 1, 100, dtype="float32"), label)]) == 0.5


def test_intervals_hold_the_score_narrow_with_scenes_and_repeat(rng):
    few = [tally(*example(rng)) for _ in range(4)]
    many = few * 25
    for tallies in (few, many):
        low, high = intervals(tallies, 0.5)["f1"]
        assert low < score(tallies, 0.5).f1 < high
    assert np.ptp(intervals(many, 0.5)["f1"]) < np.ptp(intervals(few, 0.5)["f1"])
    assert intervals(few, 0.5) == intervals(few, 0.5)
    assert intervals(few[:1], 0.5) == {}


def test_scenes_drawn_without_cloud_say_nothing_of_it(rng):
    """One false pixel on a clear scene made the low end of F1 0, and none left it high."""
    clear = np.zeros(400, "uint8")
    one_false = clear.copy()
    one_false[0] = 1
    label = (np.arange(400) < 200).astype("uint8")
    cloudy = tally(np.where(rng.random(400) < 0.05, 1 - label, label).astype("uint8"), label)
    clean, spoilt = (
        intervals([cloudy] * 6 + [tally(m, clear)] * 2, 0.5) for m in (clear, one_false)
    )
    for name in ("precision", "recall", "f1", "f2", "iou", "miou"):
        assert spoilt[name][0] == pytest.approx(clean[name][0], abs=0.01), name
        assert spoilt[name][0] > 0.8
    assert spoilt["false_cloud"] == (1 / 400, 1 / 400)


def test_what_one_scene_tells_has_no_interval(rng):
    """It would be of no width, and read as certain."""
    cloudy = tally(*example(rng))
    clear = tally(np.zeros(400, "uint8"), np.zeros(400, "uint8"))
    of_cloud = {"precision", "recall", "f1", "f2", "iou", "miou"}
    of_all = {"accuracy", "brier"}
    assert intervals([cloudy, clear, clear], 0.5).keys() == {*of_all, "false_cloud"}
    assert intervals([cloudy, cloudy, clear], 0.5).keys() == of_all | of_cloud


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pixel_at_the_threshold_is_cloud_at_every_half_percent(dtype):
    label = np.ones((2, 2), "uint8")
    for step in range(1, BINS):
        counted = tally(np.full((2, 2), step / BINS, dtype), label)
        assert score([counted], step / BINS).recall == 1
        assert step == BINS - 1 or score([counted], (step + 1) / BINS).recall == 0
