"""Options that several commands share, and the types of their values."""

from pathlib import Path
from typing import Any

import click


class Bands(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """Three band numbers."""

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


class Gsd(click.ParamType):  # type: ignore[type-arg]
    """Metres, or the scene's own."""

    name = "METRES|native"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        if str(value).lower() == "native":  # help shows it in capitals
            return "native"
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither metres nor 'native'", param, ctx)


class Location(click.ParamType):  # type: ignore[type-arg]
    """A local path, or a URL."""

    name = "PATH|URL"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:  # noqa: ARG002
        from cloudmask.paths import locate

        return locate(value)


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers."""

    name = "VALUES"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,2", param, ctx)


class Mix(click.ParamType):  # type: ignore[type-arg]
    """How often each set is drawn."""

    name = "SET=WEIGHT,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[str, float], ...]:
        if isinstance(value, tuple):
            return value
        try:
            pairs = (part.rsplit("=", 1) for part in str(value).split(","))
            return tuple((name, float(weight)) for name, weight in pairs)
        except ValueError:
            self.fail(f"{value!r} is not a list such as mine=2,theirs=0.5", param, ctx)


precision_option = click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the network; default: what this machine is fastest at.",
)  # fmt: skip


def scene_options(command: Any) -> Any:
    """Options that say how a scene is read."""
    for option in reversed(
        [
            click.option(
                "--model", metavar="NAME|FILE|RUN",
                help="Model: a name of `cloudmask models`, a weight file, or the folder of a "
                "training run; default: the one that `cloudmask models` marks.",
            ),
            click.option(
                "--bands", type=Bands(), default="1,2,3", show_default=True,
                help="Red, green and blue, counted from 1.",
            ),
            click.option(
                "--gsd", type=Gsd(), metavar="METRES|native",
                help="Ground sample distance to read at; default: the model's where the scene is "
                "finer.",
            ),
            click.option(
                "--resize-factor", type=float, metavar="N",
                help="Instead: read N times fewer rows and columns.",
            ),
            click.option(
                "--scale", type=float, help="Value that maps to 255 (needed unless uint8)."
            ),
            click.option(
                "--stretch", type=float, metavar="PERCENT",
                help="Or: percentile to clip at both ends; 2 is light, 5 medium, 10 heavy.",
            ),
            click.option(
                "--nodata", type=float, metavar="VALUE",
                help="Nodata value, besides what the file declares.",
            ),
            click.option(
                "--chunk", type=click.IntRange(min=1), metavar="PX",
                help="Chunk height and width on the model's grid; default: what `cloudmask info` "
                "tells, or smaller for a .zarr or on a cluster.",
            ),
            click.option(
                "--overlap", type=click.IntRange(min=0), metavar="PX",
                help="Halo around a chunk; default: the model's, which leaves no seams.",
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def refuse_both(options: dict[str, Any], one: str, other: str) -> None:
    """Refuse two options that say the same, before anything is opened."""
    if options[one] is not None and options[other] is not None:
        names = (f"--{key.replace('_', '-')}" for key in (one, other))
        raise ValueError(f"{' and '.join(names)} are both given: choose one")


def reading_options(command: Any) -> Any:
    """Options that say how images of a manifest and their labels are read."""
    for option in reversed(
        [
            click.option(
                "--scale", type=float, help="Value that maps to 255 in images that are not uint8."
            ),
            click.option("--stretch", type=float, metavar="PERCENT", help="Or: percentile to cut."),
            click.option(
                "--nodata", type=float, metavar="VALUE",
                help="Nodata value of the images, besides what they declare: not scored.",
            ),
            click.option(
                "--cloud", type=Numbers(),
                help="Values of a label that mean cloud; all others are clear, but for 255 and a "
                "nodata value of the file's own, other than 0; default: labels are 0, 1 and 255.",
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command
