"""`cloudmask segment`: one scene, or many."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from cloudmask.cli.options import Location, precision_option, refuse_both, scene_options
from cloudmask.cli.output import log_to_stderr, print_json, say


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="SCENE OUT | SCENE...")
@click.option(
    "--out-dir",
    type=Location(),
    help="Segment many scenes into this folder: paths, patterns, lists (.txt).",
)
@click.option(
    "--resume", is_flag=True,
    help="Keep what an earlier run finished: of many scenes, or of the chunks of a .zarr.",
)  # fmt: skip
@scene_options
@click.option("--threshold", type=float, help="Cloud from this probability on; default: model's.")
@click.option("--probability", is_flag=True, help="Write probabilities, on the model's grid.")
@click.option(
    "--grid", type=click.Choice(["scene", "model"]),
    help="Grid of OUT; default: the scene's.",
)  # fmt: skip
@click.option("--multiscale", is_flag=True, help="Add overviews to a .zarr; a .tif has them.")
@precision_option
@click.option("--quicklook", type=Location(), help="Also draw a PNG.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster: tcp://host:8786.")
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N",
    help="Or on N processes of this machine; default: on threads, which is faster.",
)  # fmt: skip
@click.option(
    "--gpus", metavar="0,1", help="Or on a process for each of these GPUs (needs dask-cuda)."
)
@click.option(
    "--timeout", type=float, default=60.0, show_default=True, metavar="SECONDS",
    help="How long to wait for a cluster's first worker.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace existing output.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def segment(
    paths: tuple[str, ...],
    out_dir: Path | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Find the clouds of SCENE and write the mask to OUT, or of many scenes to --out-dir.

    OUT ends in .tif (Cloud Optimized GeoTIFF), .zarr or .png (picture of the mask).
    Values: 0 clear, 1 cloud, 255 nodata.
    """
    from cloudmask.job import check_choices
    from cloudmask.paths import locate
    from cloudmask.prediction import check_overlap
    from cloudmask.registry import load_model
    from cloudmask.scene import check_resolution
    from cloudmask.stretch import check_stretch

    log_to_stderr(quiet=quiet)
    refuse_both(options, "gsd", "resize_factor")
    refuse_both(options, "scale", "stretch")
    if out_dir is None and len(paths) != 2:
        raise ValueError("give SCENE and OUT, or scenes and --out-dir")
    if out_dir is not None and options["quicklook"] is not None:
        raise ValueError("--quicklook names one picture: leave it out with --out-dir")
    model = load_model(options.pop("model"), precision=options.pop("precision"))
    where = {key: options.pop(key) for key in ("scheduler", "workers", "gpus")}
    is_cluster = set(where.values()) != {None}
    parts = min(where["workers"] or _PARTS, _PARTS) if is_cluster else 1
    timeout = options.pop("timeout")
    cluster = _cluster(model, timeout, **where) if is_cluster else nullcontext()
    check_stretch(options["scale"], options["stretch"])
    gsd = options["gsd"]
    check_resolution(None if isinstance(gsd, str) else gsd, options["resize_factor"])
    check_overlap(model, options["overlap"])
    if out_dir is None:
        start = time.perf_counter()
        options["resume"] = resume
        job = _job(paths[0], locate(paths[1]), model, options, parts)
        with cluster:
            _segment_one(job, start, as_json=as_json, quiet=quiet)
        return
    choices = {key: options[key] for key in ("threshold", "probability", "grid", "multiscale")}
    check_choices(out_dir / "mask.tif", **choices)  # before a folder is made, or a cluster
    scenes, outputs = _batch(paths, out_dir)
    with cluster as client, _side_by_side(client) as pool:
        outcomes = _segment_many(
            scenes,
            outputs,
            model,
            options,
            parts,
            resume=resume,
            as_json=as_json,
            quiet=quiet,
            pool=pool,
        )
    _sum_up(outcomes, out_dir / "summary.csv", as_json=as_json)


_SIDE_BY_SIDE = 4
"""Scenes at once on a cluster: while one's file is finished, the workers have the next one's."""


@contextmanager
def _side_by_side(client: Any) -> Iterator[Any]:
    """Threads for scenes beside each other, on a cluster."""
    if client is None:
        yield None
        return
    from concurrent.futures import ThreadPoolExecutor

    from cloudmask.write.client import stop

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        try:
            yield pool
        except BaseException:  # of the other scenes, which fail and clean up: the pool waits
            stop(client)
            raise


@contextmanager
def _cluster(model: Any, timeout: float, **where: Any) -> Iterator[Any]:
    """Run on the cluster that is asked for."""
    from cloudmask.cluster import connect, send_weights

    # What matters of its tracebacks is raised.
    for name in ("distributed", "distributed.client"):  # which has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with connect(**where, timeout=timeout) as client:
        send_weights(client, model.path)
        yield client


_PARTS = 4
"""Chunks of a scene, at least, for workers of unknown number, or more than that; the others have
the next scene's."""


def _job(scene: str, out: Path, model: Any, options: dict[str, Any], parts: int) -> Any:
    from cloudmask.job import Job
    from cloudmask.plan import plan_scene

    reading = {key: options[key] for key in ("gsd", "resize_factor", "chunk", "overlap")}
    if out.suffix.lower() == ".zarr":
        parts = _PARTS  # wherever it is written: it may be resumed with other workers, or without
    seen = {key: options[key] for key in ("bands", "scale", "stretch", "nodata")}
    plan = plan_scene(scene, model, parts=parts, **seen, **reading)
    rest = {key: value for key, value in options.items() if key not in reading}
    return Job(scene, out, model, plan, **rest)


def _segment_one(job: Any, start: float, *, as_json: bool, quiet: bool) -> None:
    from cloudmask import stopwatch
    from cloudmask.progress import Bars

    with Bars(quiet=quiet) as bars, bars.scene(job.scene):
        cover = job.run()
    elapsed = time.perf_counter() - start
    if cover.cloud_percent is None:
        logging.getLogger("cloudmask").warning("%s has no valid pixel: all is nodata", job.scene)
    if as_json:
        seconds = {"seconds": elapsed, "thread_seconds": stopwatch.seconds()}
        print_json(job.facts(cover) | seconds)
    elif not quiet:
        native = job.plan.native
        grid = job.plan.grid if job.is_on_model_grid else native
        say(
            f"{job.out}: {_cover(cover.cloud_percent)}, nodata {cover.nodata_percent:.1f} %, "
            f"{grid.height} × {grid.width} px, {elapsed:.1f} s, "
            f"{native.height * native.width / 1e6 / elapsed:.2f} Mpx/s"
        )


def _batch(arguments: tuple[str, ...], folder: Path) -> tuple[list[str], list[Path]]:
    """Scenes and their outputs, in a folder that can be written to."""
    from cloudmask.batch import check_summary, find_scenes, name_outputs
    from cloudmask.paths import is_remote
    from cloudmask.write import check_output

    scenes = find_scenes(arguments)
    outputs = name_outputs(scenes, folder)
    try:
        if not is_remote(folder):  # an object store needs none, and might make a bucket
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"the folder {folder} cannot be made ({error.strerror}): name another"
        ) from error
    check_output(folder / "summary.csv", overwrite=True)
    check_summary(folder / "summary.csv")
    return scenes, outputs


def _segment_many(
    scenes: list[str],
    outputs: list[Path],
    model: Any,
    options: dict[str, Any],
    parts: int,
    *,
    resume: bool,
    as_json: bool,
    quiet: bool,
    pool: Any,
) -> list[Any]:
    from cloudmask.batch import segment_many
    from cloudmask.progress import Bars

    with Bars(quiet=quiet) as bars, bars.bar("scenes", len(scenes), "scenes") as batch:

        def one(scene: str, out: Path) -> Any:
            job = _job(scene, out, model, options, parts)
            with bars.scene(scene):
                return job.run()

        asked = {key: value for key, value in options.items() if key != "overwrite"}
        if asked["threshold"] is None:
            asked["threshold"] = model.threshold
        if asked["grid"] is None and not asked["probability"]:
            asked["grid"] = "scene"
        made_from = model.provenance | asked
        outcomes = []
        for outcome in segment_many(scenes, outputs, one, made_from, resume=resume, pool=pool):
            outcomes.append(outcome)
            batch.step()
            if not quiet and not as_json:
                said = outcome.error or _cover(outcome.cloud_percent)
                seconds = f"{outcome.seconds:.1f} s"
                say(f"{outcome.output}: {said}, {outcome.status}, {seconds}")
    return outcomes


def _sum_up(outcomes: list[Any], summary: Path, *, as_json: bool) -> None:
    """Of a batch: JSON where it is asked for, and an error if a scene failed."""
    from dataclasses import asdict

    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        raise click.ClickException(f"{failed} of {len(outcomes)} scenes failed: see {summary}")


def _cover(cloud_percent: float | None) -> str:
    return "cloud no valid pixel" if cloud_percent is None else f"cloud {cloud_percent:.1f} %"
