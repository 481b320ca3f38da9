"""`cloudmask train`."""

from pathlib import Path
from typing import Any

import click

from cloudmask.cli.options import Mix, precision_option, reading_options
from cloudmask.cli.output import log_to_stderr, say
from cloudmask.models import ARCHITECTURES


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("name")
@click.option(
    "--architecture",
    metavar="|".join(ARCHITECTURES),
    help="Default: unet_vgg16, with --weights what they are of.",
)
@click.option(
    "--loss",
    default="f1",
    show_default=True,
    help="f1, f2, fbeta:B, bce, dice, jaccard, or a sum such as bce+f2.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=30, show_default=True, help="Of both phases."
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Batches of an epoch, rounded to eights; default: as many as see each image once.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Patches of a step.",
)
@click.option(
    "--learning-rate",
    type=float,
    default=1e-4,
    show_default=True,
    help="Highest; each phase warms up to it and decays.",
)
@click.option(
    "--freeze-epochs",
    type=click.IntRange(min=0),
    help="Epochs that a pretrained encoder keeps its weights; default: 3, with --weights 0.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    help="Stop after so many epochs without gain; default: never.",
)
@click.option("--weights", metavar="NAME|PATH", help="Model to go on from.")
@click.option(
    "--encoder-weights",
    metavar="imagenet|hed|PATH|none",
    help="Where a VGG16 encoder starts; default: imagenet for a U-Net that starts afresh.",
)
@click.option("--scratch", is_flag=True, help="Start from random weights.")
@click.option(
    "--patch",
    type=click.IntRange(min=32),
    default=256,
    show_default=True,
    help="Height and width in pixels, a multiple of the network's stride.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of everything random.",
)
@click.option("--mix", type=Mix(), default=(), help="How often sets are drawn; default: alike.")
@click.option(
    "--augment",
    metavar="LIST",
    help="What is done to patches: some of turn, scale, radiometry, tint, haze, sea, paste, "
    "degrade and nodata, with commas, or none; default: all.",
)
@reading_options
@click.option(
    "--validation-patches",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="At most so many are looked at after each epoch.",
)
@precision_option
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default="runs",
    show_default=True,
    help="Folder of the run's folder.",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--overwrite", is_flag=True, help="Replace a run of this name.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def train(manifest: Path, name: str, **options: Any) -> None:
    """Train a network on MANIFEST and keep the best weights in RUNS/NAME.

    MANIFEST is a CSV (image, label, split; optional scene, set, gsd, scale), or a folder with
    images/ and labels/. `cloudmask segment --model RUNS/NAME` takes the result.
    """
    from cloudmask.augment import AUGMENTATIONS
    from cloudmask.draw import Sampling
    from cloudmask.labelled import Reading
    from cloudmask.recipe import Recipe
    from cloudmask.training import train as run

    quiet = options.pop("quiet")
    log_to_stderr(quiet=quiet)
    augment, scratch = options.pop("augment"), options.pop("scratch")
    encoder = options.pop("encoder_weights")
    if options["architecture"] is None:
        options["architecture"] = _architecture(
            options["weights"], options["runs"] / name, resume=options["resume"]
        )
    if encoder is None and options["architecture"] == "unet_vgg16":
        encoder = None if scratch or options["weights"] else "imagenet"
    if scratch and (encoder not in (None, "none") or options["weights"]):
        raise ValueError("--scratch is given with weights to start from: choose one")
    sampling = Sampling(
        size=options.pop("patch"),
        batch_size=options.pop("batch_size"),
        seed=options.pop("seed"),
        augment=AUGMENTATIONS if augment is None else _words(augment),
        mix=options.pop("mix"),
    )
    reading = Reading(**{key: options.pop(key) for key in ("scale", "stretch", "nodata", "cloud")})
    where = {key: options.pop(key) for key in ("runs", "resume", "overwrite")}
    recipe = Recipe(
        **options,
        encoder_weights=encoder,
        sampling=sampling,
        reading=reading,
    )
    model = run(manifest, name, recipe, **where)
    if not quiet:
        say(f"{where['runs'] / name}: {model.architecture}, threshold {model.threshold:g}")


def _architecture(weights: str | None, run: Path, *, resume: bool) -> str:
    """What is trained where the user does not say."""
    from cloudmask.paths import has_keys, read_json
    from cloudmask.registry import load_model
    from cloudmask.runs import CONFIG

    # The weights it began with may be gone.
    if resume and has_keys(run / CONFIG, "recipe", "manifest"):
        return str(read_json(run / CONFIG, cure="begin the run again")["recipe"]["architecture"])
    return load_model(weights).architecture if weights else "unet_vgg16"


def _words(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(text.split(","))
