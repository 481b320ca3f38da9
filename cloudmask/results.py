"""What an evaluation found: its tables, and the images with the most wrong pixels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import reduce
from operator import add
from typing import Any

import xarray as xr

from cloudmask.chunks import Block
from cloudmask.manifest import OVERALL, Example
from cloudmask.paths import unsigned
from cloudmask.scores import Scores, Tally, best_threshold, intervals, score, sweep


@dataclass(frozen=True)
class Wrong:
    """An image with wrong pixels: every so many of its pixels."""

    example: Example
    share: float
    """Wrong pixels among those that are scored, 0 to 1."""
    picture: xr.DataArray
    """(band, y, x), 0–255; lazy, as is the label."""
    found: Block
    """(y, x): a mask or a probability."""
    label: xr.DataArray
    """(y, x): 0, 1 and 255."""


@dataclass(frozen=True)
class Evaluation:
    """What was counted on each image, and the threshold that scores are made at."""

    examples: tuple[Example, ...]
    tallies: tuple[Tally, ...]
    """One for each example."""
    threshold: float
    """Probability from which a pixel is cloud."""
    worst: tuple[Wrong, ...] = ()
    """The images with the largest share of wrong pixels, the worst first."""
    about: dict[str, Any] = field(default_factory=dict)
    """What was scored, and how it was read: comes first in `facts`."""

    @property
    def sets(self) -> dict[str, list[Tally]]:
        """One tally for each scene, by set."""
        sets: dict[str, list[Tally]] = {}
        for (name, _), members in self._by_scene().items():
            sets.setdefault(name, []).append(reduce(add, members))
        return sets

    def _by_scene(self) -> dict[tuple[str, str], list[Tally]]:
        scenes: dict[tuple[str, str], list[Tally]] = {}
        for example, one in zip(self.examples, self.tallies, strict=True):
            scenes.setdefault((example.set, unsigned(example.scene)), []).append(one)
        return scenes

    def rows(self) -> list[dict[str, Any]]:
        """A table: overall, then each set, each with intervals, then each scene; pixels, scores."""
        whole = [one for members in self.sets.values() for one in members]
        rows = [_row(OVERALL, "", whole, self.threshold)]
        rows += [_row(name, "", members, self.threshold) for name, members in self.sets.items()]
        for (name, scene), members in self._by_scene().items():
            rows.append(_row(name, scene, [reduce(add, members)], self.threshold))
        return rows

    def facts(self) -> dict[str, Any]:
        """Everything, for JSON: of what, scores, 95 % intervals, best thresholds, the sweep."""
        sets = self.sets
        whole = [one for members in sets.values() for one in members]
        return self.about | {
            "threshold": self.threshold,
            "overall": _facts(whole, self.threshold),
            "sets": {name: _facts(members, self.threshold) for name, members in sets.items()},
            "scenes": [
                {"set": name, "scene": scene}
                | asdict(score([reduce(add, members)], self.threshold))
                for (name, scene), members in self._by_scene().items()
            ],
            "sweep": [
                {"threshold": threshold} | asdict(scores)
                for threshold, scores in sweep(whole).items()
            ],
        }


def _row(name: str, scene: str, tallies: Sequence[Tally], threshold: float) -> dict[str, Any]:
    total = reduce(add, tallies)
    row = {
        "set": name,
        "scene": scene,
        "clear": int(total.clear.sum()),
        "cloud": int(total.cloud.sum()),
        **asdict(score(tallies, threshold)),
    }
    known = intervals(tallies, threshold)
    for each in fields(Scores):
        row[f"{each.name}_low"], row[f"{each.name}_high"] = known.get(each.name, (None, None))
    return row


def _facts(scenes: Sequence[Tally], threshold: float) -> dict[str, Any]:
    total = reduce(add, scenes)
    best = {name: best_threshold(scenes, beta) for name, beta in (("f1", 1), ("f2", 2))}
    return {
        "scenes": len(scenes),
        "pixels": total.pixels,
        **asdict(score(scenes, threshold)),
        "intervals": intervals(scenes, threshold),
        "best_threshold": best,
        "best": {name: getattr(score(scenes, at), name) for name, at in best.items()},
    }
