"""Ask whether a network in training waits for data, and what memory a large labelled scene takes.

    python benchmarks/training_data.py FOLDER [--side 30000] [--steps 32] [--runs 3]

Makes a labelled scene in FOLDER where it is missing. Each figure comes from a process of its own:
batches alone at two sizes of scene, without a network; then training steps of two networks, fed
from the large scene.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from context import context

BATCH = 16


def measure(manifest: Path, network: str, steps: int) -> dict[str, Any]:
    """Feed a network, or nothing, and count seconds of waiting; in this process."""
    import resource

    from cloudmask import network as networks
    from cloudmask.dataset import ROUND, Sampling, training_batches
    from cloudmask.labelled import Reading, index
    from cloudmask.losses import make_loss
    from cloudmask.manifest import read_examples

    networks.start_tensorflow()
    import keras

    begun = time.perf_counter()
    chunks = index(read_examples(manifest), Reading())
    indexed = time.perf_counter() - begun
    batches = iter(training_batches(chunks, Reading(), Sampling(batch_size=BATCH)))
    model = None
    if network != "none":
        model = networks.build_network(network, networks.choose_precision())
        model.compile(keras.optimizers.AdamW(1e-4), loss=make_loss("bce+dice"))
    waited = []
    begun = time.perf_counter()
    for step in range(steps + ROUND):
        if step == ROUND:  # the first round fills buffers and traces the network
            waited, begun = [], time.perf_counter()
        asked = time.perf_counter()
        pixels, labels = next(batches)
        waited.append(time.perf_counter() - asked)
        if model is not None:
            model.train_on_batch(pixels, labels)
    total = time.perf_counter() - begun
    return {
        "index_seconds": indexed,
        "seconds_per_batch": total / steps,
        "waiting_share": sum(waited) / total,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        manifest, network = options.measure
        print(json.dumps(measure(Path(manifest), network, options.steps)))
        return
    results: dict[str, Any] = {
        "question": "does a network in training wait for data, and what memory does data take",
        "batch": BATCH,
        "steps": options.steps,
        "runs": options.runs,
        "context": context(),
    }
    for side, network in [
        (3000, "none"),
        (options.side, "none"),
        (options.side, "unet_vgg16"),
        (options.side, "lite"),
    ]:
        manifest = labelled_scene(options.folder, side)
        command = [sys.executable, __file__, str(options.folder), "--steps", str(options.steps)]
        runs = [
            json.loads(
                subprocess.run(
                    [*command, "--measure", str(manifest), network],
                    check=True, capture_output=True, text=True,
                ).stdout
            )
            for _ in range(options.runs)
        ]  # fmt: skip
        name = f"{side} px, {network}"
        results[name] = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        results[name]["waiting_share_of_each_run"] = [r["waiting_share"] for r in runs]
        print(name, json.dumps(results[name]), flush=True)
    Path(__file__).with_name("training_data.json").write_text(json.dumps(results, indent=2) + "\n")


def labelled_scene(folder: Path, side: int) -> Path:
    """A manifest of one synthetic scene with its label."""
    scene = folder / f"labelled_{side}.tif"
    if not scene.exists():
        command = [sys.executable, "-m", "cloudmask", "sample", str(scene), "--seed", "3"]
        subprocess.run([*command, "--size", str(side), str(side)], check=True)
    manifest = folder / f"labelled_{side}.csv"
    manifest.write_text(f"image,label,split\n{scene.name},{scene.stem}_label.tif,train\n")
    return manifest


if __name__ == "__main__":
    main()
