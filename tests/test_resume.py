"""A Zarr store goes on where a run was stopped, and only from what it was begun with."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from conftest import FakeModel, files_of
from distributed import Client, LocalCluster

from cloudmask import (
    enlarge,
    load_model,
    open_label,
    open_scene,
    open_valid,
    predict,
    segment,
    threshold,
    write_zarr,
)
from cloudmask.constants import CLEAR, CLOUD
from cloudmask.locks import alone
from cloudmask.sample import write_sample


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("resume") / "scene.tif"
    write_sample(path, size=(500, 600))
    return path


@dataclass(frozen=True)
class Hooked(FakeModel):
    """Calls a function with each chunk that it is given."""

    hook: Callable[[Any], Any] = id

    def __call__(self, pixels):
        self.hook(pixels)
        return super().__call__(pixels)


def mask_of(path, *, cut=0.5, chunk=128, model=None, hook=None, **options):
    scene = open_scene(path, chunk=chunk, **options)
    model = model or (FakeModel() if hook is None else Hooked(hook=hook))
    return threshold(predict(scene, model), cut)


def stop_at(count):
    """A hook that fails at its call number `count`."""
    calls = []

    def hook(_):
        calls.append(1)
        if len(calls) == count:
            raise OSError("stopped")

    return hook


def stopped(scene, out, **options):
    """Begin a store and fail in the middle."""
    with dask.config.set(scheduler="sync"), pytest.raises(OSError, match="stopped"):
        write_zarr(mask_of(scene, hook=stop_at(12), **options), out, resume=True)


def test_what_is_done_is_not_done_again_and_the_bytes_are_the_same(scene, tmp_path):
    write_zarr(mask_of(scene), tmp_path / "whole.zarr")
    out = tmp_path / "mask.zarr"
    stopped(scene, out)
    assert not out.exists()
    done = len(list((tmp_path / ".mask.zarr.partial/done").iterdir()))
    assert 0 < done < 3 * 3  # chunks of the store
    made = []
    write_zarr(mask_of(scene, hook=made.append), out, resume=True)
    assert 0 < len(made) < 3 * 4  # chunks of the network
    assert files_of(out) == files_of(tmp_path / "whole.zarr")
    assert {path.name for path in tmp_path.iterdir()} == {"mask.zarr", "whole.zarr"}


def test_a_finished_store_is_left_as_it_is(scene, tmp_path):
    write_zarr(mask_of(scene), tmp_path / "m.zarr", resume=True)
    before = files_of(tmp_path / "m.zarr")

    def never(block):  # noqa: ARG001
        raise AssertionError

    write_zarr(mask_of(scene, hook=never), tmp_path / "m.zarr", resume=True)
    assert files_of(tmp_path / "m.zarr") == before


def test_what_is_made_of_a_mask_is_not_taken_for_it(scene, tmp_path):
    write_zarr(mask_of(scene), tmp_path / "m.zarr")
    for mask in (mask_of(scene).where(lambda mask: mask != CLOUD, CLEAR), mask_of(scene) + 0):
        changed = mask.astype("uint8").assign_attrs(mask_of(scene).attrs)
        with pytest.raises(ValueError, match="made from another"):
            write_zarr(changed, tmp_path / "m.zarr", resume=True)


def test_arrays_of_ones_own_are_told_apart(tmp_path):
    clear = xr.DataArray(np.zeros((64, 64), "uint8"), dims=("y", "x"))
    write_zarr(clear, tmp_path / "m.zarr")
    write_zarr(clear.copy(), tmp_path / "m.zarr", resume=True)
    with pytest.raises(ValueError, match="made from another"):
        write_zarr(clear + np.uint8(1), tmp_path / "m.zarr", resume=True)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"cut": 0.4}, "threshold"),
        ({"model": FakeModel(name="other")}, "model"),
        ({"resize_factor": 2}, "grid"),
        ({"chunk": 256}, "chunks"),
        ({"stretch": 2}, "scene radiometry"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_what_was_begun_with_another_option_is_refused(scene, tmp_path, change, key, finished):
    out = tmp_path / "m.zarr"
    if finished:
        write_zarr(mask_of(scene), out)
    else:
        stopped(scene, out)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=rf"zarr.* was made from another .*{key}"):
        write_zarr(mask_of(scene, **change), out, resume=True)
    assert files_of(tmp_path) == before


def test_nodata_that_is_no_number_is_the_same_when_it_is_read_back(make_scene, tmp_path):
    scene = make_scene(np.ones((3, 500, 600), "float32"))
    stopped(scene, tmp_path / "m.zarr", nodata=np.nan, scale=1)
    write_zarr(mask_of(scene, nodata=np.nan, scale=1), tmp_path / "m.zarr", resume=True)
    assert (tmp_path / "m.zarr").exists()


def test_another_precision_is_refused(scene, tmp_path):
    def mask(precision):
        network = load_model("lite", precision=precision)
        return segment(open_scene(scene, chunk=512), network)

    write_zarr(mask("float32"), tmp_path / "m.zarr")
    with pytest.raises(ValueError, match=r"another precision \(float32, now bfloat16\)"):
        write_zarr(mask("bfloat16"), tmp_path / "m.zarr", resume=True)


def test_another_scene_is_refused(scene, tmp_path):
    stopped(scene, tmp_path / "m.zarr")
    write_sample(tmp_path / "other.tif", size=(500, 600), seed=9)
    with pytest.raises(ValueError, match="was made from another scene"):
        write_zarr(mask_of(tmp_path / "other.tif"), tmp_path / "m.zarr", resume=True)


def test_a_foreign_store_is_refused(scene, tmp_path):
    xr.Dataset({"mask": ("x", [1])}).to_zarr(tmp_path / "m.zarr", zarr_format=3, consolidated=False)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=r"m.zarr was not made by cloudmask"):
        write_zarr(mask_of(scene), tmp_path / "m.zarr", resume=True)
    assert files_of(tmp_path) == before


def test_without_resume_a_run_begins_anew(scene, tmp_path):
    stopped(scene, tmp_path / "m.zarr")
    write_zarr(mask_of(scene, cut=0.4), tmp_path / "m.zarr")
    np.testing.assert_array_equal(
        xr.open_zarr(tmp_path / "m.zarr", consolidated=False, mask_and_scale=False)["mask"],
        mask_of(scene, cut=0.4),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_a_worker_that_dies_when_it_is_asked_what_it_sees_stops_nothing(tmp_path, monkeypatch):
    from cloudmask.write import partial

    def die(path, flag=tmp_path / "died"):
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Path(path).read_text(), ""

    monkeypatch.setattr(partial, "_seen", die)
    mask = xr.DataArray(da.ones((64, 64), dtype="uint8", chunks=32), dims=("y", "x"))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        write_zarr(mask, tmp_path / "m.zarr")
    assert {path.name for path in tmp_path.iterdir()} == {"died", "m.zarr"}


def test_a_folder_that_workers_do_not_see_is_refused_before_any_work(tmp_path, monkeypatch):
    from cloudmask.write import partial

    def elsewhere(path):  # noqa: ARG001
        return None, ""

    monkeypatch.setattr(partial, "_seen", elsewhere)
    mask = xr.DataArray(da.zeros((64, 64), dtype="uint8", chunks=32), dims=("y", "x"))
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
        pytest.raises(OSError, match=r"worker tcp://.* does not see .*m.zarr.*s3://"),
    ):
        write_zarr(mask, tmp_path / "m.zarr")
    assert list(tmp_path.iterdir()) == []


def test_kill_9_and_resume_by_the_command_line(scene, tmp_path, start):
    command = [
        sys.executable, "-m", "cloudmask", "segment", str(scene), "m.zarr", "--resume", "--quiet",
        "--gsd", "native", "--chunk", "128", "--overlap", "32", "--precision", "float32",
    ]  # fmt: skip
    run = start(command, cwd=tmp_path)
    done = tmp_path / ".m.zarr.partial/done"
    run.until(lambda: done.exists() and len(list(done.iterdir())) >= 2)
    run.kill()
    run.wait()
    assert not (tmp_path / "m.zarr").exists()
    assert len(list(done.iterdir())) < 20
    subprocess.run(command, cwd=tmp_path, check=True)
    resumed = files_of(tmp_path / "m.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]
    subprocess.run([*command, "--overwrite"], cwd=tmp_path, check=True)
    assert files_of(tmp_path / "m.zarr") == resumed


def test_bytes_do_not_depend_on_whether_tensorflow_was_there_first(tmp_path):
    """A worker meets the network before the codec, the process that resumes the other way round."""
    code = """
import sys
if sys.argv[1] == "network_first.zarr":
    from cloudmask.network import start_tensorflow
    start_tensorflow()
import dask.array as da, numpy as np, xarray as xr
from cloudmask import write_zarr
random = np.random.default_rng(0)
mask = (random.random((250, 250)) > 0.5).repeat(4, axis=0).repeat(4, axis=1)
mask &= (random.integers(0, 9, 1000)[:, None] + np.arange(1000)) // 4 % 2 == 0
mask = mask.astype("uint8")
write_zarr(xr.DataArray(da.from_array(mask, chunks=1000), dims=("y", "x")), sys.argv[1])
"""
    for name in ("network_first.zarr", "alone.zarr"):
        subprocess.run([sys.executable, "-c", code, name], cwd=tmp_path, check=True)
    assert files_of(tmp_path / "network_first.zarr") == files_of(tmp_path / "alone.zarr")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"resize_factor": 4}, r"model grid \(\[250, 300\], now"),
        ({"resampling": "nearest"}, "resampling"),
    ],
)
def test_a_mask_that_was_enlarged_from_another_grid_is_refused(scene, tmp_path, change, key):
    def mask(resize_factor=2, resampling="bilinear"):
        seen = predict(open_scene(scene, resize_factor=resize_factor), FakeModel())
        return enlarge(seen, open_valid(scene), threshold=0.5, resampling=resampling)

    assert mask().data.chunks == mask(**change).data.chunks
    write_zarr(mask(), tmp_path / "m.zarr")
    with pytest.raises(ValueError, match=rf"was made from another {key}"):
        write_zarr(mask(**change), tmp_path / "m.zarr", resume=True)


def test_a_store_in_the_making_that_cannot_be_removed_is_not_gone_on_with(tmp_path):
    """A link, say, to a faster disk: what is noted there as done would be left out."""
    done = tmp_path / "fast" / "done"
    done.mkdir(parents=True)
    (done / "0.0").touch()
    (tmp_path / ".m.zarr.partial").symlink_to(tmp_path / "fast")
    mask = xr.DataArray(da.ones((64, 64), dtype="uint8", chunks=32), dims=("y", "x"))
    with pytest.raises(OSError, match=r"\.m\.zarr\.partial, of a run .*: remove it"):
        write_zarr(mask, tmp_path / "m.zarr")
    assert not (tmp_path / "m.zarr").exists()


class Remembering(ThreadPoolExecutor):
    """Threads that know what they were given."""

    def submit(self, *task, **options):
        self.submitted = [*getattr(self, "submitted", []), super().submit(*task, **options)]
        return self.submitted[-1]


def test_the_last_tasks_of_a_failed_run_leave_the_store_of_the_next_alone(tmp_path):
    noted = tmp_path / ".m.zarr.partial/done/1.0"
    begun, late = threading.Event(), threading.Event()

    def wait_until_noted():
        deadline = time.monotonic() + 30
        while not noted.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def fails(block, block_id):
        if block_id == (0, 0):
            begun.wait(30)
            raise OSError("stopped")
        begun.set()
        late.wait(30)
        wait_until_noted()
        return block + 1

    def waits(block, block_id):
        late.set()
        if block_id == (0, 0):
            wait_until_noted()
            wait(of_first, timeout=30)
        return block

    zeros = da.zeros((8, 4), dtype="uint8", chunks=4)
    first, second = (
        xr.DataArray(zeros.map_blocks(hook, dtype="uint8", meta=zeros._meta), dims=("y", "x"))
        for hook in (fails, waits)
    )
    with Remembering(4) as pool, dask.config.set(pool=pool):
        with pytest.raises(OSError, match="stopped"):
            write_zarr(first, tmp_path / "m.zarr")
        of_first = list(pool.submitted)
        write_zarr(second, tmp_path / "m.zarr")
    assert not open_label(tmp_path / "m.zarr").any()


@pytest.mark.parametrize("resume", [False, True])
def test_a_store_is_written_by_one_process_at_a_time(scene, tmp_path, resume):
    out = tmp_path / "m.zarr"
    with alone(out, "written"), pytest.raises(FileExistsError, match="is being written by another"):
        write_zarr(mask_of(scene), out, resume=resume)
    write_zarr(mask_of(scene), out, resume=resume)
    assert {path.name for path in tmp_path.iterdir()} == {"m.zarr"}
