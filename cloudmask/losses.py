"""Training losses: named terms and their sums, over the pixels that are to be scored."""

from collections.abc import Callable
from typing import Any

from cloudmask.constants import NODATA

_SMOOTH = 1.0
"""Pixel added to both sides of a ratio, so that a batch without cloud has a loss."""


def make_loss(name: str) -> Callable[[Any, Any], Any]:
    """Build the loss that a name stands for.

    Parameters
    ----------
    name : str
        ``bce`` (cross entropy), ``f1`` or ``dice``, ``f2``, ``fbeta:B``, ``jaccard``, or a sum of
        them such as ``bce+f2``. F-beta and Jaccard are one minus the soft score of the whole
        batch, with probabilities in place of decisions: Milletari et al. 2016,
        https://arxiv.org/abs/1606.04797, and its kin.

    Returns
    -------
    callable
        (label, probability) tensors of one shape → scalar. Label 255 is not counted; labels
        between 0 and 1, such as a teacher's probabilities, count in part for each class.

    Raises
    ------
    ValueError
        No such term.
    """
    if not isinstance(name, str):
        raise ValueError(f"loss is {name!r}: give a name, such as 'f1' or 'bce+f2'")
    terms = [_term(part) for part in name.split("+")]

    def loss(label: Any, probability: Any) -> Any:
        from keras import ops

        label, probability = ops.cast(label, "float32"), ops.cast(probability, "float32")
        scored = ops.cast(label != NODATA, "float32")
        cloud = scored * label  # how sure the label is that it is cloud, 0–1
        return sum(term(scored, cloud, probability) for term in terms)

    return loss


def beta_of(name: str) -> float:
    """The beta of the loss's first term f2 or fbeta:B, whose square weighs missed cloud; else 1."""
    for part in name.split("+"):
        if part == "f2" or part.startswith("fbeta:"):
            return _beta(part)
    return 1.0


def _term(part: str) -> Callable[[Any, Any, Any], Any]:
    if part == "bce":
        return _cross_entropy
    if part == "jaccard":
        return _jaccard
    if part in ("f1", "f2", "dice") or part.startswith("fbeta:"):
        beta = _beta(part)
        return lambda scored, cloud, probability: _f_beta(beta, scored, cloud, probability)
    raise ValueError(
        f"loss {part!r} is unknown: choose f1, f2, fbeta:B, bce, dice, jaccard, or a sum such as "
        "bce+dice"
    )


_HIGHEST = 1e6
"""Beta of the F-measure: its square is reckoned with in float32."""


def _beta(part: str) -> float:
    if part in ("f1", "dice"):
        return 1.0
    if part == "f2":
        return 2.0
    try:
        beta = float(part.removeprefix("fbeta:"))
    except ValueError:
        beta = 0.0
    if not 0 < beta <= _HIGHEST:
        raise ValueError(f"loss {part!r}: give fbeta above 0 up to {_HIGHEST:g}, such as fbeta:1.5")
    return beta


def _cross_entropy(scored: Any, cloud: Any, probability: Any) -> Any:
    from keras import ops

    p = ops.clip(probability, 1e-6, 1 - 1e-6)
    entropy = -(cloud * ops.log(p) + (1 - cloud) * ops.log(1 - p))
    return ops.sum(scored * entropy) / (ops.sum(scored) + _SMOOTH)


def _f_beta(beta: float, scored: Any, cloud: Any, probability: Any) -> Any:
    found, false, missed = _soft_counts(scored, cloud, probability)
    both = (1 + beta**2) * found
    return 1 - (both + _SMOOTH) / (both + beta**2 * missed + false + _SMOOTH)


def _jaccard(scored: Any, cloud: Any, probability: Any) -> Any:
    found, false, missed = _soft_counts(scored, cloud, probability)
    return 1 - (found + _SMOOTH) / (found + missed + false + _SMOOTH)


def _soft_counts(scored: Any, cloud: Any, probability: Any) -> tuple[Any, Any, Any]:
    from keras import ops

    found = ops.sum(scored * cloud * probability)
    false = ops.sum(scored * (1 - cloud) * probability)
    missed = ops.sum(scored * cloud * (1 - probability))
    return found, false, missed
