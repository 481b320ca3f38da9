"""Costs of commands and functions in processes of their own, their medians, and a results file.

Scripts stay small themselves, without TensorFlow: what a parent takes counts for its children, too,
until they have become another program.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from context import context
from tables import table

SEED = 3
_TINY = 64
_NO_SIZES = ("folder", "results", "context", "peers")


@dataclass(frozen=True)
class Fake:
    """What `cloudmask.predict` asks of a network, to be called by a subclass."""

    stride: int = 32
    overlap: int = 64
    window: int | None = None
    name: str = "fake"
    threshold: float = 0.5


def options(doc: str, **defaults: tuple[Any, Any]) -> argparse.Namespace:
    """What a script is asked for; each keyword is an option: (in the full form, in the short)."""
    defaults = {"runs": (3, 1), **defaults}
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for scenes, which are kept, and masks")
    parser.add_argument("--short", action="store_true", help="small sizes, for minutes")
    for name, (full, short) in defaults.items():
        many = isinstance(full, list)
        more = {"type": type(full[0]), "nargs": "+"} if many else {"type": type(full)}
        parser.add_argument(f"--{name}", help=f"default: {full}, short {short}", **more)
    asked = parser.parse_args()
    for name, (full, short) in defaults.items():
        if getattr(asked, name) is None:
            setattr(asked, name, short if asked.short else full)
    asked.folder.mkdir(parents=True, exist_ok=True)
    # Of the short form no figures are quoted: they stay with its scenes.
    asked.results = asked.folder if asked.short else Path(__file__).parent
    asked.context = context()  # before anything runs
    return asked


def run(command: list[Any]) -> tuple[str, dict[str, float]]:
    """What a command prints, its seconds from start to exit, and its peak memory."""
    begun = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return output, {"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024}


def apart(
    function: Callable[..., dict[str, Any]],
    *,
    python: Path | str = sys.executable,
    **arguments: Any,
) -> dict[str, Any]:
    """Call a benchmark's function in a process of its own; its figures beside that process' cost.

    Arguments and figures cross as JSON.
    """
    script = Path(function.__code__.co_filename).stem
    known = json.dumps(arguments, default=str)
    output, cost = run([python, __file__, script, function.__name__, known])
    return cost | json.loads(output.splitlines()[-1])


def segment(scene: Path, mask: Path, *more: Any) -> dict[str, Any]:
    """Cost of `cloudmask segment`, with the seconds that its threads spent in each stage."""
    command = [sys.executable, "-m", "cloudmask", "segment", scene, mask, *more]
    output, cost = run([*command, "--overwrite", "--json"])
    stages = json.loads(output)["thread_seconds"]
    return cost | {f"{stage}_thread_seconds": spent for stage, spent in sorted(stages.items())}


def startup(folder: Path, *more: Any) -> dict[str, Any]:
    """Cost of the same command where there is next to nothing to do."""
    cost = segment(sample(folder, _TINY), folder / "mask.tif", *more)
    return {key: cost[key] for key in ("seconds", "peak_bytes")}


def alternate(
    contestants: dict[str, Callable[[], dict[str, Any]]], runs: int
) -> dict[str, dict[str, Any]]:
    """Medians of each contestant, and every run's figures.

    All run in turn: what disturbs the machine for a while then disturbs all.
    """
    costs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for number, (name, contestant) in product(range(runs), contestants.items()):
        costs[name].append(contestant())
        seconds = costs[name][-1].get("seconds", 0)
        print(f"{name}: run {number + 1}, {seconds:.1f} s", file=sys.stderr, flush=True)
    return {
        name: {key: statistics.median(cost[key] for cost in each) for key in each[0]}
        | {"runs": each}
        for name, each in costs.items()
    }


def report(script: str, doc: str, asked: argparse.Namespace, rows: dict[str, Any]) -> None:
    """Print the table, and write it with its context beside the script."""
    question = doc.split("\n\n")[0].replace("\n", " ").removeprefix("Ask ")
    sizes = {key: value for key, value in vars(asked).items() if key not in _NO_SIZES}
    results = {"question": question, "sizes": sizes, "context": asked.context, "rows": rows}
    file = asked.results / f"{Path(script).stem}.json"
    file.write_text(json.dumps(results, indent=2) + "\n")
    print(table(rows))


def sample(folder: Path, side: int, *more: str) -> Path:
    """A synthetic scene by `cloudmask sample`, made where it is missing."""
    scene = folder / f"sample_{side}{''.join(more).replace('--', '_')}.tif"
    if not scene.exists():
        command = [sys.executable, "-m", "cloudmask", "sample", scene, "--seed", SEED, *more]
        run([*command, "--size", side, side])
    return scene


def repeated(folder: Path, side: int) -> Path:
    """A scene of one block over and over: GBs of pixels in seconds, where content is no matter."""
    scene = folder / f"repeated_{side}.tif"
    if not scene.exists():
        apart(repeat, scene=scene, side=side)
    return scene


def repeat(scene: str, side: int) -> dict[str, Any]:
    """Write such a scene; in a process of its own, for its memory: children inherit a peak."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    length = 2048
    colours = np.random.default_rng(SEED).integers(0, 255, (3, 16, 16), "uint8")
    block = colours.repeat(length // 16, axis=1).repeat(length // 16, axis=2)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32637"}
    profile |= {"compress": "deflate", "zlevel": 1, "interleave": "pixel", "bigtiff": "IF_SAFER"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "num_threads": "ALL_CPUS"}
    profile |= {"transform": rasterio.transform.from_origin(400_000, 1_300_000, 1, 1)}
    unfinished = Path(scene).with_suffix(".unfinished")
    with rasterio.open(unfinished, "w", width=side, height=side, **profile) as dataset:
        for y, x in product(range(0, side, length), repeat=2):
            height, width = min(length, side - y), min(length, side - x)
            dataset.write(block[:, :height, :width], window=Window(x, y, width, height))
    unfinished.rename(scene)
    return {}


if __name__ == "__main__":
    script, function, known = sys.argv[1:]
    print(json.dumps(getattr(import_module(script), function)(**json.loads(known))))
