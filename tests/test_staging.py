"""Chunks from a cluster: bounded, tried again, and named when they fail for good."""

import threading
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from distributed import Client, LocalCluster

from cloudmask import write_cog
from cloudmask.write import staging

pytestmark = pytest.mark.usefixtures("client")

CHUNK = 64


@pytest.fixture(scope="module")
def client():
    """Workers as threads of this process, so that tests can count what they do."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


HOOKS = {}
"""What a chunk does while it is made; graphs are pickled, so that chunks find it by name."""


def _block(block_id, hook):
    HOOKS[hook](*block_id)
    return np.full((CHUNK, CHUNK), sum(block_id) % 2, "uint8")


def lazy_mask(rows, columns, hook):
    """A mask of equal chunks; `hook(i, j)` is called for each, where it is made."""
    HOOKS[hook.__name__] = hook
    data = da.map_blocks(
        _block,
        chunks=((CHUNK,) * rows, (CHUNK,) * columns),
        dtype="uint8",
        meta=np.empty((0, 0), "uint8"),
        hook=hook.__name__,
    )
    return xr.DataArray(data, dims=("y", "x"), name="mask")


def test_a_slow_writer_holds_the_cluster_back(tmp_path, monkeypatch):
    made, ahead, lock = [], [], threading.Lock()

    def count(i, j):
        with lock:
            made.append((i, j))

    real = staging._Windows.take
    written = []

    def slow(self, index, block):
        # Time enough for the workers to make all that they were given.
        threading.Event().wait(0.02)
        ahead.append(len(made) - len(written))
        written.append(index)
        real(self, index, block)

    monkeypatch.setattr(staging._Windows, "take", slow)
    write_cog(lazy_mask(30, 4, count), tmp_path / "m.tif")
    assert sorted(made) == [(i, j) for i in range(30) for j in range(4)]
    assert max(ahead) <= 3 * 4
    with rasterio.open(tmp_path / "m.tif") as dataset:
        values = dataset.read(1)
    np.testing.assert_array_equal(values[::CHUNK, ::CHUNK], np.indices((30, 4)).sum(axis=0) % 2)


def test_a_chunk_that_fails_once_is_tried_again(tmp_path):
    tries, lock = {}, threading.Lock()

    def once(i, j):
        with lock:
            tries[i, j] = tries.get((i, j), 0) + 1
        if (i, j) == (1, 1) and tries[i, j] == 1:
            raise OSError("the network hiccuped")

    write_cog(lazy_mask(3, 3, once), tmp_path / "m.tif")
    assert tries[1, 1] == 2
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.read(1)[CHUNK, CHUNK] == 0


def test_a_chunk_that_always_fails_is_named_and_leaves_nothing(tmp_path):
    def never(i, j):
        if (i, j) == (1, 2):
            raise OSError("the file is gone\nand more")

    with pytest.raises(
        OSError, match=r"rows 64–128, columns 128–192 of .*m.tif failed 3 times: the file is gone$"
    ):
        write_cog(lazy_mask(4, 3, never), tmp_path / "m.tif")
    assert list(Path(tmp_path).iterdir()) == []
