"""What a mask says: the share of cloud, and a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cloudmask.chunks import Block
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.grid import in_order
from cloudmask.mask import check_values, mask_or_probability
from cloudmask.paths import destination
from cloudmask.stretch import brightened
from cloudmask.write import check_ending, check_output, replacing

_QUICKLOOK_SIDE = 1200
_SOFTWARE = "cloudmask quicklook"


@dataclass(frozen=True)
class CloudCover:
    """Pixels of a mask by kind."""

    clear: int
    """Pixels of value 0."""
    cloud: int
    """Pixels of value 1."""
    nodata: int
    """Pixels of value 255."""

    @property
    def cloud_percent(self) -> float | None:
        """Cloud among valid pixels, 0 to 100; None where no pixel is valid."""
        valid = self.clear + self.cloud
        return 100 * self.cloud / valid if valid else None

    @property
    def nodata_percent(self) -> float:
        """Nodata among all pixels, 0 to 100."""
        return 100 * self.nodata / max(1, self.clear + self.cloud + self.nodata)


def cloud_cover(mask: xr.DataArray, **kwargs: Any) -> CloudCover:
    """Count a mask's pixels; computes it, chunk by chunk.

    Parameters
    ----------
    mask : DataArray
        uint8: 0 clear, 1 cloud, 255 nodata.
    **kwargs
        For `dask.compute`, such as ``scheduler="threads"``.

    Raises
    ------
    ValueError
        `mask` is a probability, or holds other values.
    """
    mask = _only_mask(mask)
    data = da.asarray(mask.data)
    counting = [dask.delayed(_count)(block) for block in data.to_delayed().flat]
    # The blocks' graph is optimized; of that of all dask would go through all for each.
    (counts,) = dask.compute(counting, optimize_graph=False, **kwargs)
    return CloudCover(*(int(total) for total in np.sum(counts, axis=0)))


def _count(mask: Block) -> list[int]:
    check_values(mask)
    return [int(np.count_nonzero(mask == value)) for value in (CLEAR, CLOUD, NODATA)]


def quicklook(scene: xr.DataArray, mask: xr.DataArray, path: str | Path, **kwargs: Any) -> None:
    """Draw the scene, and beside it the scene with its clouds in red and nodata in grey.

    Of a scene that is more than twice as wide as high below it.

    Parameters
    ----------
    scene : (band, y, x) DataArray
        RGB 0–255, small: both are computed whole (`open_scene` with a resize_factor).
    mask : (y, x) DataArray
        Of the same shape.
    path : str or Path
        PNG to write, or to replace.
    **kwargs
        For `dask.compute`.

    Raises
    ------
    ValueError
        `mask` has another shape, lies elsewhere, or is a probability; `scene` has other bands;
        `path` does not end in .png.
    OSError
        The folder is not there, or cannot be written in; or `path` is one.
    """
    check_ending(path, ".png")
    path = destination(path)
    check_output(path, overwrite=True)
    scene, mask = in_order(scene, "band", "y", "x"), in_order(_only_mask(mask), "y", "x")
    if scene.sizes["band"] != 3:
        raise ValueError(f"the scene has {scene.sizes['band']} bands: select red, green and blue")
    if mask.shape != scene.shape[1:]:
        raise ValueError(
            f"the mask is {mask.shape}, the scene {scene.shape[1:]}: bring them to one grid"
        )
    if _lies_elsewhere(scene, mask):
        raise ValueError("the mask lies elsewhere than the scene: bring them to one grid")
    pixels, values = dask.compute(scene.data, mask.data, **kwargs)
    rgb = np.moveaxis(brightened(pixels), 0, -1)
    painted = rgb.copy()
    cloud = values == CLOUD
    painted[cloud] = (0.45 * rgb[cloud] + 0.55 * np.array([255, 40, 40])).astype("uint8")
    painted[_outline(cloud)] = (255, 0, 0)
    painted[values == NODATA] = (128, 128, 128)
    height, width, _ = rgb.shape
    is_wide = width > 2 * height  # the other goes below it
    gap = np.full((8, width, 3) if is_wide else (height, 8, 3), 255, "uint8")
    picture = Image.fromarray(np.concatenate([rgb, gap, painted], axis=0 if is_wide else 1))
    with replacing(path) as work:
        picture.save(work / path.name, format="PNG", pnginfo=_signed())


def is_quicklook(path: Path) -> bool:
    """Whether a file is a picture that `quicklook` drew."""
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            return picture.info.get("Software") == _SOFTWARE
    except (OSError, ValueError):  # no file, or no picture
        return False


def _signed() -> PngInfo:
    """What tells a quicklook from other pictures."""
    text = PngInfo()
    text.add_text("Software", _SOFTWARE)
    return text


def quicklook_factor(height: int, width: int) -> float:
    """How much to reduce a scene so that a quicklook of it fits a screen; at least 1."""
    return max(1.0, max(height, width) / _QUICKLOOK_SIDE)


def thin_out(mask: xr.DataArray, height: int, width: int) -> xr.DataArray:
    """Every so many pixels of a mask, `height` × `width` in all, spread evenly."""
    rows, columns = (
        ((np.arange(wanted) + 0.5) * size / wanted).astype(int)
        for wanted, size in zip((height, width), mask.shape, strict=True)
    )
    return mask.isel(y=rows, x=columns)


def _outline(cloud: Block) -> Block:
    padded = np.pad(cloud, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return cloud & ~inner


def _lies_elsewhere(scene: xr.DataArray, mask: xr.DataArray) -> bool:
    """By the ends of each axis, and to a pixel: a mask may have been thinned out unevenly."""
    for dim in ("y", "x"):
        if dim in scene.coords and dim in mask.coords:
            ends, others = (array[dim].to_numpy()[[0, -1]] for array in (scene, mask))
            pixel = abs(ends[1] - ends[0]) / max(scene.sizes[dim] - 1, 1)
            if scene.sizes[dim] > 1 and (np.abs(ends - others) > pixel).any():
                return True
    return False


def _only_mask(array: xr.DataArray) -> xr.DataArray:
    array = mask_or_probability(array)
    if array.dtype != np.uint8:
        raise ValueError(f"the array is {array.dtype}, not a mask: cut it with threshold")
    return array
