"""What a job costs, counted instead of timed: so that it cannot grow unnoticed."""

import threading
import time
from dataclasses import dataclass, field

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from conftest import WINDOWLESS, FakeModel
from dask.callbacks import Callback

from cloudmask import (
    enlarge,
    open_scene,
    open_valid,
    pieces,
    predict,
    threshold,
    write_cog,
    write_zarr,
)
from cloudmask.constants import CHUNK
from cloudmask.models import ARCHITECTURES

TILES = {"tiled": True, "blockxsize": 256, "blockysize": 256}


@dataclass(frozen=True)
class Counting(FakeModel):
    """Nothing is cloud; remembers how many pixels each call had."""

    shown: list[int] = field(default_factory=list, hash=False)
    lock = threading.Lock()

    def __call__(self, pixels):
        with self.lock:
            self.shown.append(pixels[..., 0].size)
        return np.zeros(pixels.shape[:3], "float32")


class Costs(Callback):
    """Counts the tasks that dask's threads run, and the bytes of arrays that wait for others."""

    def __init__(self):
        super().__init__(posttask=self.count)
        self.tasks = self.held = 0

    def count(self, key, result, graph, state, worker):  # noqa: ARG002
        waiting = [value for value in state["cache"].values() if isinstance(value, np.ndarray)]
        # A view holds all of what it is a view of, once with all others.
        owners = [value if value.base is None else value.base for value in waiting]
        self.tasks += 1
        self.held = max(self.held, sum({id(owner): owner.nbytes for owner in owners}.values()))


@pytest.fixture
def costs():
    with dask.config.set(scheduler="threads", num_workers=2), Costs() as counted:
        yield counted


def blank(make_scene, side):
    return make_scene(np.zeros((3, side, side), "uint8"), f"{side}.tif", **TILES)


@pytest.mark.parametrize("count", [4, 12])
def test_tasks_and_forward_passes_of_a_chunk(make_scene, tmp_path, costs, count):
    """To read it, give it its halo, run it, cut it, write it: whatever the scene's size."""
    model = Counting()
    scene = open_scene(blank(make_scene, 64 * count), chunk=64)
    mask = threshold(predict(scene, model), 0.5)
    assert len(mask.data.__dask_graph__()) == 2 * count**2  # dask orders those of a chunk anew
    write_cog(mask, tmp_path / "mask.tif")
    assert len(model.shown) == count**2
    assert costs.tasks <= 2 * count**2 + 8  # and the overviews


@pytest.mark.parametrize("count", [4, 12])
def test_an_enlarged_mask_takes_no_more(make_scene, tmp_path, costs, count):
    model, path = Counting(), blank(make_scene, 512 * count)
    probability = predict(open_scene(path, resize_factor=8, chunk=64), model)
    write_cog(probability, tmp_path / "mask.tif", like=path)
    assert len(model.shown) == count**2
    assert costs.tasks <= 13 * count**2


@pytest.mark.parametrize(
    ("write", "name", "columns", "most"),
    [
        (write_zarr, "m.zarr", 4, 4 * 4 * 256**2),  # four probabilities, float32
        (write_zarr, "m.zarr", 16, 4 * 4 * 256**2),
        (write_cog, "m.tif", 16, 8 * 1024**2),  # what its overviews are made of
        (write_cog, "m.tif", 32, 8 * 1024**2),
    ],
)
def test_pixels_that_wait_do_not_grow_with_the_scene(
    make_scene, tmp_path, costs, write, name, columns, most
):
    """Each task reads its own halo; masks wait to be written, one for each thread."""
    scene = open_scene(blank(make_scene, 256 * columns), chunk=256)
    write(threshold(predict(scene, Counting()), 0.5), tmp_path / name)
    assert costs.held <= most


@pytest.mark.parametrize("layout", [TILES, {"blockysize": 16}], ids=["tiled", "striped"])
@pytest.mark.parametrize("nodata", [0, None])
def test_nodata_is_not_read_ahead_of_the_network(
    make_scene, tmp_path, monkeypatch, costs, layout, nodata
):
    """A thread without a chunk for the network would read the whole scene's, and keep it."""
    monkeypatch.setattr(pieces, "FINE_CHUNK", 256)
    path = make_scene(np.ones((3, 2048, 2048), "uint8"), nodata=nodata, **layout)

    class Slow(Counting):
        def __call__(self, pixels):
            time.sleep(1)
            return super().__call__(pixels)

    probability = predict(open_scene(path, resize_factor=16, scale=255), Slow())
    write_zarr(
        enlarge(probability, open_valid(path, chunk=256), threshold=0.5), tmp_path / "mask.zarr"
    )
    # The probability, and three rows of the mask's chunks: whole rows are cut into squares.
    assert costs.held <= 4 * 128**2 + 3 * 8 * 256**2


@pytest.mark.parametrize("architecture", WINDOWLESS)
def test_pixels_that_the_network_sees_for_each_of_the_scene(architecture):
    """With default chunks: halos and the mirrored edges."""
    card, side = ARCHITECTURES[architecture], 3 * CHUNK
    model = Counting(stride=card.stride, overlap=card.overlap)
    pixels = da.zeros((3, side, side), dtype="uint8", chunks=(3, CHUNK, CHUNK))
    with dask.config.set(scheduler="synchronous"):
        predict(xr.DataArray(pixels, dims=("band", "y", "x")), model).max().compute()
    assert len(model.shown) == 9
    assert sum(model.shown) / side**2 < 1.2


def test_halos_are_transferred_from_what_is_there(make_scene, server, rng):
    """Chunks of two tiles a side touch four with their halos, three times the scene in all."""
    path = make_scene(rng.integers(0, 255, (3, 2048, 2048), "uint8"), **TILES)
    with dask.config.set(scheduler="threads", num_workers=2):
        predict(open_scene(server.url(path), chunk=512), Counting(overlap=64)).compute()
    assert 0.9 < sum(server.stop()) / path.stat().st_size < 2


@pytest.mark.parametrize("factor", [8, 7.3])
def test_a_decimated_read_without_overviews_transfers_hardly_a_byte_twice(
    make_scene, server, rng, factor
):
    """Chunks that do not begin on tiles share some; threads have handles of their own."""
    path = make_scene(rng.integers(0, 255, (3, 4096, 4096), "uint8"), **TILES)
    with dask.config.set(scheduler="threads", num_workers=2):
        open_scene(server.url(path), resize_factor=factor, chunk=256).compute()
    assert 0.9 < sum(server.stop()) / path.stat().st_size < 1.25
