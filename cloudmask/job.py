"""One scene, from file to file: what `cloudmask segment` does."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from dask.threaded import get as threads

from cloudmask.enlarging import enlarge
from cloudmask.errors import first_line
from cloudmask.mask import check_threshold, threshold
from cloudmask.paths import is_remote, is_same, is_zarr, unsigned
from cloudmask.plan import Plan
from cloudmask.planes import open_label, open_valid
from cloudmask.prediction import predict
from cloudmask.readers.files import files_of
from cloudmask.registry import CloudModel
from cloudmask.report import (
    CloudCover,
    cloud_cover,
    is_quicklook,
    quicklook,
    quicklook_factor,
    thin_out,
)
from cloudmask.scene import check_radiometry, open_scene
from cloudmask.write import (
    check_ending,
    check_output,
    check_store,
    write_cog,
    write_png,
    write_zarr,
)

_WRITERS: dict[str, Callable[..., None]] = {
    ".tif": write_cog,
    ".tiff": write_cog,
    ".png": write_png,
    ".zarr": write_zarr,
}


@dataclass(frozen=True)
class Job:
    """A scene to segment; checked when it is made, before any pixel is read.

    Raises
    ------
    ValueError, OSError
        With one line that names the value and the cure.
    """

    scene: str
    """Path or URL."""
    out: Path
    """Ends in .tif, .zarr or .png."""
    model: CloudModel
    """Finds the clouds."""
    plan: Plan
    """How the scene is read."""
    bands: tuple[int, ...] = (1, 2, 3)
    """Red, green and blue, counted from 1."""
    scale: float | None = None
    """Value that maps to 255."""
    stretch: float | None = None
    """Percentile clipped at both ends."""
    nodata: float | None = None
    """Nodata value besides the file's own."""
    threshold: float | None = None
    """Where to cut; None: the model's own."""
    probability: bool = False
    """Write probabilities, on the model's grid."""
    grid: str | None = None
    """Grid of the mask, "scene" or "model"; None: the scene's, or the model's for probabilities."""
    quicklook: Path | None = None
    """PNG to draw besides."""
    overwrite: bool = False
    """Replace existing output."""
    resume: bool = False
    """Go on with a Zarr store that was not finished."""
    multiscale: bool = False
    """Add overviews to a Zarr store."""

    def __post_init__(self) -> None:
        check_choices(
            self.out,
            threshold=self.threshold,
            probability=self.probability,
            grid=self.grid,
            multiscale=self.multiscale,
        )
        if self.resume and self.out.suffix.lower() != ".zarr":
            raise ValueError(
                f"{self.out} cannot be resumed, a COG is written anew: leave out --resume, or let "
                "it end in .zarr"
            )
        check_radiometry(self.plan.dtype, self.scale, self.stretch)
        self._check_outputs()

    def _check_outputs(self) -> None:
        outputs = [self.out]
        if self.quicklook is not None:
            outputs.append(self.quicklook)
            check_ending(self.quicklook, ".png")
            if is_same(str(self.quicklook), str(self.out)):
                raise ValueError(f"{self.out} is named twice: give the quicklook another name")
        for output in outputs:
            if _would_replace(output, self.scene):
                raise ValueError(f"{output} is the scene itself: choose another name")
            is_ours = self.resume and (output == self.out or is_quicklook(output))
            check = check_store if is_zarr(output) else check_output
            check(output, overwrite=self.overwrite or is_ours)

    @property
    def cut(self) -> float:
        """The threshold in force."""
        return self.model.threshold if self.threshold is None else self.threshold

    @property
    def is_on_model_grid(self) -> bool:
        """Whether the output stays on the grid that the network saw."""
        return self.probability or self.grid == "model"

    def run(self) -> CloudCover:
        """Open, predict, write; count what was written."""
        suffix = self.out.suffix.lower()
        is_store = suffix == ".zarr"
        more = {"resume": self.resume, "multiscale": self.multiscale} if is_store else {}
        _WRITERS[suffix](self._result(), self.out, overwrite=self.overwrite, **more)
        written = open_label(self.out)
        mask = threshold(written, self.cut) if self.probability else written
        if self.quicklook is not None:
            try:
                self._draw(mask, self.quicklook)
            except OSError as error:
                raise OSError(
                    f"{self.out} is complete, its picture is missing: {first_line(error)}"
                ) from error
        return cloud_cover(mask, scheduler=threads)  # workers may not see the output

    def _result(self) -> xr.DataArray:
        """What is to be written, lazy."""
        scene = open_scene(
            self.scene,
            bands=self.bands,
            grid=self.plan.grid,
            scale=self.scale,
            stretch=self.stretch,
            nodata=self.nodata,
            chunk=self.plan.chunks,
        )
        probability = predict(scene, self.model, overlap=self.plan.overlap)
        if self.probability:
            return probability
        if self.is_on_model_grid or self.plan.grid == self.plan.native:
            return threshold(probability, self.cut)
        valid = open_valid(self.scene, bands=self.bands, nodata=self.nodata)
        return enlarge(probability, valid, threshold=self.cut)

    def _draw(self, mask: xr.DataArray, path: Path) -> None:
        native = self.plan.native
        scene = open_scene(
            self.scene,
            bands=self.bands,
            resize_factor=quicklook_factor(native.height, native.width),
            scale=self.scale,
            stretch=self.stretch,
            nodata=self.nodata,
        )
        thin = thin_out(mask, *scene.shape[1:])
        # Of one scene, whatever the mask's file tells of its place: a picture tells nothing.
        quicklook(scene, thin.drop_vars(["y", "x"], errors="ignore"), path, scheduler=threads)

    def facts(self, cover: CloudCover) -> dict[str, Any]:
        """The outcome, for JSON."""
        return {
            "scene": unsigned(self.scene),
            "output": str(self.out),
            **self.model.provenance,
            "threshold": self.cut,
            **asdict(cover),
            "cloud_percent": cover.cloud_percent,
            "nodata_percent": cover.nodata_percent,
            "height": self.plan.native.height,
            "width": self.plan.native.width,
            **self.plan.to_dict(),
        }


def check_choices(
    out: Path, *, threshold: float | None, probability: bool, grid: str | None, multiscale: bool
) -> None:
    """Refuse what cannot be asked of any scene, with a ValueError; arguments as for `Job`."""
    suffix = out.suffix.lower()
    if suffix not in _WRITERS:
        if not str(out).strip("."):
            raise ValueError("the output has no name: let it end in .tif, .zarr or .png")
        if not is_remote(out) and out.is_dir():
            raise ValueError(f"{out} is a folder: name a file in it, or give it as --out-dir")
        raise ValueError(f"{out} ends in {suffix!r}: let it end in .tif, .zarr or .png")
    if probability and grid == "scene":
        raise ValueError("probabilities are on the model's grid: leave out --grid scene")
    if probability and suffix == ".png":
        raise ValueError("probabilities need a .tif or .zarr: a picture holds a mask")
    if multiscale and suffix != ".zarr":
        raise ValueError(f"{out} is no Zarr store: leave out --multiscale, a COG has overviews")
    if threshold is not None:
        check_threshold(threshold)


def _would_replace(output: Path, scene: str) -> bool:
    """Whether writing an output would replace the scene, or a file that it is made of."""
    if is_remote(output):
        return is_same(str(output), scene)
    if not output.exists():
        return False
    return any(output.samefile(file) for file in files_of(scene) if Path(file).exists())
