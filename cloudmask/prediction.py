"""From a scene to a probability and a mask: DataArray in, lazy DataArray out."""

import math
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from cloudmask import chunks
from cloudmask.checks import shown, whole
from cloudmask.fill import CELL
from cloudmask.forward import Blocks, Predictor
from cloudmask.grid import check_array, grid_of
from cloudmask.mask import in_chunks, nan_where_declared, threshold
from cloudmask.origin import as_made, is_as_made
from cloudmask.paths import is_remote, is_same, resolved
from cloudmask.readers.protocol import version_of
from cloudmask.scene import default_chunk
from cloudmask.windows import WINDOWS


def segment(scene: xr.DataArray, model: Predictor, *, overlap: int | None = None) -> xr.DataArray:
    """Find the clouds of a scene: `predict`, then `threshold` at the model's own.

    Parameters
    ----------
    scene, model, overlap
        As for `predict`.

    Returns
    -------
    (…, y, x) DataArray
        uint8: 0 clear, 1 cloud, 255 nodata; lazy.

    Raises
    ------
    ValueError
        As for `predict`.
    """
    return threshold(predict(scene, model, overlap=overlap), model.threshold)


def predict(scene: xr.DataArray, model: Predictor, *, overlap: int | None = None) -> xr.DataArray:
    """Apply a network to every chunk of a scene, lazily.

    Parameters
    ----------
    scene : (…, band, y, x) DataArray
        RGB on the 0–255 scale, as `open_scene` gives it: uint8, or float. Nodata, in any band, is
        NaN, or the value that the array declares (``scene.rio.nodata``). Dimensions before ``band``
        pass through. Floats are taken as they are: bring reflectance to 0–255 first.
    model : Predictor
        Such as `load_model()`.
    overlap : int, optional
        Context around each chunk in pixels, a multiple of the model's stride; default is the
        model's own, at which the result does not depend on the chunks.

    Returns
    -------
    (…, y, x) DataArray
        Probability of cloud, float32, NaN where nodata; CRS, transform and coordinates kept. A
        chunk takes (chunk + 2 · overlap)² pixels through the network; one without a valid pixel
        takes none.

    Raises
    ------
    ValueError
        Dimensions, type, number of bands or overlap do not fit.
    """
    _check(scene)
    check_model(model)
    halo = check_overlap(model, overlap)
    given = scene
    seen_as = nan_where_declared(scene.isel(y=slice(0), x=slice(0))).dtype
    side = default_chunk(seen_as, max(scene.sizes["y"], scene.sizes["x"]))
    scene = nan_where_declared(in_chunks(scene.transpose(..., "band", "y", "x"), side))
    step, depth = step_and_depth(scene.dtype, model.stride, halo)
    whole_scene = da.asarray(scene.data)
    pixels = _laid_out(whole_scene, step, depth)
    blocks = Blocks(model, halo, depth - halo, tuple(map(chunks.edges, pixels.chunks[-2:])))
    meta = np.empty((0,) * (pixels.ndim - 1), "float32")
    windows = scene.encoding.get(WINDOWS)
    if windows is not None and windows.are_of(pixels) and not windows.is_striped:
        # Each task reads its own halo. To wait for the chunks around it would hold rows of chunks
        # in memory, the more of them the wider the scene.
        data = da.map_blocks(
            blocks.read,
            windows.load,
            chunks=pixels.chunks[-2:],
            dtype="float32",
            meta=meta,
            token=da.core.tokenize(pixels.name, blocks),
        )
    else:
        data = da.map_blocks(
            blocks,
            _overlapped(pixels, depth),
            chunks=pixels.chunks[:-3] + pixels.chunks[-2:],
            drop_axis=pixels.ndim - 3,
            dtype="float32",
            meta=meta,
        )
    probability = xr.DataArray(
        data,
        dims=[dim for dim in scene.dims if dim != "band"],
        coords={k: v for k, v in scene.coords.items() if "band" not in v.dims},
        attrs={
            "long_name": "probability of cloud",
            "units": "1",
            "threshold": model.threshold,
            "overlap": halo,
            "model_grid": list(scene.shape[-2:]),  # which an enlarged mask does not show
            **_source_of(given, whole_scene.name),
            **getattr(model, "provenance", {"model": model.name}),
        },
        name="probability",
    )
    # The name of the coordinate that holds the CRS, where it is not "spatial_ref".
    if (mapping := given.rio.grid_mapping) in probability.coords:
        probability.encoding = {"grid_mapping": mapping}
    return _placed_as(given, as_made(probability))


def _source_of(scene: xr.DataArray, pixels: str) -> dict[str, Any]:
    """What `open_scene` noted of a scene; or else the file that another reader says it is from.

    A file keeps attributes of the scene that it was made from. Where the array is not the one that
    `open_scene` returned, dask's name of it, `pixels`, tells it from others: that goes by what it
    was made from, and how; but behind a URL it is another each time.
    """
    noted = {str(k): v for k, v in scene.attrs.items() if str(k).startswith("scene_")}
    source = scene.encoding.get("source")
    if isinstance(source, str) and not is_same(str(noted.get("scene_source")), source):
        noted = {"scene_source": resolved(source), "scene_version": version_of(source)}
    if is_as_made(scene) or is_remote(str(noted.get("scene_source"))):
        return noted
    return {**noted, "scene_pixels": pixels}


def _placed_as(scene: xr.DataArray, probability: xr.DataArray) -> xr.DataArray:
    """Where the scene lies, if its attributes tell, which stay behind, or a CRS as satpy has it."""
    told = scene.coords.get("crs")
    if told is not None and (told.dtype != object or told.dims):  # satpy's is a scalar object
        told = None
    if told is None and not {"crs", "transform"} & scene.attrs.keys():
        return probability
    try:
        if told is not None:
            scene, probability = (
                array.drop_vars("crs").rio.write_crs(told.item()) for array in (scene, probability)
            )
        grid = grid_of(scene)
    except (RuntimeError, TypeError, ValueError):  # pyproj's, and others: they mean something else
        return probability
    return probability if grid_of(probability) == grid else grid.attach(probability)


def _check(scene: Any) -> None:
    if isinstance(scene, xr.Dataset):
        raise ValueError(
            f"this is a Dataset of {', '.join(map(str, scene.data_vars)) or 'nothing'}: give one "
            "of its arrays, or join bands, dataset[[RED, GREEN, BLUE]].to_array('band'), and give "
            "that their nodata again (rio.write_nodata)"
        )
    check_array(scene)
    missing = {"band", "y", "x"} - set(scene.dims)
    if missing:
        raise ValueError(
            f"the scene's dimensions are {', '.join(map(str, scene.dims))}: name them "
            "(…, band, y, x), for instance with DataArray.rename; xarray.concat joins bands"
        )
    if scene.sizes["band"] != 3:
        raise ValueError(
            f"the scene has {scene.sizes['band']} bands: select red, green and blue, such as "
            "scene.sel(band=[1, 2, 3])"
        )
    if 0 in scene.shape:
        raise ValueError(f"the scene has no pixel, {dict(scene.sizes)}: select some")
    if scene.dtype != np.uint8 and scene.dtype.kind != "f":
        raise ValueError(
            f"the scene is {scene.dtype}: bring it to 0–255 first, as open_scene does with scale "
            "or stretch"
        )


def check_model(model: object) -> None:
    """Refuse what finds no clouds, such as a model's name, with a ValueError."""
    needed = ("name", "stride", "overlap", "window", "threshold")
    lacking = [name for name in needed if not hasattr(model, name)]
    if callable(model) and 0 < len(lacking) < len(needed) - 1:  # a function has a name, too
        raise ValueError(f"the model has no {', '.join(lacking)}: see cloudmask.forward.Predictor")
    if not callable(model) or lacking:
        raise ValueError(f"the model is {shown(model)}: give what load_model returns")


def check_overlap(model: Predictor, overlap: int | None) -> int:
    """The halo in force; a ValueError where `overlap` does not suit the model."""
    if overlap is None:
        return model.overlap
    overlap = whole("overlap", overlap)
    if overlap < 0 or overlap % model.stride:
        nearest = chunks.round_up(max(overlap, 0), model.stride)
        raise ValueError(
            f"overlap is {overlap}: it must be a multiple of the model's stride "
            f"{model.stride}, such as {nearest}"
        )
    if model.window is not None and overlap < model.overlap:
        raise ValueError(
            f"overlap is {overlap}: {model.name} blends windows of {model.window} pixels and "
            f"needs {model.overlap}"
        )
    return overlap


def step_and_depth(dtype: np.dtype[Any], stride: int, halo: int) -> tuple[int, int]:
    """What chunks of a scene must begin on a multiple of, and what is read around each."""
    if dtype.kind != "f":
        return stride, halo
    # Filling nodata looks one cell beyond the halo, and goes by the scene's grid of cells, on which
    # every block must therefore begin. The network does not see this rim.
    return math.lcm(stride, CELL), chunks.round_up(halo + CELL, CELL)


def _laid_out(pixels: da.Array, stride: int, depth: int) -> da.Array:
    """Chunks that start on the stride and are as long as the halo; as they are, if they do."""
    wanted = []
    for lengths, size in zip(pixels.chunks[-2:], pixels.shape[-2:], strict=True):
        if chunks.is_layout(lengths, stride=stride, overlap=depth):
            wanted.append(lengths)
        else:
            side = max(pixels.shape[-2:])
            chunk = max(lengths) if len(lengths) > 1 else default_chunk(pixels.dtype, side)
            wanted.append(chunks.layout(size, chunk, stride=stride, overlap=depth))
    leading = ((1,) * size for size in pixels.shape[:-3])
    return pixels.rechunk((*leading, (3,), *wanted))


def _overlapped(pixels: da.Array, depth: int) -> da.Array:
    """Chunks with a halo, but for the scene's edges."""
    axes = range(pixels.ndim - 2, pixels.ndim)
    return da.overlap.overlap(
        pixels,
        depth={axis: depth if pixels.numblocks[axis] > 1 else 0 for axis in axes},
        boundary="none",
        allow_rechunk=False,
    )
