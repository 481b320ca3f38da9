"""Ask what a 20,000 × 20,000 px scene costs, and where the time goes.

    python benchmarks/large_scene.py FOLDER [--side 20000] [--factor 10] [--runs 3]

Makes the scenes in FOLDER where they are missing, tiled and striped, runs `cloudmask segment` on
each as a process of its own, and writes seconds, seconds per stage and peak memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from context import context


def run(scene: Path, mask: Path, factor: float) -> dict[str, Any]:
    """One run of the command; its result and its peak memory in bytes."""
    command = [sys.executable, "-m", "cloudmask", "segment", str(scene), str(mask)]
    command += ["--resize-factor", str(factor), "--overwrite", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with {status}")
    result = json.loads(output)
    stages = result["thread_seconds"]
    return {"seconds": result["seconds"], "peak_bytes": usage.ru_maxrss * 1024} | {
        f"{stage}_thread_seconds": stages.get(stage, 0.0) for stage in ("read", "network", "write")
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--factor", type=float, default=10)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, Any] = {
        "question": "seconds and peak memory of one large scene",
        "side": options.side,
        "factor": options.factor,
        "runs": options.runs,
        "context": context(),
    }
    for kind in ("tiled", "striped"):
        scene = options.folder / f"{kind}_{options.side}.tif"
        if not scene.exists():
            size = [str(options.side)] * 2
            striped = ["--striped"] if kind == "striped" else []
            command = [sys.executable, "-m", "cloudmask", "sample", str(scene)]
            subprocess.run([*command, "--size", *size, "--seed", "3", *striped], check=True)
        runs = [
            run(scene, options.folder / f"{kind}_mask.tif", options.factor)
            for _ in range(options.runs)
        ]
        results[kind] = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        results[kind]["seconds_of_each_run"] = [r["seconds"] for r in runs]
        print(kind, json.dumps(results[kind]))
    path = Path(__file__).with_name("large_scene.json")
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
