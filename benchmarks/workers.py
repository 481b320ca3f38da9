"""Ask what Dask costs: processes against threads, per chunk, and up to how many workers it scales.

    python benchmarks/workers.py FOLDER [--short] [--side 6000] [--chunks 1600]
        [--model slim-lite] [--runs 3]

First a network on two threads of one process and on two processes of one thread. Then chunks of
64 px and networks that do nothing or sleep, so that what is left is Dask's work and ours; start-up
of clusters is left out there. Peak memory is that of the largest process. workers.png shows chunks
a second against workers that sleep 0.2 s a chunk.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from measuring import Fake, alternate, apart, options, report, sample, segment, startup

SLEEP = 0.2


@dataclass(frozen=True)
class Sleeping(Fake):
    """A network that takes its time, and no core."""

    overlap: int = 32
    seconds: float = 0

    def __call__(self, pixels: Any) -> Any:
        """Nothing is cloud."""
        time.sleep(self.seconds)
        return pixels[..., 0] * 0


@dataclass(frozen=True)
class First(Sleeping):
    """A network that ends the run at its first chunk."""

    def __call__(self, pixels: Any) -> Any:  # noqa: ARG002
        """The time is up."""
        raise TimeoutError("the first chunk is here")


@contextmanager
def workers(threads: int, processes: int) -> Iterator[None]:
    """Threads of this process, or processes of one thread each."""
    import dask
    from distributed import Client, LocalCluster

    if threads:
        with dask.config.set(scheduler="threads", num_workers=threads):
            yield
        return
    with (
        LocalCluster(n_workers=processes, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(__import__, "cloudmask.prediction")  # or the first chunks would wait for it
        yield


def simulate(
    folder: str, chunks: int, sleep: float, threads: int = 0, processes: int = 0
) -> dict[str, Any]:
    """Chunks a second, from scene to COG, on workers that are there."""
    from cloudmask import open_scene, write_cog
    from cloudmask import segment as lazily

    side = 64 * round(chunks**0.5)
    path = empty_scene(folder, side)
    mask = Path(folder, f"simulated_{threads}_{processes}.tif")
    with workers(threads, processes):
        begun = time.perf_counter()
        result = lazily(open_scene(path, chunk=64), Sleeping(seconds=sleep))
        built = time.perf_counter() - begun
        write_cog(result, mask, overwrite=True)
        seconds = time.perf_counter() - begun
    mask.unlink()
    count = (side // 64) ** 2
    return {
        "chunks": count,
        "build_ms_per_chunk": built / count * 1000,
        "ms_per_chunk": seconds / count * 1000,
        "chunks_per_second": count / seconds,
    }


def empty_scene(folder: str, side: int) -> Path:
    """A scene of blocks that are not there."""
    import numpy as np
    import rasterio

    empty = Path(folder, f"empty_{side}.tif")
    profile = {"driver": "GTiff", "count": 3, "dtype": np.uint8, "tiled": True, "sparse_ok": True}
    profile |= {"blockxsize": 512, "blockysize": 512, "bigtiff": "yes", "crs": "EPSG:32637"}
    profile |= {"transform": rasterio.transform.from_origin(400_000, 1_300_000, 10, 10)}
    with rasterio.open(empty, "w", width=side, height=side, **profile):
        pass
    return empty


def until_first(folder: str, side: int) -> dict[str, Any]:
    """Seconds from opening a scene of `side` px to the first chunk in the network."""
    from cloudmask import open_scene, write_cog
    from cloudmask import segment as lazily

    empty = empty_scene(folder, side)
    begun = time.perf_counter()
    scene = open_scene(empty)
    result = lazily(scene, First(overlap=224))
    built = time.perf_counter() - begun
    try:
        write_cog(result, empty.with_name("never.tif"))
    except TimeoutError:
        seconds = time.perf_counter() - begun
    else:
        raise RuntimeError("no chunk came to the network")
    chunks = result.data.npartitions
    return {
        "chunks": chunks,
        "build_ms_per_chunk": built / chunks * 1000,
        "until_first_chunk_seconds": seconds,
        "tasks_per_chunk": len(result.data.__dask_graph__()) / chunks,
    }


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Chunks a second against workers, beside what sleeping alone would allow."""
    from matplotlib.figure import Figure

    axes = (figure := Figure((7, 4.5), layout="constrained")).add_subplot()
    most = 1
    for kind, marker in (("threads", "o"), ("processes", "s")):
        points = [
            (int(name.split()[0]), row["chunks_per_second"])
            for name, row in rows.items()
            if name.endswith(f"{kind}, sleeping")
        ]
        axes.plot(*zip(*points, strict=True), marker=marker, label=kind)
        most = max(most, *(count for count, _ in points))
    axes.plot([1, most], [1 / SLEEP, most / SLEEP], "k:", label=f"{SLEEP:g} s a chunk, no more")
    axes.set(yscale="log", xlabel="workers", ylabel="chunks a second")
    axes.set_xscale("log", base=2)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the benchmark."""
    asked = options(
        __doc__,
        side=(6_000, 1_536),
        model=("slim-lite", "slim-lite"),
        chunks=(1_600, 400),
        threads=([1, 2, 4, 8, 16, 32, 64], [1, 8, 64]),
        processes=([1, 2, 4, 8, 16], [1, 4]),
    )
    folder, model = asked.folder, asked.model
    how = ("--gsd", "native", "--model", model)
    scene, mask = sample(folder, asked.side), folder / "mask.tif"
    idle = partial(apart, simulate, folder=folder, chunks=asked.chunks, sleep=0)
    asleep = partial(apart, simulate, folder=folder, sleep=SLEEP)
    contestants = {
        f"{model}, 2 threads": partial(segment, scene, mask, *how),
        f"{model}, 2 threads, 64² px": partial(startup, folder, *how),
        f"{model}, 2 processes": partial(segment, scene, mask, *how, "--workers", 2),
        f"{model}, 2 processes, 64² px": partial(startup, folder, *how, "--workers", 2),
        "2 threads, doing nothing": partial(idle, threads=2),
        "2 processes, doing nothing": partial(idle, processes=2),
        "100,000² px": partial(apart, until_first, folder=folder, side=100_000),
        **{
            f"{count} threads, sleeping": partial(asleep, threads=count, chunks=max(16, 8 * count))
            for count in asked.threads
        },
        **{
            f"{count} processes, sleeping": partial(
                asleep, processes=count, chunks=max(16, 8 * count)
            )
            for count in asked.processes
        },
    }
    rows = alternate(contestants, asked.runs)
    report(__file__, __doc__, asked, rows)
    plot(rows, asked.results / "workers.png")


if __name__ == "__main__":
    main()
