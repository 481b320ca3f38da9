"""`cloudmask info`, `models` and `sample`."""

import logging
from pathlib import Path
from typing import Any

import click

from cloudmask.cli.options import refuse_both, scene_options
from cloudmask.cli.output import log_to_stderr, print_json, say, tell
from cloudmask.constants import HIGHEST_SEED
from cloudmask.errors import as_options
from cloudmask.paths import unsigned


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def models(as_json: bool) -> None:
    """List the models, with their scores."""
    from cloudmask.registry import list_models

    registry = list_models()
    if as_json:
        print_json(registry)
        return
    for name, card in registry.items():
        low, high = card["gsd_range"]
        tell(f"{name}{' (default)' if card['default'] else ''}: {card['summary']}")
        tell(f"  {card['architecture']}, {low:g}–{high:g} m, threshold {card['threshold']:g}")
        test = card["scores"].get("test", {}).items()
        scores = ", ".join(f"{name} {v['f1']:.3f}" for name, v in test if "f1" in v)
        tell(f"  F1 on test splits: {scores}")


@click.command()
@click.argument("scene")
@scene_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(scene: str, as_json: bool, **options: Any) -> None:
    """Tell how SCENE would be read: grid, GSD, nodata, overviews and the plan."""
    from cloudmask.plan import plan_scene
    from cloudmask.registry import load_model
    from cloudmask.scene import check_radiometry, describe

    log_to_stderr(quiet=False)
    refuse_both(options, "gsd", "resize_factor")
    refuse_both(options, "scale", "stretch")
    model = load_model(options.pop("model"))
    plan = plan_scene(scene, model, **options)
    try:
        check_radiometry(plan.dtype, options["scale"], options["stretch"])
    except ValueError as error:  # what else the scene is can be told all the same
        logging.getLogger("cloudmask").warning("%s", as_options(str(error)))
    facts = describe(scene, options["bands"], options["nodata"]) | {
        "model": model.name,
        **plan.to_dict(),
    }
    if as_json:
        print_json(facts)
        return
    unit = "m" if plan.native.is_placed else "px"
    halo = plan.overlap
    tell(
        f"{unsigned(scene)}: {plan.native.height} × {plan.native.width} px, "
        f"{facts['bands']} bands of {facts['dtype']}\n"
        f"CRS {facts['crs'] or 'none'}, "
        f"GSD {plan.native.gsd[0]:.4g} × {plan.native.gsd[1]:.4g} {unit}\n"
        f"nodata {facts['nodata']}, blocks {facts['block'][0]} × {facts['block'][1]}, "
        f"overviews {', '.join(map(str, facts['overviews'])) or 'none'}\n"
        f"{model.name} would see {plan.grid.height} × {plan.grid.width} px at "
        f"{plan.grid.gsd[0]:.4g} × {plan.grid.gsd[1]:.4g} {unit}, "
        f"in {plan.blocks[0]} × {plan.blocks[1]} chunks of up to {plan.chunk} px "
        f"with a halo of {halo}, and take about {plan.memory / 1e9:.1f} GB in float32"
    )


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", type=int, nargs=2, required=True, metavar="HEIGHT WIDTH", help="Pixels.")
@click.option("--seed", type=click.IntRange(0, HIGHEST_SEED), default=0, show_default=True)
@click.option("--striped", is_flag=True, help="Strips instead of tiles.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
def sample(out: Path, size: tuple[int, int], seed: int, striped: bool, overwrite: bool) -> None:
    """Make a synthetic cloudy scene at OUT (.tif), and its exact label beside it."""
    from cloudmask.sample import write_sample

    label = write_sample(out, size=size, seed=seed, striped=striped, overwrite=overwrite)
    say(f"{out}: {size[0]} × {size[1]} px, label {label}")
