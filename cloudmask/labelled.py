"""Images with their labels: opened lazily, checked, cut into chunks and read chunk by chunk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import xarray as xr

from cloudmask.augment import Source
from cloudmask.checks import real, settle, whole
from cloudmask.chunks import Block, edges
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.fill import fill_nodata
from cloudmask.grid import grid_of
from cloudmask.manifest import Example
from cloudmask.mask import mask_or_probability
from cloudmask.planes import open_label, open_valid
from cloudmask.readers.protocol import version_of
from cloudmask.scene import describe, open_scene
from cloudmask.stretch import check_stretch

LONGEST = 1024
"""Height and width of a chunk, read whole for a few patches."""

_UNKNOWN = 254
"""Stands for a value of a label that means nothing."""


@dataclass(frozen=True)
class Reading:
    """How images and labels become pixels and classes."""

    scale: float | None = None
    """Value that maps to 255 in images that are not uint8 and have none in the manifest."""
    stretch: float | None = None
    """Or: percentile to clip."""
    nodata: float | None = None
    """Value of images that is nodata, besides what they declare."""
    cloud: tuple[int, ...] | None = None
    """Values of a label that mean cloud; all others mean clear, but for 255 and what the label
    declares as nodata: not scored. None: labels are 0, 1 and 255."""

    def __post_init__(self) -> None:
        check_stretch(self.scale, self.stretch)
        for name in ("scale", "stretch", "nodata"):
            if (number := getattr(self, name)) is not None:
                settle(self, **{name: real(name, number)})
        if self.cloud is None:
            return
        if not isinstance(self.cloud, Iterable):
            raise ValueError(f"cloud is {self.cloud!r}: give a tuple, such as (1,)")
        settle(self, cloud=tuple(whole("cloud", value) for value in self.cloud))
        outside = [value for value in self.cloud if not 0 <= value <= NODATA]
        if outside:
            raise ValueError(f"cloud is {outside[0]}: values of a label are 0 to {NODATA}")


@dataclass(frozen=True)
class LabelledChunk:
    """A window of a labelled image."""

    example: Example
    rows: tuple[int, int]
    """First row, and the one after the last."""
    columns: tuple[int, int]
    """First column, and the one after the last."""
    clear: int
    """Pixels labelled clear."""
    cloud: int
    """Pixels labelled cloud."""
    versions: tuple[str, str]
    """Of image and label when these were counted: to ask a large store for its own takes long."""


def open_pair(
    example: Example, reading: Reading, chunk: int = LONGEST
) -> tuple[xr.DataArray, xr.DataArray]:
    """Open an image and its label lazily, in the same chunks.

    Returns
    -------
    scene : (band, y, x) DataArray
        As `open_scene` gives it.
    label : (y, x) DataArray
        uint8: 0 clear, 1 cloud, 255 not scored.

    Raises
    ------
    ValueError
        They differ in shape or grid, or the radiometry is not given. While the label is computed:
        it has values that are not known.
    """
    return _open_pair(example, reading, chunk, _versions_of(example))


def _versions_of(example: Example) -> tuple[str, str]:
    return version_of(example.image), version_of(example.label)


@lru_cache(maxsize=4096)
def _open_pair(
    example: Example,
    reading: Reading,
    chunk: int,
    versions: tuple[str, str],  # noqa: ARG001  # what was overwritten is not taken from the cache
) -> tuple[xr.DataArray, xr.DataArray]:
    facts = describe(example.image, bands=(1,))
    if facts["bands"] < 3:
        raise ValueError(
            f"{example.image} has {facts['bands']} of the three bands that an image has here: "
            "write red, green and blue to one file (gdal_translate -b 1 -b 1 -b 1 makes three of "
            "one)"
        )
    foreign = facts["dtype"] != "uint8"
    given = reading if foreign and example.scale is None else Reading(scale=example.scale)
    try:
        scene = open_scene(
            example.image,
            scale=given.scale,
            stretch=given.stretch,
            nodata=reading.nodata,
            chunk=chunk,
        )
    except ValueError as error:
        raise ValueError(f"{example.image}: {error}") from error
    label = classes_of(open_label(example.label, chunk=chunk), reading, example.label)
    _check_pair(example, scene, label)
    _, rows, columns = scene.data.chunks
    return scene, label.chunk({"y": rows, "x": columns})


def labelled_chunks(examples: Sequence[Example], reading: Reading) -> list[LabelledChunk]:
    """Read every label once, check it against its image's header, and count its classes.

    Of an image that may be nodata it is read, too, where that is.

    Returns
    -------
    list of LabelledChunk
        Those with at least one scored pixel.

    Raises
    ------
    ValueError
        Image and label differ in shape or grid; a label has values that are not known.
    """
    chunks = []
    for example in examples:
        versions = _versions_of(example)
        _, label = _open_pair(example, reading, LONGEST, versions)
        data = da.asarray(label.data)
        # A frame of nodata is often labelled clear, and teaches nothing.
        valid = open_valid(example.image, nodata=reading.nodata, chunk=data.chunks).data
        pairs = zip(data.to_delayed().ravel(), valid.to_delayed().ravel(), strict=True)
        counts = dask.compute(*[dask.delayed(_count)(*pair) for pair in pairs])
        windows = [
            (rows, columns)
            for rows in pairwise(edges(data.chunks[0]))
            for columns in pairwise(edges(data.chunks[1]))
        ]
        for (rows, columns), (clear, cloud) in zip(windows, counts, strict=True):
            if cloud + clear:
                chunks.append(LabelledChunk(example, rows, columns, clear, cloud, versions))
    return chunks


def read(chunk: LabelledChunk, reading: Reading) -> Source:
    """Read one chunk: pixels 0–1 with nodata filled, labels with nodata not scored."""
    scene, label = _open_pair(chunk.example, reading, LONGEST, chunk.versions)
    window = {"y": slice(*chunk.rows), "x": slice(*chunk.columns)}
    # Not by dask's configuration, which is one for all threads: others are reading, too.
    pixels, classes = dask.compute(
        scene.isel(window).data, label.isel(window).data, scheduler="synchronous"
    )
    pixels = np.moveaxis(pixels, 0, -1)
    valid = np.asarray(np.isfinite(pixels).all(axis=-1))
    filled = fill_nodata(pixels.astype("float32"), valid) / np.float32(255)
    return Source(filled, np.where(valid, classes, np.uint8(NODATA)), chunk.example.gsd)


def classes_of(label: xr.DataArray, reading: Reading, name: str) -> xr.DataArray:
    """Values of a label as 0 clear, 1 cloud and 255 not scored, lazily.

    What the label declares as nodata is not scored, unless it is 0: a raster made of polygons of
    clouds often declares that, and means clear.

    Raises
    ------
    ValueError
        It is not uint8. While it is computed: it has values that are not known.
    """
    if label.dtype.kind == "f" and "flag_values" in label.attrs:
        label = mask_or_probability(label)  # a mask, as xarray reads it
    if label.dtype != np.uint8:
        raise ValueError(
            f"{name} is {label.dtype}: a label is uint8 (0, 1, 255), convert it (gdal_translate "
            "-ot Byte, or fillna(255).astype('uint8'))"
        )
    meaning = np.full(NODATA + 1, _UNKNOWN if reading.cloud is None else CLEAR, "uint8")
    meaning[CLEAR], meaning[NODATA] = CLEAR, NODATA
    if (declared := label.attrs.get("_FillValue", NODATA)) in range(1, NODATA):
        meaning[int(declared)] = NODATA
    meaning[list((CLOUD,) if reading.cloud is None else reading.cloud)] = CLOUD

    def classify(block: Block) -> Block:
        classes = meaning[block]
        if (unknown := np.unique(block[classes == _UNKNOWN])).size:
            raise ValueError(
                f"{name} has the values {', '.join(map(str, unknown))}: a label has 0, 1 and 255; "
                f"say which mean cloud, such as --cloud {unknown[0]} (cloud=({unknown[0]},))"
            )
        return classes

    return label.copy(data=da.asarray(label.data).map_blocks(classify, dtype="uint8"))


def longest_short_side(chunks: Sequence[LabelledChunk]) -> int:
    """Side of the largest square that fits into one of these chunks."""
    return max(
        min(chunk.rows[1] - chunk.rows[0], chunk.columns[1] - chunk.columns[0]) for chunk in chunks
    )


def _check_pair(example: Example, scene: xr.DataArray, label: xr.DataArray) -> None:
    if scene.shape[1:] != label.shape:
        raise ValueError(
            f"{example.label} is {label.shape[0]} × {label.shape[1]} pixels, "
            f"{example.image} {scene.shape[1]} × {scene.shape[2]}: bring them to one grid, or name "
            "the same part of both"
        )
    if grid_of(scene).lies_elsewhere(grid_of(label)):
        raise ValueError(
            f"{example.label} lies elsewhere than {example.image}: bring them to one grid"
        )


def _count(classes: Block, valid: Block) -> tuple[int, int]:
    """Valid pixels that are clear, and those that are cloud."""
    return int((valid & (classes == CLEAR)).sum()), int((valid & (classes == CLOUD)).sum())
