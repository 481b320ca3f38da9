"""Ask whether a network in training waits for data, and what memory a large labelled scene takes.

    python benchmarks/training_data.py FOLDER [--short] [--side 30000] [--steps 32] [--batch 16]
        [--runs 3]

Batches alone at two sizes of scene, without a network; then training steps of two networks, fed
from the large scene.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from measuring import alternate, apart, options, report, sample


def feed(manifest: str, network: str, steps: int, batch: int) -> dict[str, Any]:
    """Feed a network, or none, and count seconds of waiting."""
    from cloudmask import network as networks
    from cloudmask.dataset import ROUND, training_batches
    from cloudmask.draw import Sampling
    from cloudmask.labelled import Reading, labelled_chunks
    from cloudmask.losses import make_loss
    from cloudmask.manifest import read_examples

    networks.start_tensorflow()
    import keras

    begun = time.perf_counter()
    chunks = labelled_chunks(read_examples(manifest), Reading())
    indexed = time.perf_counter() - begun
    batches = iter(training_batches(chunks, Reading(), Sampling(batch_size=batch)))
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
    }


def labelled(folder: Path, side: int) -> Path:
    """A manifest of one synthetic scene with its label."""
    scene = sample(folder, side)
    manifest = scene.with_suffix(".csv")
    manifest.write_text(f"image,label,split\n{scene.name},{scene.stem}_label.tif,train\n")
    return manifest


def main() -> None:
    """Run the benchmark."""
    asked = options(__doc__, side=(30_000, 4_000), steps=(32, 4), batch=(16, 4))
    contestants = {
        f"{side} px, {network}": partial(
            apart,
            feed,
            manifest=labelled(asked.folder, side),
            network=network,
            steps=asked.steps,
            batch=asked.batch,
        )
        for side, network in [
            (3000, "none"),
            (asked.side, "none"),
            (asked.side, "unet_vgg16"),
            (asked.side, "lite"),
        ]
    }
    report(__file__, __doc__, asked, alternate(contestants, asked.runs))


if __name__ == "__main__":
    main()
