"""Clusters as an operator meets them: real processes, weights that only the client has, faults."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import files_of
from distributed import Client, LocalCluster, Security

import cloudmask
from cloudmask import connect, load_model, predict, send_weights, write_cog, write_zarr
from cloudmask.sample import write_sample
from cloudmask.weightfile import add_weights
from cloudmask.write.client import stop
from cloudmask.write.stream import stream


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "cloudmask", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture
def start_dask(start):
    """Start dask's `scheduler` or `worker` by its command line."""

    def of(kind, *options, env=None):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        return start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)

    return of


def test_workers_write_what_threads_write(own_weights, tmp_path):
    write_sample(tmp_path / "s.tif", size=(700, 900))
    options = ["--model", own_weights, "--chunk", 300, "--precision", "float32"]
    for name, more in [("threads.tif", []), ("workers.tif", ["--workers", 2])]:
        done = run("segment", "s.tif", name, *options, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "dashboard at http" in done.stderr
    with (
        rasterio.open(tmp_path / "threads.tif") as one,
        rasterio.open(tmp_path / "workers.tif") as two,
    ):
        np.testing.assert_array_equal(one.read(1), two.read(1))
        assert one.tags() == two.tags()


def test_weights_that_only_the_client_has_reach_the_workers(cluster, own_weights, tmp_path):
    here = tmp_path / "moved.weights.h5"
    here.write_bytes(own_weights.read_bytes())
    model = load_model(here, precision="float32")
    scene = xr.DataArray(
        da.random.default_rng(0).integers(0, 255, (3, 256, 256), "uint8", chunks=(3, 128, 128)),
        dims=("band", "y", "x"),
    )
    with connect(cluster.scheduler_address) as client:
        send_weights(client, model.path)
        here.rename(tmp_path / "gone.weights.h5")  # as on another machine
        found = predict(scene, model, overlap=32).compute()
    whole = load_model(own_weights, precision="float32")
    np.testing.assert_array_equal(found, predict(scene, whole, overlap=32).compute())


def test_weights_that_were_not_sent_say_how(tmp_path, own_weights):
    model = replace(
        load_model(own_weights), path=str(tmp_path / "none.weights.h5"), sha256="0" * 64
    )
    with pytest.raises(FileNotFoundError, match=r"none\.weights\.h5 is not on this machine.*send"):
        model(np.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match="did not arrive whole"):
        add_weights(own_weights, "0" * 64)


def test_a_scheduler_that_does_not_answer_is_one_line(tmp_path):
    write_sample(tmp_path / "s.tif", size=(64, 64))
    begun = time.monotonic()
    done = run("segment", "s.tif", "m.tif", "--scheduler", "tcp://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 2
    assert "no scheduler answers at 'tcp://127.0.0.1:9' within 10 s" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "m.tif").exists()


def test_a_cluster_without_workers_is_waited_for_and_then_refused():
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(ConnectionError, match=r"no worker came to .* within 0.5 s"),
        connect(empty.scheduler_address, timeout=0.5),
    ):
        pass


def test_a_worker_with_another_version_is_named(cluster, start_dask, tmp_path):
    (tmp_path / "cloudmask-0.0.1.dist-info").mkdir()
    (tmp_path / "cloudmask-0.0.1.dist-info/METADATA").write_text(
        "Name: cloudmask\nVersion: 0.0.1\n"
    )
    with Client(cluster) as client:
        start_dask(
            "worker", cluster.scheduler_address, "--no-nanny", "--no-dashboard",
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        client.wait_for_workers(3, timeout=60)
        with (
            pytest.raises(ValueError, match=r"worker tcp://.* has cloudmask 0.0.1, this proc"),
            connect(cluster.scheduler_address),
        ):
            pass


@pytest.mark.parametrize("place", ["run", "run_on_scheduler"])
def test_a_scheduler_or_worker_without_the_package_is_named(cluster, monkeypatch, place):
    def elsewhere(*_, **options):
        error = PackageNotFoundError("cloudmask")
        if "on_error" in options:
            return {"tcp://host:1": error}
        raise error

    monkeypatch.setattr(Client, place, elsewhere)
    with (
        pytest.raises(ValueError, match=r"^(worker tcp://host:1|the scheduler) has no cloudmask"),
        connect(cluster.scheduler_address),
    ):
        pass


def test_tls_by_dasks_own_configuration(tmp_path):
    secret = Security.temporary()
    (tmp_path / "cert.pem").write_text(secret.tls_ca_file)
    (tmp_path / "key.pem").write_text(secret.tls_client_key)
    pair = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    tls = {"ca-file": pair["cert"], "scheduler": pair, "worker": pair, "client": pair}
    mask = xr.DataArray(da.ones((64, 64), dtype="uint8", chunks=32), dims=("y", "x"))
    with (
        dask.config.set({f"distributed.comm.tls.{key}": value for key, value in tls.items()}),
        LocalCluster(
            n_workers=1, protocol="tls://", security=Security(), dashboard_address=":0"
        ) as cluster,
    ):
        assert cluster.scheduler_address.startswith("tls://")
        with connect(cluster.scheduler_address):
            write_cog(mask, tmp_path / "m.tif")
        with (
            dask.config.set({"distributed.comm.tls.ca-file": None}),
            pytest.raises(ConnectionError, match=r"tls://.* needs certificates: .*comm\.tls"),
            connect(cluster.scheduler_address),
        ):
            pass
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert (dataset.read(1) == 1).all()


@pytest.mark.parametrize("address", ["foo", "", "tcp://127.0.0.1", "http://127.0.0.1:9"])
def test_what_is_no_address_is_one_line(address):
    with pytest.raises(ConnectionError, match=f"no scheduler answers at '{address}'"):
        connect(address).__enter__()
    assert dask.config.get("scheduler", None) is None  # what fails is not what dask then uses


def test_a_server_that_is_no_scheduler_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with server.accept()[0] as peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no scheduler answers at '{address}'"):
            connect(address).__enter__()


def threads_of_tensorflow():
    from cloudmask.network import start_tensorflow

    before = len(list(Path("/proc/self/task").iterdir()))
    start_tensorflow()
    return len(list(Path("/proc/self/task").iterdir())) - before


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_workers_share_the_cores_for_tensorflow_too(monkeypatch):
    extra = {}
    for cores in (4, 24):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        with connect(workers=2) as client:
            assert set(client.nthreads().values()) == {cores // 2}
            one = [next(iter(client.nthreads()))]
            (extra[cores],) = client.run(threads_of_tensorflow, workers=one).values()
    assert extra[24] - extra[4] == 12 - 2


def test_the_graph_holds_no_weights():
    model = load_model()
    scene = xr.DataArray(
        da.zeros((3, 256, 256), dtype="uint8", chunks=128), dims=("band", "y", "x")
    )
    mask = cloudmask.segment(scene, model)
    (optimized,) = dask.optimize(mask.data)
    assert len(pickle.dumps(optimized.__dask_graph__())) < 0.01 * Path(model.path).stat().st_size


def test_a_relative_path_is_found_by_workers_in_another_folder(cluster, tmp_path, monkeypatch):
    write_sample(tmp_path / "s.tif", size=(64, 64))
    monkeypatch.chdir(tmp_path)
    scene = cloudmask.open_scene("s.tif")
    with Client(cluster):
        assert scene.compute().shape == (3, 64, 64)


def test_a_chunk_of_which_workers_die_is_one_line_with_a_cure(tmp_path):
    def die(block):
        os.kill(os.getpid(), signal.SIGKILL)
        return block

    mask = da.zeros((64, 64), dtype="uint8", chunks=64).map_blocks(
        die, dtype="uint8", meta=np.empty(0)
    )
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
        pytest.raises(OSError, match=r"rows 0–64, .*: 2 workers died of it, .*smaller chunk"),
    ):
        write_cog(xr.DataArray(mask, dims=("y", "x")), tmp_path / "m.tif")


def test_rows_of_an_enlarged_mask_share_what_the_network_gave(cluster, tmp_path):
    def passes(block):  # 4 × 4 chunks, each enlarged to four rows
        Path(tmp_path, f"pass-{time.monotonic_ns()}").touch()
        return block

    nothing = np.empty((0, 0), "uint8")
    coarse = da.ones((64, 64), dtype="uint8", chunks=16).map_blocks(passes, meta=nothing)
    pieces = coarse.rechunk(4).map_blocks(np.kron, np.ones((8, 8), "uint8"), chunks=(32, 32))

    def take(window, block):  # noqa: ARG001
        time.sleep(0.01)  # slower than workers, which then forget what nobody waits for

    with Client(cluster):
        stream(pieces, take, "mask")
    assert len(list(tmp_path.glob("pass-*"))) == 16


def test_overviews_leave_the_cluster_to_scenes_beside(cluster, tmp_path, monkeypatch):
    """dask's configuration is one for all threads: it must not name another scheduler meanwhile."""
    from cloudmask.write import raster

    active, halved = [], raster.halved

    def look(level):
        active.append(dask.config.get("scheduler"))
        return halved(level)

    monkeypatch.setattr(raster, "halved", look)
    mask = xr.DataArray(da.ones((600, 600), dtype="uint8", chunks=300), dims=("y", "x"))
    with Client(cluster):
        write_cog(mask, tmp_path / "m.tif")
    assert active == ["dask.distributed"]


def test_a_client_that_is_closed_leaves_nobody_waiting(cluster):
    def slow(block):
        time.sleep(0.1)
        return block

    chunks = da.zeros((4000, 20), dtype="uint8", chunks=10).map_blocks(slow, dtype="uint8")
    client, failed = Client(cluster), []

    def write():
        try:
            stream(chunks, lambda *_: client.close() if not failed else None, "mask")
        except OSError as error:
            failed.append(str(error))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(20)
    assert not writer.is_alive()
    assert "mask was not finished" in failed[0]


def test_of_many_failures_one_is_told_with_its_own_window(cluster):
    def fail(block, block_id=None):
        if block_id[1]:
            raise ValueError(f"column {block_id[1]}")
        return block

    def wait(window, block):  # noqa: ARG001  # until all others have failed
        time.sleep(1)

    chunks = da.zeros((10, 80), dtype="uint8", chunks=10).map_blocks(fail, dtype="uint8")
    with (
        Client(cluster),
        pytest.raises(OSError, match=r"columns (\d)0–\d0 of mask failed 3 times: column \1$"),
    ):
        stream(chunks, wait, "mask")


def test_what_is_in_flight_is_two_rows_of_chunks(cluster, tmp_path):
    def note(block, block_id=None):
        Path(tmp_path, ".".join(map(str, block_id))).touch()
        return block

    ahead = []

    def take(window, block):  # noqa: ARG001
        time.sleep(0.05)
        ahead.append(len(list(tmp_path.iterdir())) - len(ahead))

    chunks = da.zeros((400, 100), dtype="uint8", chunks=(20, 25)).map_blocks(note, dtype="uint8")
    with Client(cluster):
        stream(chunks, take, "mask")
    assert len(ahead) == 80
    assert 4 < max(ahead) <= 8


def test_rows_of_few_chunks_leave_no_worker_idle(tmp_path):
    def wait_for_others(block, block_id=None):
        Path(tmp_path, str(block_id[0])).touch()
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 4:
            assert time.monotonic() < deadline, "two chunks are in flight, for four threads"
            time.sleep(0.01)
        return block

    tall = da.zeros((80, 10), dtype="uint8", chunks=10).map_blocks(wait_for_others, dtype="uint8")
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        stream(tall, lambda *_: None, "mask")


def test_workers_that_come_later_get_work(tmp_path):
    def busy(block, block_id=None):
        own = Path(tmp_path, str(block_id[0]))
        own.touch()
        block = block + len(list(tmp_path.iterdir()))
        time.sleep(0.2)
        own.unlink()
        return block

    tall = da.zeros((60, 1), dtype="uint8", chunks=1).map_blocks(busy, dtype="uint8")
    at_once = []
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        def take(_, block):
            if not at_once:
                cluster.scale(4)
                client.wait_for_workers(4)
            at_once.append(int(block.max()))

        stream(tall, take, "mask")
    assert len(at_once) == 60
    assert max(at_once) > 2


def test_what_a_row_needs_is_all_that_is_sent_with_it(cluster, monkeypatch):
    sent, compute = [], Client.compute

    def count(client, blocks, **options):
        sent.extend(len(block.dask) for block in blocks)
        return compute(client, blocks, **options)

    monkeypatch.setattr(Client, "compute", count)
    chunks = da.zeros((400, 40), dtype="uint8", chunks=20).map_blocks(np.negative)
    with Client(cluster):
        stream(chunks, lambda *_: None, "mask")
    assert len(sent) == 40
    assert max(sent) <= 4, "tasks of 20 rows of two chunks"


def test_either_a_scheduler_or_workers():
    with pytest.raises(ValueError, match="give one of"), connect():
        pass
    with pytest.raises(ValueError, match="workers is 0: give at least 1"), connect(workers=0):
        pass


def slow(block):
    time.sleep(0.1)
    return block


def test_workers_may_be_killed_and_the_mask_is_the_same(tmp_path):
    rng = np.random.default_rng(0)
    pixels = (rng.random((1024, 1024)) > 0.5).astype("uint8")
    mask = xr.DataArray(da.from_array(pixels, chunks=128).map_blocks(slow), dims=("y", "x"))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        killed = []

        def kill():
            for _ in range(2):
                time.sleep(1.2)
                pid = next(iter(cluster.workers.values())).pid
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        write_cog(mask, tmp_path / "m.tif")
        killer.join()
    assert len(set(killed)) == 2
    with rasterio.open(tmp_path / "m.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), pixels)
    assert [path.name for path in Path(tmp_path).glob(".*")] == []


def die_once(block, how, flag, block_id=None):
    """The first worker that makes certain chunks dies of it."""
    if block_id in [(0, 1), (2, 2)]:
        try:
            Path(f"{flag}-{block_id[0]}").touch(exist_ok=False)
        except FileExistsError:
            return block
        if how == "memory":
            taken = np.ones(500 * 2**20, "uint8")
            time.sleep(20)
            return block + taken[:1]
        os.kill(os.getpid(), how)
        time.sleep(20)
    return block


@pytest.mark.parametrize(
    ("write", "how"),
    [
        (write_cog, signal.SIGSEGV),
        (write_zarr, "memory"),
        (write_zarr, signal.SIGKILL),
        pytest.param(write_cog, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(write_cog, "memory", marks=pytest.mark.slow),
        pytest.param(write_zarr, signal.SIGSEGV, marks=pytest.mark.slow),
    ],
)
def test_workers_may_die_of_a_chunk_and_the_mask_is_the_same(tmp_path, rng, write, how):
    pixels = (rng.random((256, 256)) > 0.5).astype("uint8")
    chunks = da.from_array(pixels, chunks=64)
    mask = chunks.map_blocks(die_once, how=how, flag=str(tmp_path / "dead"), dtype="uint8")
    suffix = ".tif" if write is write_cog else ".zarr"
    quick = {"distributed.worker.memory.monitor-interval": "10ms"}
    with (
        dask.config.set(quick),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit="600MiB"
        ) as cluster,
        Client(cluster),
    ):
        write(xr.DataArray(mask, dims=("y", "x")), tmp_path / f"m{suffix}")
    write(xr.DataArray(chunks, dims=("y", "x")), tmp_path / f"whole{suffix}")
    assert {path.name for path in tmp_path.glob("dead*")} == {"dead-0", "dead-2"}
    if write is write_cog:
        assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    else:
        files = [
            {path.relative_to(store): path.read_bytes() for path in store.rglob("c/*/*")}
            for store in (tmp_path / "m.zarr", tmp_path / "whole.zarr")
        ]
        assert files[0] == files[1]
        assert files[0]


def test_without_its_cluster_nothing_is_computed_here(tmp_path):
    mask = xr.DataArray(da.zeros((64, 64), dtype="uint8", chunks=32), dims=("y", "x"))
    with connect(workers=1) as client:
        closing = threading.Thread(target=client.close)  # as it does where its scheduler goes
        closing.start()
        closing.join()
        with pytest.raises(OSError, match=r"the scheduler at tcp.* is gone"):
            write_cog(mask, tmp_path / "m.tif")
    assert list(tmp_path.iterdir()) == []
    write_cog(mask, tmp_path / "m.tif")


@pytest.mark.parametrize(
    ("write", "options", "begun"),
    [
        (write_cog, {}, 4),
        (write_zarr, {}, 0),
        (write_zarr, {}, 4),
        (write_zarr, {"resume": True}, 4),
    ],
)
def test_a_scheduler_that_goes_is_one_error_and_nothing_written(
    tmp_path, tmp_path_factory, start_dask, write, options, begun
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    scheduler = start_dask("scheduler", "--host", address, "--dashboard-address", ":0")
    start_dask("worker", address, "--nthreads", "1", "--no-dashboard")
    out = tmp_path / ("m.tif" if write is write_cog else "m.zarr")
    chunks_begun = tmp_path_factory.mktemp("begun")

    def slow(block):  # in here, so that it is sent by value: the scheduler has no tests
        (chunks_begun / str(time.monotonic_ns())).touch()
        time.sleep(0.1)
        return block

    def kill_in_the_midst():
        while len(list(chunks_begun.iterdir())) < begun:
            time.sleep(0.02)
        scheduler.kill()

    data = da.zeros((1024, 1024), dtype="uint8", chunks=64)
    mask = xr.DataArray(data.map_blocks(slow, meta=data._meta), dims=("y", "x"))
    killer = threading.Thread(target=kill_in_the_midst, daemon=True)
    with connect(address):
        killer.start()
        started_at = time.monotonic()
        with pytest.raises(OSError, match=f"{out.name} was not finished: .*{address} is gone"):
            write(mask, out, **options)
        assert time.monotonic() - started_at < 60
    if not options:
        assert list(tmp_path.iterdir()) == []
        return
    assert not out.exists()
    assert 0 < len(list((tmp_path / ".m.zarr.partial/done").iterdir())) < 256
    at_once = mask.copy(data=da.zeros((1024, 1024), dtype="uint8", chunks=64, name=mask.data.name))
    write_zarr(at_once, out, resume=True)
    write_zarr(at_once, tmp_path / "whole.zarr")
    assert files_of(out) == files_of(tmp_path / "whole.zarr")
    assert {path.name for path in tmp_path.iterdir()} == {"m.zarr", "whole.zarr"}


def test_what_is_stopped_fails_in_every_thread_and_leaves_nothing(tmp_path, tmp_path_factory):
    """As by Ctrl-C in a batch, whose scenes are written by threads of their own."""
    begun = tmp_path_factory.mktemp("begun")

    def slow(block):
        Path(begun, str(time.monotonic_ns())).touch()
        time.sleep(0.2)
        return block

    data = da.zeros((640, 640), dtype="uint8", chunks=64)
    mask = xr.DataArray(data.map_blocks(slow, meta=data._meta), dims=("y", "x"))
    with connect(workers=1) as client, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(write_cog, mask, tmp_path / name) for name in ("a.tif", "b.tif")]
        while len(list(begun.iterdir())) < 4:
            time.sleep(0.02)
        stop(client)
        late = pool.submit(write_cog, mask, tmp_path / "c.tif")
        for future in (*running, late):
            with pytest.raises(InterruptedError, match=r"\.tif was not finished: another thread"):
                future.result(timeout=20)
    assert len(list(begun.iterdir())) < 50
    assert list(tmp_path.iterdir()) == []
