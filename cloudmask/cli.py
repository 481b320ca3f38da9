"""The command line: parses, calls, prints, nothing else. Heavy imports wait for their command."""

import json
import logging
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


class _Bands(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    name = "R,G,B"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            bands = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            bands = ()
        if len(bands) != 3:
            self.fail(f"{value!r} is not three band numbers such as 1,2,3", param, ctx)
        return bands


class _Gsd(click.ParamType):  # type: ignore[type-arg]
    name = "METRES|native"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        if value == "native":
            return "native"
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither metres nor 'native'", param, ctx)


class _Location(click.ParamType):  # type: ignore[type-arg]
    name = "PATH|URL"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:  # noqa: ARG002
        from cloudmask.constants import locate

        return locate(value)


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    name = "VALUES"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,2", param, ctx)


class _Mix(click.ParamType):  # type: ignore[type-arg]
    name = "SET=WEIGHT,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[str, float], ...]:
        if isinstance(value, tuple):
            return value
        try:
            pairs = (part.split("=") for part in str(value).split(","))
            return tuple((name, float(weight)) for name, weight in pairs)
        except ValueError:
            self.fail(f"{value!r} is not a list such as mine=2,theirs=0.5", param, ctx)


def main() -> None:
    """Run the command; a user's mistake is one line and exit code 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as for Ctrl-C
    # GDAL's and libtiff's own lines: what matters of them is raised.
    os.environ.setdefault("CPL_LOG", os.devnull)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A descriptor of its own: while TensorFlow is imported, which takes seconds, 2 is muted.
    stderr = os.dup(2)
    try:
        cli(sys.argv[1:] or ["--help"], standalone_mode=False)
    except click.ClickException as error:
        _fail(stderr, error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _fail(stderr, str(error) or "interrupted: unfinished output was removed", 130)
    except MemoryError as error:
        _fail(stderr, str(error) or "out of memory: choose a smaller --chunk", 2)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        _fail(stderr, str(error).strip().split("\n")[0], 2)


def _fail(stderr: int, line: str, code: int) -> None:
    os.write(stderr, f"cloudmask: {line}\n".encode())
    # Not sys.exit: it would wait for dask's threads to finish chunks that nobody needs.
    sys.stdout.flush()
    os._exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cloudmask")
def cli() -> None:
    """Find clouds in satellite and very-high-resolution RGB scenes of any size."""


def _scene_options(command: Any) -> Any:
    """Options that say how a scene is read."""
    for option in reversed(
        [
            click.option("--model", metavar="NAME|FILE", help="Model; see `cloudmask models`."),
            click.option(
                "--bands", type=_Bands(), default="1,2,3", show_default=True,
                help="Red, green and blue, counted from 1.",
            ),
            click.option(
                "--gsd", type=_Gsd(),
                help="Ground sample distance to read at; default: the model's where the scene is "
                "finer.",
            ),
            click.option(
                "--resize-factor", type=float, metavar="N",
                help="Read at pixels N times as long instead.",
            ),
            click.option(
                "--nodata", type=float, metavar="VALUE",
                help="Nodata value, where the file names none or a wrong one.",
            ),
            click.option(
                "--chunk", type=click.IntRange(min=1), metavar="PX",
                help="Chunk height and width on the model's grid.",
            ),
            click.option(
                "--overlap", type=click.IntRange(min=0), metavar="PX",
                help="Halo around a chunk; default: the model's, which leaves no seams.",
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def _reading_options(command: Any) -> Any:
    """Options that say how images of a manifest and their labels are read."""
    for option in reversed(
        [
            click.option(
                "--scale", type=float, help="Value that maps to 255 in images that are not uint8."
            ),
            click.option("--stretch", type=float, metavar="PERCENT", help="Or: percentile to cut."),
            click.option(
                "--cloud", type=_Numbers(), default=(1,),
                help="Values of a label that mean cloud; all others but 255 are clear.",
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="SCENE OUT | SCENE...")
@click.option(
    "--out-dir",
    type=_Location(),
    help="Segment many scenes into this folder: paths, patterns, lists (.txt).",
)
@click.option(
    "--resume", is_flag=True,
    help="Keep what an earlier run finished: of many scenes, or of the chunks of a .zarr.",
)  # fmt: skip
@_scene_options
@click.option("--scale", type=float, help="Value that maps to 255 (needed unless uint8).")
@click.option(
    "--stretch", type=float, metavar="PERCENT",
    help="Or: percentile to clip at both ends; 2 is light, 5 medium, 10 heavy.",
)  # fmt: skip
@click.option("--threshold", type=float, help="Cloud from this probability on; default: model's.")
@click.option("--probability", is_flag=True, help="Write probabilities, on the model's grid.")
@click.option(
    "--grid", type=click.Choice(["scene", "model"]),
    help="Grid of OUT; default: the scene's.",
)  # fmt: skip
@click.option("--multiscale", is_flag=True, help="Add overviews to a .zarr; a .tif has them.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Default: what this machine is fastest at.",
)  # fmt: skip
@click.option("--quicklook", type=_Location(), help="Also draw a PNG.")
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
    from concurrent.futures import ThreadPoolExecutor

    from cloudmask.constants import locate
    from cloudmask.network import keep_freed_memory
    from cloudmask.registry import load_model

    _log(quiet=quiet)
    if options["gsd"] is not None and options["resize_factor"] is not None:
        raise ValueError("--gsd and --resize-factor are both given: choose one")
    if out_dir is None and len(paths) != 2:
        raise ValueError("give SCENE and OUT, or scenes and --out-dir")
    if out_dir is not None and options["quicklook"] is not None:
        raise ValueError("--quicklook names one picture: leave it out with --out-dir")
    model = load_model(options.pop("model"), precision=options.pop("precision"))
    where = {key: options.pop(key) for key in ("scheduler", "workers", "gpus", "timeout")}
    keep_freed_memory()
    if out_dir is None:
        start = time.perf_counter()
        options["resume"] = resume
        job = _job(paths[0], locate(paths[1]), model, options)
        with _cluster(model, **where):
            _segment_one(job, start, as_json=as_json, quiet=quiet)
        return
    scenes, outputs = _batch(paths, out_dir)
    # Around the cluster: when an interrupt closes it, scenes that run side by side fail and clean
    # up, for which the pool waits.
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads, _cluster(model, **where) as is_cluster:
        pool = threads if is_cluster else None
        outcomes = _segment_many(
            scenes,
            outputs,
            model,
            options,
            resume=resume,
            as_json=as_json,
            quiet=quiet,
            pool=pool,
        )
    _sum_up(outcomes, as_json=as_json)


_SIDE_BY_SIDE = 4
"""Scenes at once on a cluster: while one's file is finished, the workers have the next one's."""


@contextmanager
def _cluster(model: Any, timeout: float, **where: Any) -> Iterator[bool]:
    """Run on the cluster that is asked for, if any; whether one is."""
    if not any(where.values()):
        yield False
        return
    from cloudmask.cluster import connect, send_weights

    with connect(**where, timeout=timeout) as client:
        send_weights(client, model.path)
        yield True


def _job(scene: str, out: Path, model: Any, options: dict[str, Any]) -> Any:
    from cloudmask.job import Job
    from cloudmask.plan import plan_scene

    reading = {key: options[key] for key in ("gsd", "resize_factor", "chunk", "overlap")}
    plan = plan_scene(scene, model, bands=options["bands"], **reading)
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
        _print_json(job.facts(cover) | seconds)
    elif not quiet:
        native = job.plan.native
        print(
            f"{job.out}: {_cover(cover.cloud_percent)}, nodata {cover.nodata_percent:.1f} %, "
            f"{native.height} × {native.width} px, {elapsed:.1f} s, "
            f"{native.height * native.width / 1e6 / elapsed:.2f} Mpx/s"
        )


def _batch(arguments: tuple[str, ...], folder: Path) -> tuple[list[str], list[Path]]:
    """Scenes and their outputs, in a folder that can be written to."""
    from cloudmask.batch import find_scenes, name_outputs
    from cloudmask.write import check_output

    scenes = find_scenes(arguments)
    outputs = name_outputs(scenes, folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_output(folder / "summary.csv", overwrite=True)
    return scenes, outputs


def _segment_many(
    scenes: list[str],
    outputs: list[Path],
    model: Any,
    options: dict[str, Any],
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
            job = _job(scene, out, model, options)
            with bars.scene(scene):
                return job.run()

        made_from = model.provenance | {"threshold": model.threshold} | options
        outcomes = []
        for outcome in segment_many(scenes, outputs, one, made_from, resume=resume, pool=pool):
            outcomes.append(outcome)
            batch.step()
            if not quiet and not as_json:
                said = outcome.error or _cover(outcome.cloud_percent)
                seconds = f"{outcome.seconds:.1f} s"
                print(f"{outcome.output}: {said}, {outcome.status}, {seconds}", flush=True)
    return outcomes


def _sum_up(outcomes: list[Any], *, as_json: bool) -> None:
    """Of a batch: JSON where it is asked for, and an error if a scene failed."""
    from dataclasses import asdict

    if as_json:
        _print_json([asdict(outcome) for outcome in outcomes])
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        raise click.ClickException(f"{failed} of {len(outcomes)} scenes failed: see summary.csv")


def _cover(cloud_percent: float | None) -> str:
    return "cloud no valid pixel" if cloud_percent is None else f"cloud {cloud_percent:.1f} %"


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def models(as_json: bool) -> None:
    """List the models, with their scores."""
    from cloudmask.registry import list_models

    registry = list_models()
    if as_json:
        _print_json(registry)
        return
    for name, card in registry.items():
        low, high = card["gsd_range"]
        print(f"{name}{' (default)' if card['default'] else ''}: {card['summary']}")
        print(f"  {card['architecture']}, {low:g}–{high:g} m, threshold {card['threshold']:g}")
        test = card["scores"]["test"].items()
        scores = ", ".join(f"{name} {v['f1']:.3f}" for name, v in test if "f1" in v)
        print(f"  F1 on test splits: {scores}")


@cli.command()
@click.argument("scene")
@_scene_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(scene: str, as_json: bool, **options: Any) -> None:
    """Tell how SCENE would be read: grid, GSD, nodata, overviews and the plan."""
    from cloudmask.plan import plan_scene
    from cloudmask.registry import load_model
    from cloudmask.scene import describe

    _log(quiet=False)
    nodata = options.pop("nodata")
    model = load_model(options.pop("model"))
    plan = plan_scene(scene, model, **options)
    facts = describe(scene, options["bands"], nodata) | {
        "model": model.name,
        **plan.to_dict(),
    }
    if as_json:
        _print_json(facts)
        return
    unit = "m" if facts["crs"] else "px"
    halo = plan.overlap
    print(
        f"{scene}: {plan.native.height} × {plan.native.width} px, {facts['bands']} bands of "
        f"{facts['dtype']}\n"
        f"CRS {facts['crs'] or 'none'}, "
        f"GSD {plan.native.gsd[0]:.4g} × {plan.native.gsd[1]:.4g} {unit}\n"
        f"nodata {facts['nodata']}, blocks {facts['block'][0]} × {facts['block'][1]}, "
        f"overviews {', '.join(map(str, facts['overviews'])) or 'none'}\n"
        f"{model.name} would see {plan.grid.height} × {plan.grid.width} px at "
        f"{plan.grid.gsd[0]:.4g} × {plan.grid.gsd[1]:.4g} {unit}, "
        f"in {plan.blocks[0]} × {plan.blocks[1]} chunks of up to {plan.chunk} px "
        f"with a halo of {halo}, and take about {plan.memory / 1e9:.1f} GB in float32"
    )


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", type=int, nargs=2, required=True, metavar="HEIGHT WIDTH", help="Pixels.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--striped", is_flag=True, help="Strips instead of tiles.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
def sample(out: Path, size: tuple[int, int], seed: int, striped: bool, overwrite: bool) -> None:
    """Make a synthetic cloudy scene at OUT (.tif), and its exact label beside it."""
    from cloudmask.sample import write_sample

    label = write_sample(out, size=size, seed=seed, striped=striped, overwrite=overwrite)
    print(f"{out}: {size[0]} × {size[1]} px, label {label}")


@cli.command()
@click.argument("what", metavar="MODEL|MASK")
@click.argument("against", metavar="MANIFEST|LABEL")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True
)
@click.option("--threshold", type=float, help="Cloud from this probability on; default: model's.")
@_reading_options
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables and pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace the folder.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def evaluate(
    what: str,
    against: str,
    split: str,
    threshold: float | None,
    precision: str | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Score a MODEL on a MANIFEST's images, or a MASK (or probability) against its LABEL."""
    from cloudmask.evaluation import check_folder, evaluate_model, write_evaluation
    from cloudmask.labelled import Reading
    from cloudmask.manifest import read_examples, select_split
    from cloudmask.mask import check_threshold
    from cloudmask.progress import Bars
    from cloudmask.registry import load_model

    as_json, overwrite, quiet = (options.pop(key) for key in ("as_json", "overwrite", "quiet"))
    _log(quiet=quiet)
    if threshold is not None:
        check_threshold(threshold)
    if what.lower().endswith((".tif", ".tiff", ".png", ".zarr")):
        _evaluate_mask(what, against, 0.5 if threshold is None else threshold, as_json=as_json)
        return
    model = load_model(what, precision=precision)
    reading = Reading(**options)
    examples = select_split(read_examples(against), split)
    if out is not None:
        check_folder(out, overwrite=overwrite)
    title = f"{model.name} on {split}"
    with Bars(quiet=quiet) as bars, bars.bar(title, len(examples)) as bar:
        evaluation = evaluate_model(model, examples, reading, threshold=threshold, done=bar.step)
    if out is not None:
        write_evaluation(evaluation, out, model=model, reading=reading, overwrite=overwrite)
    facts = {"model": model.name, "model_sha256": model.sha256, "split": split} | evaluation.facts()
    if as_json:
        _print_json(facts)
    elif not quiet:
        print(f"{model.name} on {split} of {against}, threshold {evaluation.threshold:g}")
        print(f"{'set':20} {'scenes':>6} " + " ".join(f"{key:>11}" for key in _SHOWN))
        for name, scores in [*facts["sets"].items(), ("overall", facts["overall"])]:
            values = " ".join(f"{_percent(scores[key]):>11}" for key in _SHOWN)
            print(f"{name:20} {scores['scenes']:6} {values}")


_SHOWN = ("precision", "recall", "f1", "f2", "iou", "brier", "false_cloud")


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _evaluate_mask(mask: str, label: str, threshold: float, *, as_json: bool) -> None:
    from dataclasses import asdict

    from cloudmask.evaluation import evaluate
    from cloudmask.scene import open_label

    scores = evaluate(open_label(mask), open_label(label), threshold=threshold)
    if as_json:
        _print_json(asdict(scores))
    else:
        print(
            f"F1 {scores.f1:.3f}, precision {scores.precision:.3f}, recall {scores.recall:.3f}, "
            f"F2 {scores.f2:.3f}, IoU {scores.iou:.3f}"
        )


@cli.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--architecture", default="unet_vgg16", show_default=True)
@click.option(
    "--loss",
    default="f1",
    show_default=True,
    help="f1, f2, fbeta:B, bce, dice, jaccard, or a sum such as bce+f2.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), help="Batches of an epoch.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--learning-rate", type=float, default=1e-4, show_default=True)
@click.option(
    "--freeze-epochs",
    type=click.IntRange(min=0),
    help="Epochs that a pretrained encoder keeps its weights; default: 3.",
)
@click.option("--patience", type=click.IntRange(min=1), help="Stop after so many without gain.")
@click.option("--weights", metavar="NAME|PATH", help="Model to fine-tune.")
@click.option(
    "--encoder-weights",
    metavar="imagenet|hed|PATH|none",
    help="Where a VGG16 encoder starts; default: imagenet for a U-Net that starts afresh.",
)
@click.option("--scratch", is_flag=True, help="Start from random weights.")
@click.option("--patch", type=click.IntRange(min=32), default=256, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--mix", type=_Mix(), default=(), help="How often sets are drawn; default: alike.")
@click.option(
    "--augment",
    metavar="LIST",
    help="Of turn,scale,radiometry,haze,sea,paste,degrade,nodata; default: all; none.",
)
@_reading_options
@click.option("--validation-patches", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--runs", type=click.Path(path_type=Path), default="runs", show_default=True)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--overwrite", is_flag=True, help="Replace a run of this name.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def train(manifest: Path, name: str, **options: Any) -> None:
    """Train a network on MANIFEST and keep the best weights in RUNS/NAME.

    MANIFEST is a CSV (image, label, split; optional scene, set, gsd, scale), or a folder with
    images/ and labels/. `cloudmask segment --model RUNS/NAME` takes the result.
    """
    from cloudmask.augment import AUGMENTATIONS
    from cloudmask.dataset import Sampling
    from cloudmask.labelled import Reading
    from cloudmask.training import Recipe
    from cloudmask.training import train as run

    _log(quiet=options.pop("quiet"))
    augment, scratch = options.pop("augment"), options.pop("scratch")
    encoder = options.pop("encoder_weights")
    if scratch and (encoder or options["weights"]):
        raise ValueError("--scratch is given with weights to start from: choose one")
    if encoder is None and options["architecture"] == "unet_vgg16":
        encoder = None if scratch or options["weights"] else "imagenet"
    sampling = Sampling(
        size=options.pop("patch"),
        batch_size=options.pop("batch_size"),
        seed=options.pop("seed"),
        augment=AUGMENTATIONS if augment is None else _words(augment, AUGMENTATIONS),
        mix=options.pop("mix"),
    )
    reading = Reading(**{key: options.pop(key) for key in ("scale", "stretch", "cloud")})
    where = {key: options.pop(key) for key in ("runs", "resume", "overwrite")}
    recipe = Recipe(
        **options,
        encoder_weights=None if encoder == "none" else encoder,
        sampling=sampling,
        reading=reading,
    )
    try:
        model = run(manifest, name, recipe, **where)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted: the same command with --resume goes on") from error
    print(f"{where['runs'] / name}: {model.architecture}, threshold {model.threshold:g}")


def _words(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = () if text == "none" else tuple(text.split(","))
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(f"--augment {', '.join(unknown)} is unknown: choose {', '.join(known)}")
    return words


def _print_json(value: Any) -> None:
    from cloudmask.write import without_nan

    print(json.dumps(without_nan(value), indent=2, ensure_ascii=False))


def _log(*, quiet: bool) -> None:
    # The library says it once, in words that tell what follows.
    warnings.filterwarnings(
        "ignore", message="Dataset has no geotransform|The given matrix is equal"
    )
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("cloudmask: %(message)s"))
    logger = logging.getLogger("cloudmask")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
