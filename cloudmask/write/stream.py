"""Every chunk of an array once, on whatever scheduler is active, and back to this process."""

import math
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import dask
import numpy as np
from dask.array.core import Array, slices_from_chunks
from dask.delayed import Delayed
from dask.optimization import cull
from dask.threaded import get as threads

from cloudmask.chunks import Block
from cloudmask.errors import SchedulerGoneError, first_line
from cloudmask.watch import counter
from cloudmask.write.client import active_client, in_flight, threads_of, told_of_no_worker

Window = tuple[slice, ...]
"""Where a chunk lies."""
Take = Callable[[Window, Block], None]
Scheduler = Callable[..., Any]
Pair = tuple[Window, Any]
"""A window and its chunk, delayed."""

_FETCHED_BYTES = 64 * 2**20
"""Of chunks that are brought from a cluster together: alone, each small one waits for its own."""

_COUNTED = 1.0
"""Seconds after which a cluster's workers are counted again."""


_RETRIES = 2
"""Times that a cluster tries a failed chunk again: a read over the network may fail once."""


def stream(
    array: Array,
    take: Take,
    name: str,
    *,
    windows: list[Window] | None = None,
    done: Collection[tuple[int, ...]] = (),
    scheduler: Scheduler | None = None,
) -> None:
    """Compute every chunk and hand it to `take`, in this process.

    Parameters
    ----------
    array : dask array
        Its chunks are computed once each.
    take : callable
        Called in any order; from several threads on dask's own schedulers.
    name : str
        Of what is written, for errors.
    windows : list of tuple of slice, optional
        What `take` is told of each chunk, in C order; default: where it lies in `array`.
    done : collection of tuple of int
        Indices of chunks that are left out.
    scheduler : callable, optional
        Of dask, such as `dask.threaded.get`; default: the active one. Not by `dask.config.set`,
        which would hold for other threads, too, that write to a cluster meanwhile.

    Raises
    ------
    OSError
        A chunk failed for good on a cluster: its window and the cause, in one line.
    """
    (optimized,) = dask.optimize(array)
    if not optimized.dask:  # every chunk is on a cluster already: dask makes nothing of that
        optimized = array
    blocks = optimized.to_delayed(optimize_graph=False)
    named = iter(windows or slices_from_chunks(array.chunks))
    rows: list[list[Pair]] = [[]]
    for index in np.ndindex(*blocks.shape):
        window = next(named)
        if index not in done:
            rows[-1].append((window, blocks[index]))
        if index[-1] == blocks.shape[-1] - 1 and rows[-1]:
            rows.append([])
    step = counter(sum(map(len, rows)))

    def taken(window: Window, block: Block) -> None:
        take(window, block)
        step()

    client = None if scheduler else active_client()
    if client is not None:
        at_once = max(1, _FETCHED_BYTES // (math.prod(array.chunksize) * array.dtype.itemsize))
        _from_cluster(client, rows[:-1], taken, name, at_once)
    elif (how := scheduler or dask.config.get("scheduler", None)) in _PROCESSES:
        for row in rows[:-1]:  # open files cannot cross to other processes: blocks come back
            computed = dask.compute(*(block for _, block in row), scheduler=how)
            for (window, _), block in zip(row, computed, strict=True):
                taken(window, block)
    else:
        dask.compute(
            *(
                dask.delayed(taken)(window, block, dask_key_name=f"write-{id(taken)}-{i}")
                for i, (window, block) in enumerate(pair for row in rows for pair in row)
            ),
            # As dask would choose; but to see that there is no client it imports distributed.
            scheduler=how or threads,
            optimize_graph=False,  # of a graph that is: for each chunk dask would go through all
        )


_PROCESSES = "processes", "multiprocessing"


def _from_cluster(client: Any, rows: list[list[Pair]], take: Take, name: str, at_once: int) -> None:
    """Bring chunks back from a cluster, whole rows of them: neighbours share what they read.

    Two rows are in flight, or as many as give each worker's thread a chunk while one row ends. More
    would pile up results, and what was read for them, faster than one writer takes them. In this
    process are `at_once` of them, and as many that are just coming.
    """
    from distributed import as_completed
    from distributed.client import ClosedClientError

    waiting, running = zip(rows, _shared_with_next(rows), strict=True), as_completed()
    held: list[Any] = []
    ahead = _ahead(client, max(map(len, rows), default=1))

    def submit() -> None:
        wanted = next(ahead)
        while len(job.windows) <= wanted and (following := next(waiting, None)):
            row, shared = following
            try:
                futures = client.compute(_culled(row, shared), retries=_RETRIES)
            except ClosedClientError as error:
                raise SchedulerGoneError(job.lost) from error
            futures, held[:] = futures[: len(row)], futures[len(row) :]
            job.windows.update({f: window for f, (window, _) in zip(futures, row, strict=True)})
            job.check()
            running.update(futures)

    with in_flight(client, name) as job, told_of_no_worker(client):
        submit()
        batches = (b[i : i + at_once] for b in running.batches() for i in range(0, len(b), at_once))
        for futures in batches:
            try:
                blocks = client.gather(futures)
            except Exception as error:  # whatever a worker raised, or that it died
                failed = next((future for future in futures if future.status == "error"), None)
                job.check()
                if failed is None:  # the connection may tell before the client does
                    said = first_line(error)
                    raise OSError(f"{job.lost}, or gave its chunks up: {said}") from error
                cause = failed.exception()  # which a cancelled one forgets
                client.cancel(list(job.windows))
                raise OSError(_failure(name, job.windows[failed], cause)) from cause
            for future, block in zip(futures, blocks, strict=True):
                take(job.windows.pop(future), block)
                future.release()
                submit()


def _ahead(client: Any, longest: int) -> Iterator[int]:
    """How many chunks more than a row are in flight: rows for all threads that there are by now.

    Workers come and go. They are counted every `_COUNTED` seconds, since to ask takes some
    milliseconds.
    """
    counted, threads = -math.inf, 1
    while True:
        if time.monotonic() - counted > _COUNTED:
            threads = threads_of(client) or threads
            counted = time.monotonic()
        yield longest * max(1, math.ceil(threads / longest))


def _culled(row: list[Pair], shared: list[Any]) -> list[Delayed]:
    """Chunks and keys with what they need of the graph: all of it would travel with every row."""
    keys = [block.key for _, block in row] + shared
    graph, _ = cull(row[0][1].dask, keys)
    return [Delayed(key, graph) for key in keys]


def _shared_with_next(rows: list[list[Pair]]) -> list[list[Any]]:
    """Keys of what each row makes and the next one needs, too, such as a chunk that both enlarge.

    Workers forget a result when nothing that was submitted waits for it, and would make it again.
    """
    if not rows:
        return []
    _, some = rows[0][0]
    dependencies = some.dask.get_all_dependencies()

    def needed(row: list[Pair]) -> set[Any]:
        found, ahead = set(), [block.key for _, block in row]
        while ahead:
            key = ahead.pop()
            if key not in found:
                found.add(key)
                ahead.extend(dependencies.get(key, ()))  # of a persisted chunk nothing
        return found

    shared: list[list[Any]] = []
    following: set[Any] = set()
    for row in reversed(rows):  # from the last, of which nothing need be kept
        own = needed(row)
        keys = {key for user in following - own for key in dependencies.get(user, ()) if key in own}
        shared.append(list(keys))
        following = own
    return shared[::-1]


def _failure(name: str, window: Window, error: Exception) -> str:
    from distributed import KilledWorker

    rows, columns = window[-2:]
    chunk = f"rows {rows.start}–{rows.stop}, columns {columns.start}–{columns.stop} of {name}"
    if isinstance(error, KilledWorker):
        return (
            f"{chunk} failed: {error.allowed_failures + 1} workers died of it, perhaps for want of "
            "memory; choose a smaller chunk, or larger workers"
        )
    return f"{chunk} failed {_RETRIES + 1} times: {first_line(error)}"
