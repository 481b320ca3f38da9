"""A synthetic cloudy scene of any size with its exact label: for demo, tests and benchmarks."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from cloudmask.checks import whole
from cloudmask.chunks import Block
from cloudmask.constants import HIGHEST_SEED, NODATA
from cloudmask.write import check_ending, check_output, replacing, writing
from cloudmask.write.staging import Sum, checksum, verify

GSD = 10.0
"""Metres per pixel of a sample: Sentinel-2's visible bands."""

_WINDOW = 1024


def write_sample(
    path: str | Path,
    *,
    size: tuple[int, int],
    seed: int = 0,
    striped: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a scene (uint8 RGB GeoTIFF, UTM, 10 m) and its label beside it, window by window.

    Parameters
    ----------
    path : str or Path
        The scene, ending in .tif; the label becomes NAME_label.tif.
    size : (int, int)
        Height and width in pixels; any size, memory stays at one window.
    seed : int
        Chooses land, sea and clouds.
    striped : bool
        Strips of 16 rows instead of 512 × 512 tiles.
    overwrite : bool
        Replace existing files.

    Returns
    -------
    Path
        The label: 1 where the clouds hide half of the ground or more, else 0.

    Raises
    ------
    ValueError, FileExistsError, FileNotFoundError
    """
    path = Path(path)
    check_ending(path, ".tif", ".tiff")
    if not 0 <= whole("seed", seed) <= HIGHEST_SEED:
        raise ValueError(f"seed is {seed}: give a whole number from 0 to {HIGHEST_SEED}")
    if np.shape(size) != (2,):
        raise ValueError(f"size is {size!r}: give a height and a width")
    size = whole("height", size[0]), whole("width", size[1])
    if min(size) < 1:
        raise ValueError(f"size is {size[0]} × {size[1]}: give a height and a width above 0")
    label_path = path.with_name(f"{path.stem}_label.tif")
    for made in (path, label_path):
        check_output(made, overwrite=overwrite)
    profile = {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "dtype": "uint8",
        "crs": "EPSG:32637",
        "transform": from_origin(400_000, 1_300_000, GSD, GSD),
        "compress": "deflate",
        "zlevel": 1,
        "predictor": 2,
        "bigtiff": "IF_SAFER",
        "interleave": "pixel",
    } | ({"blockysize": 16} if striped else {"tiled": True, "blockxsize": 512, "blockysize": 512})
    # Whole rows at a time where the file is striped, so that each strip is written once.
    width = size[1] if striped else _WINDOW
    height = 16 * max(1, _WINDOW**2 // (16 * width)) if striped else _WINDOW
    scene_sums: list[Sum] = []
    label_sums: list[Sum] = []
    with replacing(path) as work, writing(path):
        made, made_label = work / path.name, work / label_path.name
        with (
            rasterio.open(made, "w", count=3, photometric="rgb", **profile) as scene,
            rasterio.open(made_label, "w", count=1, nodata=NODATA, **profile) as label,
        ):
            for y in range(0, size[0], height):
                for x in range(0, size[1], width):
                    rows = slice(y, min(y + height, size[0]))
                    columns = slice(x, min(x + width, size[1]))
                    pixels, clouds = sample_window(_indices(rows), _indices(columns), seed)
                    window = Window.from_slices(rows, columns)
                    scene.write(pixels, window=window)
                    label.write(clouds, 1, window=window)
                    scene_sums.append((rows, columns, checksum(pixels)))
                    label_sums.append((rows, columns, checksum(clouds)))
        verify(made, scene_sums, bands=(1, 2, 3))
        verify(made_label, label_sums)
    return label_path


def _indices(along: slice) -> Block:
    return np.arange(along.start, along.stop)


def sample_window(rows: Block, columns: Block, seed: int) -> tuple[Block, Block]:
    """Pixels (3, y, x) and label (y, x) of a window; the same wherever the window is cut."""

    def noise(layer: int, longest: float, octaves: int) -> Block:
        return _fractal(rows, columns, seed * 100 + layer, longest, octaves)

    height = noise(0, 900, 6)  # terrain; below 0.44 is sea
    grain = noise(1, 6, 3)
    forest = _ramp(noise(2, 500, 6), 0.485, 0.515)
    # Fields with straight, hard edges: blurred land would look like haze, also to a network.
    field = _hash((rows // 23)[:, None], (columns // 41)[None, :], seed * 100 + 5)
    land = _mix((96, 100, 62), (142, 122, 88), field)
    land += (np.array((40, 62, 36), "float32")[:, None, None] - land) * forest
    land += 60 * (grain - 0.5)
    sea = _mix((14, 34, 56), (30, 66, 78), _ramp(height, 0.3, 0.44)) + 8 * (grain - 0.5)
    ground = sea + (land - sea) * _ramp(height, 0.437, 0.443)

    billows = noise(4, 60, 5)
    opacity = _opacity(noise(3, 420, 6), billows)
    # The sun stands in the south-east: shadows fall 600 m to the north-west.
    shadow = _opacity(
        *(
            _fractal(rows + 60, columns + 60, seed * 100 + layer, longest, octaves)
            for layer, longest, octaves in ((3, 420, 6), (4, 60, 5))
        )
    )
    ground = ground * (1 - 0.45 * shadow * (1 - opacity))
    white = _mix((205, 208, 214), (252, 252, 252), _ramp(billows, 0.35, 0.65))
    pixels = ground + (white - ground) * opacity
    return (
        np.clip(pixels, 0, 255).astype("uint8"),
        (opacity >= 0.5).astype("uint8"),
    )


def _opacity(large: Block, small: Block) -> Block:
    """Decks where the large noise is high, their edges frayed by the small one."""
    return _ramp(large + 0.25 * (small - 0.5), 0.55, 0.63)


def _ramp(values: Block, low: float, high: float) -> Block:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _mix(first: tuple[int, ...], second: tuple[int, ...], share: Block) -> Block:
    """(3, y, x) between two colours."""
    a, b = (np.array(colour, "float32")[:, None, None] for colour in (first, second))
    return a + (b - a) * share


def _fractal(rows: Block, columns: Block, seed: int, longest: float, octaves: int) -> Block:
    """Fractal value noise, 0 to 1, by absolute pixel position (Perlin 1985; smoothstep lattice)."""
    total = np.zeros((len(rows), len(columns)), "float32")
    weight = 0.0
    for octave in range(octaves):
        share = 0.5**octave
        total += share * _value_noise(rows, columns, seed * 16 + octave, longest * 0.5**octave)
        weight += share
    return total / np.float32(weight)


def _value_noise(rows: Block, columns: Block, seed: int, period: float) -> Block:
    cells, shares = [], []
    for at in (rows, columns):
        position = at / period
        cell = np.floor(position).astype("int64")
        t = (position - cell).astype("float32")
        cells.append(cell)
        shares.append(t * t * (3 - 2 * t))
    (cy, cx), (ty, tx) = cells, shares
    y0, x0 = cy.min(), cx.min()
    lattice = _hash(
        np.arange(y0, cy.max() + 2)[:, None], np.arange(x0, cx.max() + 2)[None, :], seed
    )
    by_row = lattice[cy - y0] + ty[:, None] * (lattice[cy - y0 + 1] - lattice[cy - y0])
    left, right = by_row[:, cx - x0], by_row[:, cx - x0 + 1]
    return left + tx * (right - left)


def _hash(y: Block, x: Block, seed: int) -> Block:
    """A uniform number 0 to 1 for each lattice point (the 64-bit finaliser of SplitMix, 2014)."""
    with np.errstate(over="ignore"):
        z: Block = (
            y.astype("uint64") * np.uint64(0x9E3779B97F4A7C15)
            + x.astype("uint64") * np.uint64(0xC2B2AE3D27D4EB4F)
            + np.uint64(seed) * np.uint64(0x165667B19E3779F9)
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype("float32") / np.float32(2**24)
