"""Open a raster by its header: what it refuses, and how GDAL is told of nodata."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio._path import _parse_path  # rasterio.path, without its warning
from rasterio.enums import ColorInterp, MaskFlags

from cloudmask.errors import first_line
from cloudmask.grid import Grid
from cloudmask.paths import is_remote
from cloudmask.readers.files import GDAL_OPTIONS, parts_of
from cloudmask.readers.handles import forget
from cloudmask.readers.protocol import (
    DTYPES,
    check_nodata,
    interruptibly,
    listed,
    opening_of,
    version_of,
)
from cloudmask.readers.raster import RasterReader

_VERSION = 200
"""Characters of a version: that of a VRT would grow with its tiles."""


def open_raster(path: str, bands: tuple[int, ...], nodata: float | None) -> RasterReader:
    """Open a raster by what its header says; errors as for `open_reader`."""

    def opened() -> rasterio.DatasetReader:
        with rasterio.Env(**GDAL_OPTIONS):
            forget(path)
            return rasterio.open(path)

    try:
        dataset = interruptibly(opened) if is_remote(path) else opened()
    except rasterio.errors.RasterioIOError as error:
        reason = first_line(error).removeprefix(f"'{path}' ").removesuffix(".")
        if path.lower().endswith(".zip"):
            reason += f": name a file in it, /vsizip/{_parse_path(path).as_vsi()}/FILE"
        raise OSError(f"{path} cannot be opened: {reason}") from error
    # Its mask, too, is looked for in the time that is set, when it is asked of; Ctrl-C waits.
    with rasterio.Env(**GDAL_OPTIONS), dataset:
        if len(bands) > 1 and ColorInterp.palette in dataset.colorinterp:
            raise ValueError(
                f"{path} has a palette, its values are numbers of colours: write the colours "
                "themselves (gdal_translate -expand rgb)"
            )
        if dataset.count == 0 and dataset.subdatasets:
            raise ValueError(
                f"{path} holds {len(dataset.subdatasets)} rasters: name one of them, such as "
                f"{dataset.subdatasets[0]}"
            )
        if max(bands) > dataset.count:
            count, some = dataset.count, ", such as 1,1,1" * (dataset.count < 3)
            raise ValueError(
                f"{path} has {count} band{'s' * (count > 1)}, bands {listed(bands)} were asked "
                f"for: pass bands within 1 to {count}{some}"
            )
        dtypes = {dataset.dtypes[band - 1] for band in bands}
        if len(dtypes) > 1 or not dtypes <= set(DTYPES):
            raise ValueError(
                f"{path} holds {', '.join(sorted(dtypes))}: convert it to one of "
                f"{', '.join(DTYPES)} (gdal_translate -ot)"
            )
        dtype = np.dtype(dtypes.pop())
        check_nodata(nodata, dtype)
        crs, transform = dataset.crs, dataset.transform
        flags = [dataset.mask_flag_enums[band - 1] for band in bands]
        is_masked = any(found != [MaskFlags.all_valid] for found in flags)
        name = path
        is_undeclared = dtype.kind == "f" and [MaskFlags.all_valid] in flags
        if nodata is not None or is_undeclared:
            # GDAL must know the value, or averaging would mix it in.
            value = math.nan if nodata is None else nodata
            name = _with_nodata(dataset, [value] * dataset.count, is_masked)
        elif ColorInterp.alpha in dataset.colorinterp and any(MaskFlags.nodata in f for f in flags):
            # The value counts, as GDAL has it: the fourth band of such files seldom is alpha.
            declared = [dataset.nodatavals[band - 1] for band in bands]
            value = next(value for value in declared if value is not None)
            values = [value if own is None else own for own in dataset.nodatavals]
            name = _with_nodata(dataset, values, is_masked=False)
        grid = Grid(dataset.height, dataset.width, transform, crs)
        can_be_nodata = dtype.kind == "f" or nodata is not None or is_masked
        block = dataset.block_shapes[bands[0] - 1]
        version = " ".join(map(version_of, parts_of(dataset, path)))
        if len(version) > _VERSION:  # it crosses to workers with each task
            version = hashlib.sha256(version.encode()).hexdigest()
        packing, colours = _packing(dataset, bands), _colours(dataset, bands)
    return RasterReader(
        path, name, version, bands, grid, dtype, can_be_nodata, block, opening_of(version), packing,
        colours,
    )  # fmt: skip


def _colours(dataset: rasterio.DatasetReader, bands: tuple[int, ...]) -> str:
    """As `Reader.colours`."""
    if len(set(bands)) != 3:
        return ""
    wanted = ColorInterp.red, ColorInterp.green, ColorInterp.blue
    told = dataset.colorinterp
    others = [
        f"band {band} {told[band - 1].name}"
        for band, colour in zip(bands, wanted, strict=True)
        if told[band - 1] != colour and told[band - 1] in (*wanted, ColorInterp.alpha)
    ]
    if not others:
        return ""
    cure = "leave them so only if it is wrong"
    if all(told.count(colour) == 1 for colour in wanted):
        cure = f"give bands {','.join(str(told.index(colour) + 1) for colour in wanted)}"
    return f"{', '.join(others)}, and bands {listed(bands)} are read as red, green and blue: {cure}"


def _packing(dataset: rasterio.DatasetReader, bands: tuple[int, ...]) -> str:
    """As `Reader.packing`."""
    told = []
    for name, values, none in (("scales", dataset.scales, 1), ("offsets", dataset.offsets, 0)):
        of_bands = [values[band - 1] for band in bands]
        if set(of_bands) != {none}:
            told.append(f"{name} {', '.join(f'{value:g}' for value in of_bands)}")
    return " and ".join(told)


def _with_nodata(dataset: rasterio.DatasetReader, nodata: Sequence[float], is_masked: bool) -> str:
    """A VRT document of `dataset` with nodata values of its own for each band.

    What the dataset itself masks becomes nodata as well. https://gdal.org/drivers/raster/vrt
    """
    types = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}
    local = Path(dataset.name)
    # Not of a link what it stands for: masks and overviews lie beside the link.
    path = str(local.absolute()) if local.exists() else _parse_path(dataset.name).as_vsi()
    # Only a simple source lends its overviews, only a complex one its mask.
    source = "ComplexSource" if is_masked else "SimpleSource"
    mask = "<UseMaskBand>true</UseMaskBand>" if is_masked else ""
    bands = "".join(
        # Bands of other types are never read: they only keep the numbers of those behind them.
        f'<VRTRasterBand dataType="{types.get(dataset.dtypes[i - 1], "Byte")}" band="{i}">'
        f"<NoDataValue>{float(nodata[i - 1])!r}</NoDataValue><{source}>"
        f'<SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename>'
        f"<SourceBand>{i}</SourceBand>{mask}</{source}></VRTRasterBand>"
        for i in dataset.indexes
    )
    return (
        f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}">'
        f"{bands}</VRTDataset>"
    )
