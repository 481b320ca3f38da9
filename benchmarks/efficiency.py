"""Ask what share of the network's own speed the whole command reaches, and where the rest goes.

    python benchmarks/efficiency.py FOLDER [--short] [--side 10000] [--runs 3]
        [--models slim-lite unet-f1 lite]

Efficiency: seconds of the network alone over the same pixels, held in memory, in the batch that is
fastest and without halo, over seconds of the command (read, halo, network, COG), start-up apart.
Start-up is what the command takes for 64 × 64 px. A network of some 20 Mpx/s, which takes cores
with AMX, is simulated by as much work for each pixel. efficiency.png shows where the time goes.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from measuring import Fake, alternate, apart, options, report, sample, segment, startup

from cloudmask.network import choose_precision, side_by_side

WORK = 165  # times a sine of each pixel
# Side of a block, blocks in a batch, threads that call the network.
BATCHES = [(256, 16, 1), (512, 4, 1), (1024, 1, 1), (2048, 1, 1), (512, 1, 2), (1024, 1, 2)]


def network_alone(scene: str, model: str, batches: list[list[int]]) -> dict[str, Any]:
    """Mpx/s of the fastest of some batches over a scene in memory: the bare network."""
    import numpy as np

    from cloudmask import load_model, open_scene
    from cloudmask import network as networks
    from cloudmask.weightfile import read_weights

    tf = networks.start_tensorflow()
    card = load_model(model)
    network = networks.build_network(card.architecture, networks.choose_precision())
    read_weights(network, Path(card.path))
    call = tf.function(
        lambda pixels: network(tf.cast(pixels, tf.float32), training=False),
        [tf.TensorSpec((None, None, None, 3), tf.uint8)],
    )
    pixels = np.moveaxis(open_scene(scene).values, 0, -1)

    def speed(side: int, batch: int, threads: int) -> float:
        corners = [
            (y, x)
            for y in range(0, pixels.shape[0] - side + 1, side)
            for x in range(0, pixels.shape[1] - side + 1, side)
        ]
        work = [
            np.stack([pixels[y : y + side, x : x + side] for y, x in corners[at : at + batch]])
            for at in range(0, len(corners) - batch + 1, batch)
        ]
        call(work[0]).numpy()  # traces, and lays weights out
        begun = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda block: call(block).numpy(), work))
        return len(work) * batch * side**2 / 1e6 / (time.perf_counter() - begun)

    speeds = {tuple(batch): speed(*batch) for batch in batches if batch[0] <= pixels.shape[0]}
    best = max(speeds, key=lambda batch: speeds[batch])
    return {"mpx_per_second": speeds[best], "batch": list(best)}


class Counting(Fake):
    """A network that only counts the pixels that it is shown."""

    seen = 0
    lock = threading.Lock()

    def __call__(self, pixels: Any) -> Any:
        """Nothing is cloud."""
        with Counting.lock:
            Counting.seen += pixels[..., 0].size
        return pixels[..., 0] * 0


def passes(scene: str, model: str) -> dict[str, Any]:
    """Pixels that the default chunks show the network for each pixel of the scene.

    And how many forward passes run side by side.
    """
    from cloudmask import load_model, open_scene, predict

    card = load_model(model)
    probability = predict(open_scene(scene), Counting(card.stride, card.overlap, card.window))
    probability.max().compute()
    return {
        "pixels_per_pixel": Counting.seen / probability.size,
        "passes_side_by_side": side_by_side(card.architecture, choose_precision()),
    }


class Steady(Fake):
    """No network, but as much work for each pixel as makes 20 Mpx/s on two cores of 2024."""

    def __call__(self, pixels: Any) -> Any:
        """Nothing that means anything."""
        import numpy as np

        out = pixels[..., 0].astype("float32")
        for rows in np.array_split(out, max(1, out.shape[1] // 64), axis=1):
            for _ in range(WORK):
                np.sin(rows, out=rows)
        return abs(out)


def fast_network(scene: str, mask: str) -> dict[str, Any]:
    """What the command does with a network of about 20 Mpx/s, and that network alone."""
    import numpy as np

    from cloudmask import load_model, open_scene, write_cog
    from cloudmask import segment as lazily

    card = load_model("lite")
    network = Steady(card.stride, card.overlap)
    blocks = [
        np.moveaxis(block, 0, -1)[np.newaxis]
        for rows in np.array_split(open_scene(scene).values, 16, axis=1)
        for block in np.array_split(rows, 16, axis=2)
    ]
    begun = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(network, blocks))
    alone = time.perf_counter() - begun
    speed = sum(block[..., 0].size for block in blocks) / 1e6 / alone
    del blocks
    begun = time.perf_counter()
    write_cog(lazily(open_scene(scene), network), mask, overwrite=True)
    seconds = time.perf_counter() - begun
    return {
        "work_seconds": seconds,
        "alone_seconds": alone,
        "alone_mpx_per_second": speed,
        "efficiency": alone / seconds,
    }


def shares(row: dict[str, Any]) -> dict[str, float]:
    """Seconds of the command, one after the other: what the network does not hide is the rest."""
    network = row["network_thread_seconds"] / row["passes_side_by_side"]
    own = network / row["pixels_per_pixel"]
    return {
        "start-up": row["startup_seconds"],
        "network": own,
        "network, for the halo": network - own,
        "what the network does not hide": max(
            0.0, row["seconds"] - row["startup_seconds"] - network
        ),
    }


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Two bars a model: seconds of the command, and below them what its threads did beside."""
    from matplotlib.figure import Figure

    figure = Figure((9, 1.2 + 1.1 * len(rows)), layout="constrained")
    axes, colours = figure.add_subplot(), {}
    for place, (name, row) in enumerate(rows.items()):
        beside = {
            key.removesuffix("_thread_seconds"): value
            for key, value in row.items()
            if key.endswith("_thread_seconds") and not key.startswith("network")
        }
        for at, parts in ((place, shares(row)), (place + 0.35, beside)):
            left = 0.0
            for part, seconds in parts.items():
                label = None if part in colours else part
                colour = colours.setdefault(part, f"C{len(colours)}")
                axes.barh(at, seconds, 0.3, left, color=colour, label=label)
                left += seconds
        axes.text(0, place - 0.2, f"{name}: efficiency {row['efficiency']:.2f}", va="bottom")
    axes.set(xlabel="seconds; lower bars: thread seconds beside the network", yticks=[])
    axes.set_ylim(len(rows) - 0.4, -0.45)  # downwards, with room for the first name
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the benchmark."""
    models = ["slim-lite", "unet-f1", "lite"]
    asked = options(__doc__, side=(10_000, 2_048), models=(models, ["slim-lite", "lite"]))
    folder, scene = asked.folder, sample(asked.folder, asked.side)
    rows = {}
    for model in asked.models:
        how = ("--gsd", "native", "--model", model)
        trial = sample(folder, min(asked.side, 1024 if asked.short else 2048))
        best = apart(network_alone, scene=trial, model=model, batches=BATCHES)["batch"]
        alone = partial(apart, network_alone, scene=scene, model=model)
        measured = alternate(
            {
                "alone": lambda alone=alone, best=best: {
                    "mpx_per_second": alone(batches=[best])["mpx_per_second"]
                },
                "command": partial(segment, scene, folder / "mask.tif", *how),
                "start-up": partial(startup, folder, *how),
            },
            asked.runs,
        )
        row = measured["command"]
        started, speed = measured["start-up"]["seconds"], measured["alone"]["mpx_per_second"]
        counted = apart(passes, scene=scene, model=model)
        row |= {
            "pixels_per_pixel": counted["pixels_per_pixel"],
            "passes_side_by_side": counted["passes_side_by_side"],
            "startup_seconds": started,
            "alone_seconds": asked.side**2 / 1e6 / speed,
            "alone_mpx_per_second": speed,
            "alone_batch": " × ".join(map(str, best)),
            "alone_runs": measured["alone"]["runs"],
            "startup_runs": measured["start-up"]["runs"],
        }
        row["efficiency"] = row["alone_seconds"] / (row["seconds"] - started)
        rows[model] = row
    plot(rows, asked.results / "efficiency.png")
    fast = partial(apart, fast_network, scene=scene, mask=folder / "mask.tif")
    rows |= alternate({"20 Mpx/s, simulated": fast}, asked.runs)
    report(__file__, __doc__, asked, rows)


if __name__ == "__main__":
    main()
