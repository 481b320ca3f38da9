"""A Dask cluster to run on: one that is there, or worker processes on this machine."""

import asyncio
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster, Security, WorkerPlugin
from distributed.comm import connect as open_comm

from cloudmask.checks import whole
from cloudmask.errors import first_line
from cloudmask.weightfile import add_weights, file_sha256, ships_with_package
from cloudmask.write.client import only_on

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0


class _Weights(WorkerPlugin):  # type: ignore[misc]  # distributed is untyped
    """A weight file that only the client has: sent to each worker once, and checked there."""

    def __init__(self, content: bytes, sha256: str) -> None:
        self.content, self.sha256 = content, sha256
        self.name = f"cloudmask-weights-{sha256}"

    def setup(self, worker: Any) -> None:
        """Keep the file as long as the worker lives."""
        path = Path(worker.local_directory) / f"{self.sha256}.weights.h5"
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(self.content)
        Path(file.name).replace(path)
        add_weights(path, self.sha256)


class _Uninterrupted(WorkerPlugin):  # type: ignore[misc]  # distributed is untyped
    """A Ctrl-C is for this process, which ends its workers: a terminal sends it to all of them."""

    name = "cloudmask-uninterrupted"

    def setup(self, worker: Any) -> None:  # noqa: ARG002  (the plugin's)
        """Ignore it as long as the worker lives."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def connect(
    scheduler: str | None = None,
    workers: int | None = None,
    gpus: str | None = None,
    *,
    timeout: float = 60.0,
) -> Iterator[Client]:
    """Connect to a scheduler, or start worker processes here, and make them dask's default.

    Parameters
    ----------
    scheduler : str, optional
        Address, such as ``tcp://host:8786``; TLS by dask's own configuration.
    workers : int, optional
        Instead: processes on this machine, which share its cores, for TensorFlow too.
    gpus : str, optional
        Instead: numbers of this machine's GPUs, such as ``0,1``, for a process each.
    timeout : float
        Seconds to wait for a first worker.

    Yields
    ------
    distributed.Client
        Dask's default until the end, when it is closed, and with it what was started here.

    Raises
    ------
    ConnectionError
        No scheduler answers within 10 seconds, or no worker comes.
    ValueError
        A worker or the scheduler has no cloudmask, or another version.
    ImportError
        GPUs are asked for without dask-cuda.
    """
    if [scheduler, workers, gpus].count(None) != 2:
        raise ValueError("give one of: a scheduler's address, a number of workers, or GPUs")
    if workers is not None:
        workers = whole("workers", workers, 1)
    with _client(scheduler, workers, gpus) as client, only_on(client):
        needs = "" if scheduler or find_spec("bokeh") else " (pip install bokeh)"
        logger.info("dashboard at %s%s", client.dashboard_link, needs)
        _wait_for_workers(client, timeout)
        _check_versions(client)
        yield client


def send_weights(client: Client, path: str | Path) -> None:
    """Bring a weight file to all workers, now and later, unless it comes with the package.

    Parameters
    ----------
    client : distributed.Client
        Such as `connect` gives.
    path : str or Path
        Of the file, on this machine: `CloudModel.path`.

    Raises
    ------
    OSError
        It cannot be read.
    """
    sha256 = file_sha256(Path(path))
    if not ships_with_package(Path(path).name, sha256):
        client.register_plugin(_Weights(Path(path).read_bytes(), sha256))


@contextmanager
def _client(scheduler: str | None, workers: int | None, gpus: str | None) -> Iterator[Client]:
    if scheduler is None:
        try:
            started = _local_cluster(workers) if workers else _gpu_cluster(gpus)
        except RuntimeError as error:
            raise ConnectionError(
                f"a worker process does not start ({first_line(error)}): is there a file here that "
                "is named as one of Python's modules, such as types.py?"
            ) from error
        with started as cluster, Client(cluster) as client:
            client.register_plugin(_Uninterrupted())
            yield client
        return
    _check_answers(scheduler)
    with Client(scheduler, timeout=_CONNECT_SECONDS) as client:
        yield client


def _check_answers(scheduler: str) -> None:
    """Refuse an address before a client is made: one that fails would stay dask's default."""

    async def meet() -> None:
        arguments = Security().get_connection_args("client")
        comm = await open_comm(scheduler, timeout=_CONNECT_SECONDS, **arguments)
        await comm.close()

    try:
        with ThreadPoolExecutor(1) as thread:  # in a notebook this thread has a loop already
            thread.submit(lambda: asyncio.run(meet())).result()
    except TypeError as error:
        raise ConnectionError(
            f"{scheduler} needs certificates: name them in dask's configuration, distributed.comm."
            "tls (https://distributed.dask.org/en/stable/tls.html)"
        ) from error
    except Exception as error:  # what answers may be anything, and no scheduler
        raise ConnectionError(
            f"no scheduler answers at {scheduler!r} within {_CONNECT_SECONDS:g} s: start one with "
            "`dask scheduler`, or check the address"
        ) from error


def _local_cluster(workers: int) -> LocalCluster:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = max(1, (cores or 1) // workers)
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=share,
        # A forward pass uses all threads that it is given: they must not add up to more than
        # the machine has.
        env={
            "TF_NUM_INTRAOP_THREADS": str(share),
            "TF_NUM_INTEROP_THREADS": "1",
            "OMP_NUM_THREADS": str(share),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CPL_LOG": os.devnull,
        },
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,  # what matters of a failed chunk is raised
    )


def _gpu_cluster(gpus: str | None) -> Any:
    """One process for each GPU, with one thread: one network fits, two would not."""
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ImportError("GPUs as workers need dask-cuda: pip install dask-cuda") from error
    return LocalCUDACluster(CUDA_VISIBLE_DEVICES=gpus, threads_per_worker=1, dashboard_address=":0")


def _wait_for_workers(client: Client, timeout: float) -> None:
    if client.scheduler_info(n_workers=-1)["workers"]:
        return
    logger.info("the cluster has no worker yet: waiting up to %g s for one", timeout)
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError as error:
        raise ConnectionError(
            f"no worker came to {client.scheduler.address} within {timeout:g} s: start one with "
            "`dask worker`, or give a longer timeout"
        ) from error


def _check_versions(client: Client) -> None:
    """Refuse a scheduler or a worker without this version: both unpickle the graph."""
    own = version("cloudmask")
    for process, found in _installed(client).items():
        if found != own:
            raise ValueError(
                f"{process} has {f'cloudmask {found}' if found else 'no cloudmask'}, this process "
                f"{own}: install the same on all"
            )


def _installed(client: Client) -> dict[str, str | None]:
    """Versions on the scheduler and the workers, asked in a way that needs no cloudmask there."""
    found: dict[str, str | None] = {}
    try:
        found["the scheduler"] = client.run_on_scheduler(version, "cloudmask")
    except PackageNotFoundError:
        found["the scheduler"] = None
    for worker, answer in client.run(version, "cloudmask", on_error="return").items():
        if isinstance(answer, PackageNotFoundError):
            found[f"worker {worker}"] = None
        elif not isinstance(answer, OSError):  # of one that died: its successor gets the work
            found[f"worker {worker}"] = answer
    return found
