"""`cloudmask evaluate`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cloudmask.cli.options import precision_option, reading_options
from cloudmask.cli.output import log_to_stderr, print_json, tell
from cloudmask.paths import unsigned


@click.command()
@click.argument("what", metavar="MODEL|MASK")
@click.argument("against", nargs=-1, required=True, metavar="MANIFEST | IMAGE LABEL | LABEL")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), help="Of the MANIFEST; default: val."
)
@click.option(
    "--threshold",
    type=float,
    help="Cloud from this probability on, to half a percent; default: the model's.",
)
@reading_options
@precision_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to make for tables (JSON, CSV), curves and the worst images; default: none.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace the folder.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def evaluate(
    what: str,
    against: tuple[str, ...],
    split: str | None,
    threshold: float | None,
    precision: str | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Score a MODEL on a MANIFEST's images or on one IMAGE, or a MASK (or probability).

    A MODEL is one of `cloudmask models`, the folder of a training run, or a .h5 or .hdf5 file.
    """
    from cloudmask.evaluation import evaluate_mask, evaluate_model
    from cloudmask.labelled import Reading
    from cloudmask.manifest import Example, read_examples, select_split
    from cloudmask.mask import check_threshold
    from cloudmask.pages import check_folder, write_evaluation
    from cloudmask.progress import Bars
    from cloudmask.registry import load_model

    as_json, overwrite, quiet = (options.pop(key) for key in ("as_json", "overwrite", "quiet"))
    log_to_stderr(quiet=quiet)
    if threshold is not None:
        check_threshold(threshold)
    if overwrite and out is None:
        raise ValueError("--overwrite replaces what --out names: give both, or neither")
    reading, is_mask = Reading(**options), _is_mask(what)
    if len(against) > (1 if is_mask else 2):
        raise ValueError("give MASK LABEL, MODEL MANIFEST, or MODEL IMAGE LABEL")
    if out is not None:
        check_folder(out, overwrite=overwrite)
    if is_mask:
        given = {"split": split, "precision": precision}
        how = {name: getattr(reading, name) for name in ("scale", "stretch", "nodata")}
        _refuse(given | how, "a MODEL")
        evaluation = evaluate_mask(what, against[0], reading, threshold=threshold)
    else:
        model = load_model(what, precision=precision)
        if len(against) == 2:
            _refuse({"split": split}, "a MANIFEST")
            image, label = against
            examples = [Example(image, label, split="", scene=image, set="image")]
            of = {"image": image, "label": label}
        else:
            split = split or "val"
            examples = select_split(read_examples(against[0]), split)
            of = {"manifest": against[0], "split": split}
        of = {name: unsigned(named) for name, named in of.items()}
        with Bars(quiet=quiet) as bars, bars.bar(model.name, len(examples)) as bar:
            evaluation = evaluate_model(
                model, examples, reading, threshold=threshold, done=bar.step
            )
        evaluation = replace(evaluation, about=evaluation.about | of)
    if out is not None:
        write_evaluation(evaluation, out, overwrite=overwrite)
    facts = evaluation.facts()
    if as_json:
        print_json(facts)
    elif quiet:
        return
    elif is_mask:
        _print_line(facts["overall"])
    else:
        on = f"{split} of {facts['manifest']}" if "manifest" in facts else facts["image"]
        tell(f"{model.name} on {on}, threshold {evaluation.threshold:g}")
        _print_table(facts)


def _refuse(given: dict[str, Any], what: str) -> None:
    """Refuse options that say nothing here."""
    foreign = [f"--{key}" for key, value in given.items() if value is not None]
    if foreign:
        raise ValueError(f"{', '.join(foreign)}: only for {what}, leave out")


def _is_mask(what: str) -> bool:
    """A store, what GDAL or the web holds, or a file that is neither weights nor a manifest."""
    from cloudmask.paths import is_local
    from cloudmask.registry import CARD, list_models

    if (Path(what) / CARD).is_file():  # a run may be called v1.tif
        return False
    ending = Path(what).suffix.lower()
    if ending in (".tif", ".tiff", ".png", ".zarr") or not is_local(what):
        return True
    is_other = ending in (".h5", ".hdf5", ".csv") or what in list_models()
    return Path(what).is_file() and not is_other


_SHOWN = (
    "precision", "recall", "f1", "f2", "iou", "miou", "accuracy", "brier", "false_cloud",
)  # fmt: skip


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _print_line(scores: dict[str, Any]) -> None:
    names = {"f1": "F1", "precision": "precision", "recall": "recall", "f2": "F2", "iou": "IoU"}
    if math.isnan(scores["recall"]):  # the label has no cloud
        names = {"accuracy": "accuracy", "false_cloud": "false cloud"}
    tell(", ".join(f"{shown} {scores[name]:.3f}" for name, shown in names.items()))


def _print_table(facts: dict[str, Any]) -> None:
    heads = " ".join(f"{key:>11}" for key in (*_SHOWN, "best f1", "best f2"))
    tell(f"{'set':20} {'scenes':>6} {heads}")
    for name, scores in [*facts["sets"].items(), ("overall", facts["overall"])]:
        values = [_percent(scores[key]) for key in _SHOWN]
        values += [_best(scores, key) for key in ("f1", "f2")]
        tell(f"{name:20} {scores['scenes']:6} " + " ".join(f"{value:>11}" for value in values))


def _best(scores: dict[str, Any], key: str) -> str:
    """The best score, and the threshold that gives it."""
    best = scores["best"][key]
    return f"{best:.3f} {scores['best_threshold'][key]:.2f}" if best > 0 else "–"
