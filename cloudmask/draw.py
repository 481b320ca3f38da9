"""How patches are drawn: from which set, towards cloud or not, and with which real clouds to paste.

NumPy only; how a chunk is read is the caller's.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from cloudmask.augment import AUGMENTATIONS, Source, patches
from cloudmask.checks import real, settle, whole
from cloudmask.constants import HIGHEST_SEED
from cloudmask.pasting import Pixels, matte

C = TypeVar("C")
"""Whatever stands for a chunk."""

_MATTES = 48
"""Real clouds kept to be pasted, a quarter of a megabyte each."""


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn from chunks."""

    size: int = 256
    """Height and width of a patch."""
    batch_size: int = 32
    """Patches of a batch."""
    seed: int = 0
    """Of everything random."""
    augment: tuple[str, ...] = AUGMENTATIONS
    """What is done to patches."""
    mix: tuple[tuple[str, float], ...] = ()
    """How often a set is drawn, for sets that are to differ from 1; a dict will do."""

    def __post_init__(self) -> None:
        settle(
            self,
            size=whole("patch", self.size, 1),
            batch_size=whole("batch size", self.batch_size, 1),
            seed=whole("seed", self.seed, 0),
            augment=_names(self.augment),
            mix=tuple((name, real("mix", times)) for name, times in _pairs(self.mix)),
        )
        if self.seed > HIGHEST_SEED:
            raise ValueError(f"seed is {self.seed}: give at most {HIGHEST_SEED}")
        unknown = [name for name in self.augment if name not in AUGMENTATIONS]
        if unknown:
            named = ", ".join(map(str, unknown))
            raise ValueError(f"augment {named} is unknown: choose {', '.join(AUGMENTATIONS)}")
        for name, weight in self.mix:
            if not 0 <= weight < math.inf:
                raise ValueError(f"mix draws {name} {weight} times: give a number of at least 0")


def _names(given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"augment is {given!r}: give a tuple of names")
    return tuple(given)


def _pairs(given: object) -> Iterable[tuple[str, float]]:
    try:
        return dict(given).items()  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError(f"mix is {given!r}: give a dict such as {{'mine': 2}}") from None


def by_set(chunks: Iterable[tuple[str, bool, bool, C]]) -> dict[str, tuple[list[C], list[C]]]:
    """Of each set the chunks that hold cloud, and those that hold what is clear.

    Parameters
    ----------
    chunks : iterable of (str, bool, bool, chunk)
        The set's name, and whether the chunk holds cloud, and what is clear.
    """
    sets: dict[str, tuple[list[C], list[C]]] = {}
    for name, has_cloud, has_clear, chunk in chunks:
        cloudy, clear = sets.setdefault(name, ([], []))
        if has_cloud:
            cloudy.append(chunk)
        if has_clear:
            clear.append(chunk)
    return sets


def check_mix(sets: Collection[str], sampling: Sampling) -> None:
    """Refuse a mix of sets that are not there, or of none, with a ValueError."""
    unknown = dict(sampling.mix).keys() - set(sets)
    if unknown:
        raise ValueError(
            f"mix names sets without training images: {', '.join(sorted(unknown))}; those of the "
            f"manifest's column set are {', '.join(map(repr, sets))}"
        )
    if not any(dict(sampling.mix).get(name, 1) for name in sets):
        raise ValueError("mix draws every set 0 times: give one of them more")


class Draw(Generic[C]):
    """Chooses a chunk: first a set, then cloudy or clear, then one of its chunks.

    Parameters
    ----------
    sets : mapping of str to (list, list)
        Of each set the chunks that hold cloud, and those that hold what is clear.
    sampling : Sampling
    """

    def __init__(self, sets: Mapping[str, tuple[Sequence[C], Sequence[C]]], sampling: Sampling):
        check_mix(sets, sampling)
        self.sets = sets
        mix = dict(sampling.mix)
        weights = np.array([mix.get(name, 1.0) for name in sets])
        self.weights = weights / weights.sum()

    def __call__(self, rng: np.random.Generator) -> tuple[C, bool]:
        """A chunk, and whether its patches should lie on cloud."""
        name = list(self.sets)[int(rng.choice(len(self.sets), p=self.weights))]
        cloudy, clear = self.sets[name]
        towards_cloud = bool(cloudy) and (not clear or rng.random() < 0.6)
        members = cloudy if towards_cloud else clear
        return members[int(rng.integers(len(members)))], towards_cloud


def real_clouds(draw: Draw[C], read: Callable[[C], Source], sampling: Sampling) -> list[Pixels]:
    """Opacities of real clouds to paste, of chunks drawn as in training; none where none are."""
    if "paste" not in sampling.augment:
        return []
    rng = np.random.default_rng([sampling.seed, 2**32])
    made: list[Pixels] = []
    for _ in range(8 * _MATTES):
        chunk, towards_cloud = draw(rng)
        if towards_cloud and len(made) < _MATTES:
            pixels, labels = patches(
                read(chunk), 1, sampling.size, rng, augment=("turn",), towards_cloud=True
            )
            found = matte(pixels[0] / 255, labels[0])
            if found is not None:
                made.append(found.astype("float32"))
    return made
