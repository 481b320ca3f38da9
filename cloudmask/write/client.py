"""The cluster that chunks are computed on: whether there is one, and whether it is still there."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask

from cloudmask.errors import SchedulerGoneError

logger = logging.getLogger(__name__)

_WATCHED = 15.0
"""Seconds between two looks for workers at all."""
_required: list[str] = []
"""Addresses of schedulers that were asked for."""


class InFlight:
    """What is in flight for one output."""

    def __init__(self, client: Any, name: str):
        self.client, self.name = client, name
        self.lost = gone(name, client)  # a client that is closed has no address
        self.windows: dict[Any, Any] = {}
        """Where each future's chunk lies."""

    def check(self) -> None:
        """Raise what `stop` or a client that is closed means for the job."""
        if self.client.status != "running":  # what comes later would be waited for, for ever
            raise SchedulerGoneError(self.lost)
        if self.client in _stopped:
            raise InterruptedError(f"{self.name} was not finished: another thread was interrupted")


_jobs: list[InFlight] = []
_stopped: list[Any] = []
"""Clients."""


@contextmanager
def in_flight(client: Any, name: str) -> Iterator[InFlight]:
    """A job that `stop` knows of while it goes on."""
    job = InFlight(client, name)
    _jobs.append(job)
    try:
        yield job
    finally:
        _jobs.remove(job)


def stop(client: Any) -> None:
    """Make the jobs of all threads on this client fail, and those to come, while it still answers.

    A thread that waits for chunks of a client that is closed meanwhile may wait for ever.
    """
    _stopped.append(client)
    for job in tuple(_jobs):
        if job.client is client and client.status == "running":
            client.cancel(list(job.windows))  # at once: the job's thread goes on with it


@contextmanager
def only_on(client: Any) -> Iterator[None]:
    """Compute on this client or not at all.

    Where its scheduler goes a client closes, and dask would take threads of this process.
    """
    address = client.scheduler.address
    _required.append(address)
    try:
        yield
    finally:
        _required.remove(address)
        _stopped[:] = [other for other in _stopped if other is not client]


def active_client() -> Any:
    """The distributed client that dask would compute on, if any."""
    if "distributed" not in sys.modules:  # who made a client has imported it, in 0.2 s
        return None
    from distributed import default_client

    try:
        client = default_client()
    except ValueError:
        client = None
    if _required and (client is None or client.status == "closed"):
        raise SchedulerGoneError(f"the scheduler at {_required[-1]} is gone")
    if client is None:
        return None
    if dask.config.get("scheduler", None) not in (None, "dask.distributed"):
        return None
    if client.asynchronous:  # to wait for it would stop its event loop, on which it waits
        raise RuntimeError(
            "the Dask client is asynchronous, and this waits for its chunks: call it with a client "
            "that is not, or with dask.config.set(scheduler='threads')"
        )
    return client


def threads_of(client: Any) -> int:
    """How many threads the cluster's workers have; 0 without workers or an answer."""
    try:
        return sum(client.nthreads().values())
    except Exception:  # of a client that closes meanwhile: whoever waits for a chunk is told
        return 0


def gone(name: str, client: Any) -> str:
    """What to tell of a job whose scheduler no longer answers."""
    return f"{name} was not finished: the scheduler at {client.scheduler.address} is gone"


@contextmanager
def told_of_no_worker(client: Any) -> Iterator[None]:
    """Say so where the last worker is gone: the work waits for another, and nothing moves."""
    over = threading.Event()

    def watch() -> None:
        is_told = False
        while not over.wait(_WATCHED):
            is_alone = client.status == "running" and not threads_of(client)
            if is_alone and not is_told:
                logger.warning("the cluster has no worker left: waiting for one")
            is_told = is_alone

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
