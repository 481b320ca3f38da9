import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudmask.losses import beta_of, make_loss

SEEDS = st.integers(0, 10_000)


def example(seed):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 255], size=(2, 8, 8, 1), p=[0.5, 0.3, 0.2]).astype("uint8")
    return label, rng.uniform(0.01, 0.99, label.shape).astype("float32")


def by_hand(name, label, probability):
    known = label != 255
    t, p = (label[known] == 1).astype("float64"), probability[known].astype("float64")
    found, false, missed = (t * p).sum(), ((1 - t) * p).sum(), (t * (1 - p)).sum()
    if name == "bce":
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum() / (t.size + 1)
    if name == "jaccard":
        return 1 - (found + 1) / (found + false + missed + 1)
    square = {"f1": 1, "dice": 1, "f2": 4, "fbeta:0.5": 0.25}[name]
    return 1 - ((1 + square) * found + 1) / ((1 + square) * found + square * missed + false + 1)


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.sampled_from(["bce", "jaccard", "f1", "dice", "f2", "fbeta:0.5"]))
def test_each_term_is_its_formula_over_the_scored_pixels(seed, name):
    label, probability = example(seed)
    assert float(make_loss(name)(label, probability)) == pytest.approx(
        by_hand(name, label, probability), rel=1e-4
    )


def test_a_label_in_between_counts_in_part_for_each_class():
    """Such as the mean of a label and what a teacher says."""
    label, probability = example(2)
    hard = np.where(label == 255, 0, label)
    soft = np.where(label == 255, 255, 0.25 + hard / 2).astype("float32")
    mixed = 0.75 * by_hand("bce", np.where(label == 255, 255, hard), probability)
    mixed += 0.25 * by_hand("bce", np.where(label == 255, 255, 1 - hard), probability)
    assert float(make_loss("bce")(soft, probability)) == pytest.approx(mixed, rel=1e-4)


def test_a_sum_adds_its_terms():
    label, probability = example(0)
    parts = [float(make_loss(name)(label, probability)) for name in ("bce", "f2")]
    assert float(make_loss("bce+f2")(label, probability)) == pytest.approx(sum(parts), rel=1e-6)


@pytest.mark.parametrize("name", ["bce+dice", "f2", "jaccard"])
def test_pixels_not_scored_have_no_gradient_and_clear_ones_pull_down(name):
    import tensorflow as tf

    label, probability = example(1)
    label[label == 1] = 0  # a batch without cloud still teaches
    given_probability = tf.Variable(probability)
    with tf.GradientTape() as tape:
        loss = make_loss(name)(tf.constant(label), given_probability)
    gradient = tape.gradient(loss, given_probability).numpy()
    assert np.isfinite(loss)
    assert (gradient[label == 255] == 0).all()
    assert (gradient[label == 0] > 0).all()


def test_beta_is_that_of_the_loss():
    assert [beta_of(n) for n in ("f1", "bce", "bce+f2", "fbeta:1.5")] == [1, 1, 2, 1.5]


@pytest.mark.parametrize("name", ["focal", "", "bce+", "fbeta:", "fbeta:0", "fbeta:nan", "f3"])
def test_an_unknown_loss_is_named(name):
    with pytest.raises(ValueError, match=r"loss '.*(choose f1|above 0)"):
        make_loss(name)
