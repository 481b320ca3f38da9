import itertools
import logging
import math
import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rioxarray
import xarray as xr
from affine import Affine
from conftest import FakeModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.windows import Window

from cloudmask import load_model, open_label, open_scene, open_valid, segment, write_zarr
from cloudmask.grid import Grid, grid_of
from cloudmask.plan import plan_scene
from cloudmask.readers import open_reader
from cloudmask.readers.raster import RasterReader
from cloudmask.readers.zarr import ZarrReader
from cloudmask.scene import describe, model_grid
from cloudmask.write.geozarr import place_attributes

UTM = CRS.from_epsg(32633)
DTYPES = ("uint8", "uint16", "int16", "float32")

# Every example writes a file of its own name: two within one clock tick would look the same.
names = (f"scene{number}.tif" for number in itertools.count())
reads_files = partial(
    settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def noise(rng, shape, dtype="uint8", low=1, high=255):
    return rng.integers(low, high, shape).astype(dtype)


def area_mean(values, height, width, valid=None):
    """Mean of (band, y, x) over the area of each coarse pixel, valid ones only; NaN if none is."""

    def share(size, parts):
        edges = np.linspace(0, size, parts + 1)[:, None]
        return np.diff(np.clip(edges - np.arange(size), 0, 1), axis=0)

    rows, columns = share(values.shape[1], height), share(values.shape[2], width).T
    valid = np.ones(values.shape[1:], bool) if valid is None else valid
    total = rows @ np.where(valid, values, 0).astype("float64") @ columns
    weight = rows @ valid.astype("float64") @ columns
    return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 1e-9)


def assert_equal_but_at_ties(actual, expected, mean):
    """Equal, but where the mean lies half way: GDAL's weights differ there by their last bit."""
    tie = np.abs(mean % 1 - 0.5) < 1e-4  # a few bits of a float32 near 255
    np.testing.assert_allclose(actual, expected, atol=1)
    np.testing.assert_allclose(np.where(tie, 0, actual), np.where(tie, 0, expected), atol=1e-4)


def values_of(array):
    return array.compute(scheduler="sync").values


# Formats


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("striped.tif", {}),
        ("tiled.TIF", {"tiled": True, "blockxsize": 64, "blockysize": 32}),
        ("deflate.tiff", {"compress": "deflate", "predictor": 2}),
        ("lzw.tif", {"compress": "lzw", "tiled": True, "blockxsize": 16, "blockysize": 16}),
        ("band-interleaved.tif", {"interleave": "band", "compress": "deflate"}),
        ("image.img", {"driver": "HFA"}),
    ],
)
def test_rasters_are_read_as_they_are(make_scene, rng, dtype, name, profile):
    if dtype == "float32" and "predictor" in profile:
        profile = {**profile, "predictor": 3}
    pixels = noise(rng, (3, 90, 110), dtype)
    scene = open_scene(make_scene(pixels, name, **profile), scale=255, chunk=32)
    np.testing.assert_allclose(values_of(scene), pixels, atol=1e-4)
    assert scene.dims == ("band", "y", "x")
    assert scene.rio.crs == UTM


def test_uint8_without_nodata_stays_uint8(make_scene, rng):
    pixels = noise(rng, (3, 10, 12))
    scene = open_scene(make_scene(pixels))
    assert scene.dtype == np.uint8
    np.testing.assert_array_equal(values_of(scene), pixels)


def test_cog(make_scene, tmp_path, rng):
    pixels = noise(rng, (3, 300, 500))
    rasterio.shutil.copy(make_scene(pixels), tmp_path / "cog.tif", driver="COG", compress="deflate")
    np.testing.assert_array_equal(values_of(open_scene(tmp_path / "cog.tif", chunk=128)), pixels)


def test_png(make_scene, tmp_path, rng):
    pixels = noise(rng, (3, 31, 47))
    rasterio.shutil.copy(make_scene(pixels), tmp_path / "scene.png", driver="PNG")
    np.testing.assert_array_equal(values_of(open_scene(tmp_path / "scene.png")), pixels)


def test_jpeg2000(make_scene, tmp_path, rng):
    with rasterio.Env() as env:
        if "JP2OpenJPEG" not in env.drivers():
            pytest.skip("this GDAL has no JPEG 2000 driver")
    pixels = noise(rng, (3, 70, 130))
    rasterio.shutil.copy(
        make_scene(pixels),
        tmp_path / "scene.jp2",
        driver="JP2OpenJPEG",
        QUALITY=100,
        REVERSIBLE="YES",
    )
    scene = open_scene(tmp_path / "scene.jp2", chunk=50)
    np.testing.assert_array_equal(values_of(scene), pixels)
    assert scene.rio.crs == UTM


def separate_vrt(folder, files, shape, dtype="Byte"):
    """What `gdalbuildvrt -separate` makes of files of one band each."""
    bands = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{i}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{file.name}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, file in enumerate(files, start=1)
    )
    path = folder / "scene.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{shape[1]}" rasterYSize="{shape[0]}">'
        f"<SRS>EPSG:32633</SRS><GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>"
        f"{bands}</VRTDataset>"
    )
    return path


def test_vrt_of_single_bands(make_scene, tmp_path, rng):
    pixels = noise(rng, (3, 40, 60))
    files = [make_scene(pixels[i : i + 1], f"band{i}.tif") for i in range(3)]
    scene = open_scene(separate_vrt(tmp_path, files, (40, 60)), chunk=16)
    np.testing.assert_array_equal(values_of(scene), pixels)
    assert scene.rio.bounds() == (500_000, 4_999_600, 500_600, 5_000_000)


def test_bands_are_taken_in_the_order_asked_for(make_scene, rng):
    pixels = noise(rng, (5, 20, 30))
    scene = open_scene(make_scene(pixels), bands=(4, 1, 2))
    np.testing.assert_array_equal(values_of(scene), pixels[[3, 0, 1]])
    assert scene.band.values.tolist() == [4, 1, 2]


def test_one_band_may_stand_for_all_three(make_scene, rng):
    pixels = noise(rng, (1, 20, 30))
    scene = open_scene(make_scene(pixels), bands=(1, 1, 1))
    np.testing.assert_array_equal(values_of(scene), np.repeat(pixels, 3, axis=0))


@pytest.mark.parametrize("nodata", [None, 7])
def test_url(make_scene, server, rng, nodata):
    pixels = noise(rng, (3, 100, 90), low=50)
    pixels[:, :10] = 7
    address = server.url(make_scene(pixels, f"remote{nodata}.tif"))
    scene = open_scene(address, nodata=nodata, chunk=64)
    expected = pixels if nodata is None else np.where(pixels == 7, np.nan, pixels)
    np.testing.assert_array_equal(values_of(scene), expected)


def test_a_window_of_a_url_reads_that_window_only(make_scene, server, rng):
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    path = make_scene(noise(rng, (3, 2048, 2048)), "window.tif", **tiles)
    scene = open_scene(server.url(path), chunk=256)
    values_of(scene[:, :256, :256])
    assert 0 < sum(server.stop()) < 0.2 * path.stat().st_size


@pytest.mark.parametrize("side", [8192, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_decimated_scene_with_overviews_transfers_little_of_it(
    tmp_path_factory, server, rng, side
):
    folder = tmp_path_factory.mktemp("large")
    path, source = folder / f"{side}.tif", folder / "plain.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": side, "width": side}
    with rasterio.open(source, "w", **profile, tiled=True) as dataset:
        for row in range(0, side, 1024):
            strip = noise(rng, (3, min(1024, side - row), side))
            dataset.write(strip, window=Window(0, row, side, strip.shape[1]))
    rasterio.shutil.copy(source, path, driver="COG", num_threads=2)
    scene = open_scene(server.url(path), resize_factor=16, chunk=256)
    assert values_of(scene).shape == (3, side // 16, side // 16)
    assert 0 < sum(server.stop()) < 0.02 * path.stat().st_size


def test_a_scene_behind_a_url_is_stretched_as_the_file_is(make_scene, server, rng):
    path = make_scene(noise(rng, (3, 90, 70), "uint16"))
    local, remote = (values_of(open_scene(one, stretch=2)) for one in (path, server.url(path)))
    np.testing.assert_array_equal(local, remote)


def test_a_server_that_refuses_midway_is_told_of_without_what_signed_the_url(
    make_scene, server, rng
):
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    address = server.url(make_scene(noise(rng, (3, 1024, 1024)), "refuses.tif", **tiles))
    scene = open_scene(f"{address}?sig=secret", chunk=256)
    with pytest.raises(OSError, match=r"/refuses\.tif cannot be read at rows") as told:
        scene.compute(scheduler="sync")
    assert "its server did not give all of it: " in str(told.value)
    assert "secret" not in str(told.value)


def test_a_file_that_hangs_is_given_up_in_the_time_that_is_set(make_scene, server, rng):
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    address = server.url(make_scene(noise(rng, (3, 1024, 1024)), "hangs.tif", **tiles))
    program = f"import cloudmask; cloudmask.open_scene({address!r}, chunk=256).compute()"
    limits = {"GDAL_HTTP_TIMEOUT": "2", "GDAL_HTTP_MAX_RETRY": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | limits, timeout=50,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "hangs.tif cannot be read at rows" in done.stderr.splitlines()[-1]


def test_a_mask_that_a_server_does_not_give_is_given_up_too(make_scene, server, rng):
    """GDAL looks for it when it is asked of, and the process stands still until then."""
    scene = make_scene(noise(rng, (3, 64, 64)), "mute.tif")
    address = server.url(scene)
    Path(server.folder, "mute.tif.msk").touch()
    program = f"""
from cloudmask import open_scene
from cloudmask.readers.files import GDAL_OPTIONS

GDAL_OPTIONS |= {{"GDAL_HTTP_TIMEOUT": "1", "GDAL_HTTP_MAX_RETRY": "0"}}
print(open_scene({address!r}).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=50, capture_output=True, text=True, check=False
    )
    assert done.stdout == "(3, 64, 64)\n", done.stderr


def test_a_url_that_does_not_exist(server):
    with pytest.raises(OSError, match=r"missing.tif cannot be opened") as error:
        open_scene(f"http://127.0.0.1:{server.port}/missing.tif")
    assert "\n" not in str(error.value)


def write_scene_zarr(
    pixels, path, *, zarr_format=3, fill=None, dims=("band", "y", "x"), grid_mapping=True
):
    grid = Grid(*pixels.shape[-2:], from_origin(500_000, 5_000_000, 10, 10), UTM)
    array = grid.attach(xr.DataArray(pixels, dims=("band", "y", "x"), name="scene"))
    if dims != ("band", "y", "x"):
        array = array.transpose(*dims)
    encoding = {"chunks": tuple(min(size, 64) for size in array.shape)}
    if grid_mapping:
        encoding["grid_mapping"] = "spatial_ref"
    if fill is not None:
        encoding["_FillValue"] = fill
    array.to_dataset().to_zarr(
        path, zarr_format=zarr_format, consolidated=False, encoding={"scene": encoding}
    )
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_zarr(tmp_path, rng, zarr_format, dtype):
    pixels = noise(rng, (4, 90, 70), dtype)
    path = write_scene_zarr(pixels, tmp_path / "scene.zarr", zarr_format=zarr_format)
    scene = open_scene(path, bands=(3, 2, 1), scale=255, chunk=50)
    np.testing.assert_allclose(values_of(scene), pixels[[2, 1, 0]], atol=1e-4)
    assert scene.rio.crs == UTM
    assert scene.rio.transform() == from_origin(500_000, 5_000_000, 10, 10)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_zarr_fill_value_is_nodata(tmp_path, rng, dtype):
    pixels = noise(rng, (3, 90, 70), dtype)
    pixels[1, 20:40, 10:30] = 0
    scene = open_scene(write_scene_zarr(pixels, tmp_path / "scene.zarr", fill=0), scale=255)
    expected = np.where((pixels == 0).any(axis=0), np.nan, pixels)
    np.testing.assert_allclose(values_of(scene), expected, atol=1e-4)


@pytest.mark.parametrize("user", [None, 9])
def test_nodata_that_a_zarr_names_in_an_attribute_is_nodata(tmp_path, rng, user):
    """As odc-stac has it; xarray leaves the values as they are."""
    pixels = rng.integers(10, 255, (3, 90, 70), "uint8")
    pixels[1, 20:40, 10:30] = 0
    pixels[2, 50:60] = 9
    array = xr.DataArray(pixels, dims=("band", "y", "x"), attrs={"nodata": 0})
    array.to_dataset(name="scene").to_zarr(tmp_path / "s.zarr", consolidated=False)
    scene = open_scene(tmp_path / "s.zarr", nodata=user)
    hidden = np.isin(pixels, [0, 9] if user else [0]).any(axis=0)
    np.testing.assert_array_equal(np.isnan(values_of(scene)).all(axis=0), hidden)
    np.testing.assert_array_equal(open_valid(tmp_path / "s.zarr", nodata=user), ~hidden)


@pytest.mark.parametrize("nodata", [None, 0])
def test_zarr_that_rioxarray_calls_packed_by_nothing_is_not_packed(
    tmp_path, make_scene, rng, nodata
):
    pixels = noise(rng, (3, 90, 70))
    opened = rioxarray.open_rasterio(make_scene(pixels, nodata=nodata)).rename("scene")
    assert opened.attrs["scale_factor"] == 1
    opened.to_dataset().to_zarr(tmp_path / "scene.zarr", consolidated=False)
    scene = open_scene(tmp_path / "scene.zarr")
    assert scene.dtype == ("uint8" if nodata is None else "float32")
    expected = pixels if nodata is None else np.where((pixels == 0).any(axis=0), np.nan, pixels)
    np.testing.assert_array_equal(values_of(scene), expected)


def test_zarr_whose_array_does_not_name_its_crs(tmp_path, rng):
    """What `to_zarr` makes of an encoding without grid_mapping."""
    pixels = noise(rng, (3, 9, 7))
    path = write_scene_zarr(pixels, tmp_path / "scene.zarr", grid_mapping=False)
    scene = open_scene(path)
    assert scene.rio.crs == UTM
    np.testing.assert_array_equal(values_of(scene), pixels)


def test_zarr_with_consolidated_metadata(tmp_path, rng):
    pixels = noise(rng, (3, 9, 7))
    dataset = xr.Dataset({"scene": (("band", "y", "x"), pixels)})
    dataset.to_zarr(tmp_path / "scene.zarr", zarr_format=2, consolidated=True)
    np.testing.assert_array_equal(values_of(open_scene(tmp_path / "scene.zarr")), pixels)


def test_a_label_of_which_a_server_lists_no_folders(server, rng):
    label = xr.Dataset({"mask": (("y", "x"), rng.integers(0, 2, (9, 7), "uint8"))})
    for consolidated in (True, False):
        label.to_zarr(
            server.folder / f"{consolidated}.zarr", zarr_format=2, consolidated=consolidated
        )
    at = f"http://127.0.0.1:{server.port}"
    np.testing.assert_array_equal(open_label(f"{at}/True.zarr"), label["mask"])
    with pytest.raises(ValueError, match="nor a probability, or its server lists no folders: name"):
        open_label(f"{at}/False.zarr")


def test_zarr_that_is_uint8_without_a_fill_value_stays_uint8(tmp_path, rng):
    pixels = noise(rng, (3, 9, 7))
    scene = open_scene(write_scene_zarr(pixels, tmp_path / "scene.zarr"))
    assert scene.dtype == np.uint8
    np.testing.assert_array_equal(values_of(scene), pixels)


def test_zarr_with_the_bands_last(tmp_path, rng):
    pixels = noise(rng, (3, 90, 50))
    path = write_scene_zarr(pixels, tmp_path / "scene.zarr", dims=("y", "x", "band"))
    np.testing.assert_array_equal(values_of(open_scene(path)), pixels)
    assert describe(path)["block"] == [64, 50]


@pytest.mark.parametrize("suffix", [".zarr", ".zarr/"])
def test_zarr_of_one_pixel(tmp_path, suffix):
    write_scene_zarr(np.array([[[1]], [[2]], [[3]]], "uint8"), tmp_path / "scene.zarr")
    scene = open_scene(f"{tmp_path}/scene{suffix}")
    assert values_of(scene).ravel().tolist() == [1, 2, 3]
    assert scene.rio.bounds() == (500_000, 4_999_990, 500_010, 5_000_000)


def test_zarr_without_georeferencing(tmp_path, rng):
    pixels = noise(rng, (3, 9, 7))
    dataset = xr.Dataset({"scene": (("band", "y", "x"), pixels)})
    dataset.to_zarr(tmp_path / "scene.zarr", consolidated=False)
    scene = open_scene(tmp_path / "scene.zarr", resize_factor=2)
    assert scene.shape == (3, 5, 4)
    assert scene.rio.crs is None
    np.testing.assert_allclose(values_of(scene), area_mean(pixels, 5, 4), atol=0.5 + 1e-6)


@reads_files(max_examples=20)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    factor=st.floats(1, 40),
    chunk=st.integers(5, 120),
    holes=st.booleans(),
)
def test_zarr_coarser_is_the_area_mean_of_each_band_s_valid_pixels(
    tmp_path, height, width, factor, chunk, holes
):
    rng = np.random.default_rng(3)
    pixels = noise(rng, (3, height, width))
    if holes:
        pixels[0][rng.random((height, width)) < 0.4] = 0
    path = write_scene_zarr(pixels, tmp_path / f"{next(names)}.zarr", fill=0 if holes else None)
    scene = open_scene(path, resize_factor=factor, chunk=chunk)
    bands = [area_mean(band[None], *scene.shape[1:], band > 0)[0] for band in pixels]
    expected = np.where(np.isnan(bands).any(axis=0), np.nan, bands)
    np.testing.assert_allclose(values_of(scene), expected, atol=0.5 + 1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: {}, "holds 0 arrays with three dimensions"),
        (
            lambda pixels: {"a": (("band", "y", "x"), pixels), "b": (("band", "y", "x"), pixels)},
            r"holds 2 arrays with three dimensions \(a, b\)",
        ),
        (lambda pixels: {"a": (("band", "y", "x"), pixels[:2])}, "has 2 bands"),
        (lambda pixels: {"a": (("band", "y", "x"), pixels.astype("int64"))}, "holds int64"),
        (lambda pixels: {"a": (("band", "lines", "samples"), pixels)}, "dimensions"),
    ],
)
def test_zarr_that_is_no_scene_is_refused(tmp_path, rng, make, message):
    dataset = xr.Dataset(make(noise(rng, (3, 9, 7))))
    dataset.to_zarr(tmp_path / "scene.zarr", consolidated=False)
    with pytest.raises(ValueError, match=message) as error:
        open_scene(tmp_path / "scene.zarr")
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_zarr_store_is_refused(tmp_path):
    (tmp_path / "scene.zarr").mkdir()
    with pytest.raises(OSError, match="cannot be opened as Zarr"):
        open_scene(tmp_path / "scene.zarr")


# Grids


@reads_files(max_examples=40)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    factor=st.one_of(st.just(1.0), st.floats(1, 1.2), st.floats(1, 50), st.floats(1, 900)),
    chunk=st.integers(1, 300),
    tiled=st.booleans(),
    seed=st.integers(0, 3),
)
def test_any_size_factor_and_chunk_gives_the_area_mean_on_the_scenes_bounds(
    make_scene, height, width, factor, chunk, tiled, seed
):
    pixels = noise(np.random.default_rng(seed), (3, height, width))
    profile = {"tiled": True, "blockxsize": 64, "blockysize": 64} if tiled else {}
    path = make_scene(pixels, next(names), **profile)
    coarse = (math.ceil(height / factor - 1e-9), math.ceil(width / factor - 1e-9))
    # Thousands of chunks would only take time.
    chunk = max(chunk, max(coarse) // 8)

    whole = open_scene(path, resize_factor=factor, chunk=1000)
    parts = open_scene(path, resize_factor=factor, chunk=chunk)
    assert parts.shape == whole.shape == (3, *coarse)
    east, south = 500_000 + 10 * width, 5_000_000 - 10 * height
    assert parts.rio.bounds() == pytest.approx((500_000, south, east, 5_000_000), abs=1e-6)
    assert parts.rio.bounds(recalc=True) == pytest.approx(parts.rio.bounds(), abs=1e-6) or (
        1 in coarse  # nothing to reckon a pixel size from
    )
    whole, parts = values_of(whole), values_of(parts)
    mean = area_mean(pixels, *coarse)
    assert_equal_but_at_ties(parts.astype("float32"), whole.astype("float32"), mean)
    np.testing.assert_allclose(whole, mean, atol=0.5 + 1e-4)


@pytest.mark.parametrize(
    ("size", "factor", "chunk", "coarse"),
    [((13, 13), 13 / 12, 6, (12, 12)), ((2, 3), 2, 1, (1, 2)), ((3, 2), 2, 1, (2, 1))],
)
def test_a_window_longer_by_a_fraction_of_a_pixel_is_averaged_too(
    make_scene, rng, size, factor, chunk, coarse
):
    """GDAL would take 6.5 pixels that become 6 for 6 at full resolution."""
    pixels = noise(rng, (3, *size))
    scene = open_scene(make_scene(pixels), resize_factor=factor, chunk=chunk)
    assert scene.shape[1:] == coarse
    np.testing.assert_allclose(values_of(scene), area_mean(pixels, *coarse), atol=0.5 + 1e-4)


@pytest.mark.parametrize("size", [(3, 2), (5, 4), (301, 200)])
def test_half_the_columns_of_an_odd_number_of_rows(make_scene, rng, size):
    """GDAL averages pairs of columns by a shortcut that forgets the weights of rows."""
    pixels = noise(rng, (3, *size))
    scene = values_of(open_scene(make_scene(pixels), resize_factor=2))
    np.testing.assert_allclose(scene, area_mean(pixels, *scene.shape[1:]), atol=0.5 + 1e-4)


def test_overviews_of_a_scene_are_close_to_its_mean(make_scene, rng):
    """GDAL takes the next finer overview, itself an average that was rounded once."""
    pixels = noise(rng, (3, 512, 640))
    path = make_scene(pixels, tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    scene = values_of(open_scene(path, resize_factor=16, chunk=20))
    np.testing.assert_allclose(scene, area_mean(pixels, 32, 40), atol=2)
    assert describe(path)["overviews"] == [2, 4, 8]


@pytest.mark.parametrize(("level", "side"), [(2, 499), (4, 249)])
def test_a_resolution_just_below_an_overviews_does_not_depend_on_chunks(
    make_scene, rng, level, side
):
    """GDAL takes a window of an overview as it is where it is longer by a part of a pixel."""
    path = make_scene(noise(rng, (3, 1000, 1000)), tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([level], rasterio.enums.Resampling.average)
    whole = values_of(open_scene(path, resize_factor=1000 / side, chunk=1000))
    parts = values_of(open_scene(path, resize_factor=1000 / side, chunk=100))
    np.testing.assert_allclose(parts.astype("float32"), whole, atol=1)


def test_the_version_of_a_mosaic_does_not_grow_with_its_tiles(make_scene, tmp_path):
    tiles = [str(make_scene(np.ones((3, 8, 8), "uint8"), f"{i}.tif")) for i in range(30)]
    rasterio.shutil.copy(tiles[0], tmp_path / "m.vrt", driver="VRT")
    text = (tmp_path / "m.vrt").read_text()
    source = text[text.index("<SimpleSource>") : text.index("</SimpleSource>") + 15]
    more = "".join(source.replace("0.tif", Path(tile).name) for tile in tiles)
    (tmp_path / "m.vrt").write_text(text.replace(source, more))
    scene = open_scene(tmp_path / "m.vrt")
    assert len(scene.attrs["scene_version"]) < 200
    os.utime(tiles[-1], (1, 1))
    assert open_scene(tmp_path / "m.vrt").attrs["scene_version"] != scene.attrs["scene_version"]


def test_a_zarr_in_rows_is_read_in_rows(tmp_path, rng, monkeypatch):
    pixels = noise(rng, (3, 512, 2048))
    array = xr.DataArray(pixels, dims=("band", "y", "x"), name="scene")
    array.to_dataset().to_zarr(
        tmp_path / "s.zarr", consolidated=False, encoding={"scene": {"chunks": (3, 128, 2048)}}
    )
    read = []
    values = ZarrReader._values
    monkeypatch.setattr(ZarrReader, "_values", lambda *at: read.append(at[2]) or values(*at))
    np.testing.assert_array_equal(open_scene(tmp_path / "s.zarr", chunk=256), pixels)
    assert read == [slice(0, 2048)] * len(read)


def test_gsd_in_metres_reads_that_grid(make_scene, rng):
    pixels = noise(rng, (3, 100, 130))
    scene = open_scene(make_scene(pixels), gsd=30)
    assert scene.shape == (3, 34, 44)
    assert scene.rio.bounds() == pytest.approx((500_000, 4_999_000, 501_300, 5_000_000))
    assert grid_of(scene).gsd == pytest.approx((1000 / 34, 1300 / 44))


def test_gsd_in_a_geographic_crs_takes_each_axis_by_itself(make_scene, rng):
    """At 60° north a degree of longitude is half as long: columns shrink half as much."""
    step = 1e-3
    pixels = noise(rng, (3, 200, 200))
    path = make_scene(pixels, crs="EPSG:4326", transform=from_origin(10, 60.1, step, step))
    scene = open_scene(path, gsd=1000)
    own_y, own_x = open_reader(str(path), (1, 2, 3), None).grid.gsd
    assert (own_y, own_x) == pytest.approx((111.41, 55.80), rel=1e-3)
    assert scene.shape == (3, math.ceil(200 * own_y / 1000), math.ceil(200 * own_x / 1000))
    assert scene.rio.bounds() == pytest.approx((10, 59.9, 10.2, 60.1))


def test_gsd_between_the_axes_of_a_geographic_scene_coarsens_one_axis(make_scene, rng):
    path = make_scene(
        noise(rng, (3, 200, 200)), crs="EPSG:4326", transform=from_origin(10, 60.1, 1e-3, 1e-3)
    )
    assert open_scene(path, gsd=80).shape == (3, 200, math.ceil(200 * 55.8 / 80))


def test_a_gsd_equal_to_the_scenes_own_is_the_scene(make_scene, rng):
    pixels = noise(rng, (3, 30, 40))
    np.testing.assert_array_equal(values_of(open_scene(make_scene(pixels), gsd=10)), pixels)


@pytest.mark.parametrize("gsd", [0, -5, math.nan, math.inf])
def test_a_gsd_that_is_no_length_is_refused(make_scene, rng, gsd):
    with pytest.raises(ValueError, match=f"gsd is {gsd}"):
        open_scene(make_scene(noise(rng, (3, 8, 8))), gsd=gsd)


def test_a_gsd_finer_than_the_scene_is_refused(make_scene, rng):
    with pytest.raises(ValueError, match=r"gsd is 9, finer than the scene's own 10.*10 or more"):
        open_scene(make_scene(noise(rng, (3, 8, 8))), gsd=9)


@pytest.mark.parametrize("factor", [0, 0.5, -1, math.nan, math.inf])
def test_a_factor_below_1_is_refused(make_scene, rng, factor):
    with pytest.raises(ValueError, match=r"resize_factor is .*1 or more"):
        open_scene(make_scene(noise(rng, (3, 8, 8))), resize_factor=factor)


def test_gsd_and_factor_together_are_refused(make_scene, rng):
    with pytest.raises(ValueError, match="both given"):
        open_scene(make_scene(noise(rng, (3, 8, 8))), gsd=20, resize_factor=2)


def test_without_a_crs_pixels_are_the_unit(make_scene, rng, caplog):
    path = make_scene(noise(rng, (3, 30, 40)), crs=None, transform=Affine.identity())
    with caplog.at_level(logging.INFO, logger="cloudmask"):
        scene = open_scene(path, gsd=10)
    assert scene.shape == (3, 3, 4)
    assert scene.rio.crs is None
    assert scene.rio.bounds() == (0, 0, 40, 30)
    assert sum("unit of gsd" in message for message in caplog.messages) == 1


def test_a_rotated_scene_keeps_its_transform(make_scene, rng):
    turned = Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(10, -10)
    pixels = noise(rng, (3, 30, 40))
    path = make_scene(pixels, transform=turned)
    np.testing.assert_array_equal(values_of(open_scene(path)), pixels)
    scene = open_scene(path, gsd=20)
    assert scene.shape == (3, 15, 20)
    assert scene.rio.transform().almost_equals(turned @ Affine.scale(2))
    np.testing.assert_allclose(values_of(scene), area_mean(pixels, 15, 20), atol=1)


def test_a_grid_may_be_given(make_scene, rng):
    path = make_scene(noise(rng, (3, 30, 40)))
    grid = model_grid(open_reader(str(path), (1, 2, 3), None).grid, None, 3)
    assert grid_of(open_scene(path, grid=grid)) == grid


# Nodata


def with_holes(rng, height=60, width=80):
    """Noise with a corner, a column, a lonely valid pixel, and a speckle in the last band only."""
    pixels = noise(rng, (3, height, width))
    pixels[:, :20, :20] = 0
    pixels[:, 7, 7] = 99
    pixels[:, :, 50] = 0
    pixels[2][rng.random((height, width)) < 0.1] = 0
    return pixels


@pytest.mark.parametrize("dtype", DTYPES)
def test_nodata_value_of_the_dataset(make_scene, rng, dtype):
    pixels = with_holes(rng).astype(dtype)
    path = make_scene(pixels, nodata=0)
    invalid = (pixels == 0).any(axis=0)
    scene = values_of(open_scene(path, scale=255, chunk=32))
    np.testing.assert_allclose(scene, np.where(invalid, np.nan, pixels), atol=1e-4)
    np.testing.assert_array_equal(open_valid(path, chunk=32), ~invalid)


def test_only_the_bands_in_use_count(make_scene, rng):
    pixels = np.concatenate([noise(rng, (3, 20, 30)), np.zeros((1, 20, 30), "uint8")])
    assert not np.isnan(values_of(open_scene(make_scene(pixels, nodata=0)))).any()


def test_internal_mask(make_scene, rng):
    pixels = noise(rng, (3, 60, 80))
    seen = np.where(rng.random((60, 80)) < 0.7, 255, 0).astype("uint8")
    path = make_scene(pixels, mask=seen, tiled=True, blockxsize=16, blockysize=16)
    expected = np.where(seen > 0, pixels, np.nan)
    np.testing.assert_array_equal(values_of(open_scene(path, chunk=32)), expected)
    np.testing.assert_array_equal(open_valid(path), seen > 0)


def test_a_mask_beside_a_link_counts_with_a_nodata_value_too(make_scene, tmp_path, rng):
    held = make_scene(noise(rng, (3, 60, 80)), name="held.tif")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "scene.tif"
    link.symlink_to(held)
    seen = np.where(rng.random((60, 80)) < 0.7, 255, 0).astype("uint8")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(link, "r+") as dataset:
        dataset.write_mask(seen)
    assert link.with_name("scene.tif.msk").exists()
    values = values_of(open_scene(link, nodata=7))
    assert np.isnan(values[:, seen == 0]).all()
    np.testing.assert_array_equal(open_valid(link), seen > 0)


def test_what_replaces_a_file_in_gdals_memory_is_read(rng):
    for _ in range(2):
        pixels = noise(rng, (3, 60, 80))
        profile = {"driver": "GTiff", "height": 60, "width": 80, "count": 3, "dtype": "uint8"}
        with rasterio.open("/vsimem/cloudmask.tif", "w", **profile) as dataset:
            dataset.write(pixels)
        with dask.config.set(scheduler="synchronous"):  # in one thread, whose handles are kept
            np.testing.assert_array_equal(values_of(open_scene("/vsimem/cloudmask.tif")), pixels)


def test_alpha_band(make_scene, rng):
    pixels = noise(rng, (4, 60, 80))
    pixels[3] = np.where(rng.random((60, 80)) < 0.7, 255, 0)
    path = make_scene(pixels, photometric="RGB", alpha="yes")
    expected = np.where(pixels[3] > 0, pixels[:3], np.nan)
    np.testing.assert_array_equal(values_of(open_scene(path, chunk=32)), expected)


def test_alpha_band_beside_nodata_of_another_than_the_first(make_scene, rng):
    pixels = noise(rng, (4, 60, 80))
    path = make_scene(pixels, photometric="RGB", alpha="yes")
    vrt = path.with_suffix(".vrt")
    rasterio.shutil.copy(path, vrt, driver="VRT")
    second = '<VRTRasterBand dataType="Byte" band="2"'
    text = vrt.read_text()
    assert second in text
    at = text.index(">", text.index(second)) + 1
    vrt.write_text(f"{text[:at]}<NoDataValue>7</NoDataValue>{text[at:]}")
    expected = np.where((pixels[:3] == 7).any(axis=0), np.nan, pixels[:3])
    np.testing.assert_array_equal(values_of(open_scene(vrt)), expected)


def test_nodata_values_of_each_band_beside_an_alpha_band(make_scene, tmp_path, rng):
    pixels = noise(rng, (3, 60, 80), low=0)
    files = [make_scene(pixels[i : i + 1], f"b{i}.tif", nodata=i + 1) for i in range(3)]
    files.append(make_scene(np.full((1, 60, 80), 255, "uint8"), "alpha.tif"))
    vrt = separate_vrt(tmp_path, files, (60, 80))
    text = vrt.read_text()
    for i in range(3):
        band = f'band="{i + 1}">'
        text = text.replace(band, f"{band}<NoDataValue>{i + 1}</NoDataValue>")
    vrt.write_text(text.replace('band="4">', 'band="4"><ColorInterp>Alpha</ColorInterp>'))
    values = np.arange(1, 4)[:, None, None]
    expected = np.where((pixels == values).any(axis=0), np.nan, pixels)
    np.testing.assert_array_equal(values_of(open_scene(vrt)), expected)


def test_a_mask_of_one_band_only(make_scene, tmp_path, rng):
    pixels = noise(rng, (3, 20, 30))
    hidden = np.zeros((1, 20, 30), "uint8")
    hidden[:, 5:] = 255
    files = [make_scene(pixels[i : i + 1], f"b{i}.tif") for i in range(3)]
    make_scene(hidden, "mask.tif")
    vrt = separate_vrt(tmp_path, files, (20, 30))
    mask = (
        '<MaskBand><VRTRasterBand dataType="Byte"><SimpleSource><SourceFilename relativeToVRT="1">'
        "mask.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        "</MaskBand></VRTRasterBand>"
    )
    first, second, rest = vrt.read_text().split("</VRTRasterBand>", 2)
    vrt.write_text(f"{first}</VRTRasterBand>{second}{mask}{rest}")
    expected = np.where(hidden[0] == 0, np.nan, pixels)
    np.testing.assert_array_equal(values_of(open_scene(vrt)), expected)


@pytest.mark.parametrize("declared", [{}, {"nodata": math.nan}, {"nodata": -9999}])
def test_nan_is_nodata_whatever_the_metadata_say(make_scene, rng, declared):
    pixels = noise(rng, (3, 60, 80), "float32")
    pixels[1, 10:30, 5:50] = np.nan
    pixels[:, 40, 40] = np.inf
    invalid = ~np.isfinite(pixels).all(axis=0)
    path = make_scene(pixels, **declared)
    expected = np.where(invalid, np.nan, pixels)
    np.testing.assert_allclose(values_of(open_scene(path, scale=255)), expected, atol=1e-4)


def test_floats_without_any_nan_are_all_valid(make_scene, rng):
    path = make_scene(noise(rng, (3, 20, 20), "float32"))
    assert not np.isnan(values_of(open_scene(path, scale=255))).any()


@pytest.mark.parametrize("nodata", [7, 7.0, np.float64(7), np.uint8(7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_callers_nodata(make_scene, rng, dtype, nodata):
    pixels = noise(rng, (3, 60, 80), dtype)
    pixels[0, :25] = 7
    invalid = (pixels == 7).any(axis=0)
    path = make_scene(pixels)
    scene = open_scene(path, scale=255, nodata=nodata, chunk=32)
    np.testing.assert_allclose(values_of(scene), np.where(invalid, np.nan, pixels), atol=1e-4)
    np.testing.assert_array_equal(open_valid(path, nodata=nodata), ~invalid)


@pytest.mark.parametrize("declared", ["value", "mask", "alpha"])
def test_the_callers_nodata_comes_on_top_of_the_files(make_scene, rng, declared):
    pixels = noise(rng, (4, 60, 80), low=10)
    pixels[:3, :, :30] = 7
    hidden = np.zeros((60, 80), bool)
    hidden[:20] = True
    if declared == "value":
        pixels[:3, :20] = 3
        path = make_scene(pixels[:3], nodata=3)
    elif declared == "mask":
        path = make_scene(pixels[:3], mask=np.where(hidden, 0, 255).astype("uint8"))
    else:
        pixels[3] = np.where(hidden, 0, 255)
        path = make_scene(pixels, photometric="RGB", alpha="yes")
    valid = ~hidden & (pixels[0] != 7)
    whole = values_of(open_scene(path, nodata=7))
    np.testing.assert_array_equal(whole, np.where(valid, pixels[:3], np.nan))
    coarse = values_of(open_scene(path, nodata=7, resize_factor=8))
    np.testing.assert_allclose(coarse, area_mean(pixels[:3], 8, 10, valid), atol=1)


def test_the_callers_nodata_where_another_band_has_another_type(make_scene, tmp_path, rng):
    """Only the bands in use need a type that scenes may have."""
    pixels = noise(rng, (3, 20, 30), low=10)
    pixels[:, :5] = 7
    files = [make_scene(pixels[i : i + 1], f"band{i}.tif") for i in range(3)]
    path = separate_vrt(tmp_path, [*files, files[0]], (20, 30))
    document = path.read_text()
    last = document.rindex('"Byte"')
    path.write_text(document[:last] + '"Float64"' + document[last + 6 :])
    np.testing.assert_array_equal(
        values_of(open_scene(path, nodata=7)), np.where(pixels == 7, np.nan, pixels)
    )


@pytest.mark.parametrize("nodata", [-9999, 256, 7.5, np.nan, np.inf])
def test_a_nodata_value_that_no_pixel_can_have_is_refused(make_scene, rng, nodata):
    path = make_scene(noise(rng, (3, 20, 30), low=0, high=256))
    with pytest.raises(ValueError, match=r"no pixel of uint8 is: give a whole number from 0 to 25"):
        open_scene(path, nodata=nodata)


def test_a_grid_that_is_not_of_the_scene_is_refused(make_scene, rng):
    path = make_scene(noise(rng, (3, 20, 30)))
    own = grid_of(open_scene(path))
    assert open_scene(path, grid=own.coarser(2, 3)).shape == (3, 10, 10)
    moved = replace(own, transform=Affine.translation(5, 0) @ own.transform)
    for other in (moved, own.resized(40, 30), replace(own, crs=CRS.from_epsg(4326))):
        with pytest.raises(ValueError, match="is finer than the scene's, or elsewhere: leave it"):
            open_scene(path, grid=other)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("nodata", [None, 0])
def test_zarr_rounds_means_as_gdal_does(make_scene, tmp_path, rng, dtype, nodata):
    pixels = noise(rng, (3, 40, 60), dtype)
    path = make_scene(pixels, nodata=nodata)
    array = xr.DataArray(pixels, dims=("band", "y", "x"))
    store = grid_of(open_scene(path, scale=255)).attach(array)
    store.to_dataset(name="scene").to_zarr(
        tmp_path / "s.zarr", encoding={"scene": {"_FillValue": nodata}}, zarr_format=2
    )
    coarse = [
        values_of(open_scene(p, scale=255, resize_factor=2)) for p in (path, tmp_path / "s.zarr")
    ]
    np.testing.assert_array_equal(*coarse)


@reads_files(max_examples=30)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    factor=st.one_of(st.floats(1, 1.2), st.floats(1, 80)),
    chunk=st.integers(6, 120),
    kind=st.sampled_from(["value", "caller", "mask", "alpha", "nan"]),
    share=st.sampled_from([0.003, 0.5, 0.95]),
)
def test_partly_valid_coarse_pixels_average_their_valid_ones(
    make_scene, height, width, factor, chunk, kind, share
):
    rng = np.random.default_rng(5)
    pixels = noise(rng, (3, height, width))
    valid = rng.random((height, width)) < share
    valid[height // 2 :, : width // 3] = False
    seen = np.where(valid, 255, 0).astype("uint8")
    how = {}
    if kind == "value":
        path = make_scene(np.where(valid, pixels, 0), next(names), nodata=0)
    elif kind == "caller":
        path, how = make_scene(np.where(valid, pixels, 0), next(names)), {"nodata": 0}
    elif kind == "mask":
        path = make_scene(pixels, next(names), mask=seen)
    elif kind == "alpha":
        rgba = np.stack([*pixels, seen])
        path = make_scene(rgba, next(names), photometric="RGB", alpha="yes")
    else:
        path = make_scene(np.where(valid, pixels, np.nan).astype("float32"), next(names))
        how = {"scale": 255}
    scene = open_scene(path, resize_factor=factor, chunk=chunk, **how)
    whole = open_scene(path, resize_factor=factor, chunk=1000, **how)
    expected = area_mean(pixels, *scene.shape[1:], valid)
    values = values_of(scene)
    assert_equal_but_at_ties(values, values_of(whole), expected)
    np.testing.assert_allclose(values, expected, atol=0.5 + 1e-4)


# Radiometry


def test_scale_maps_its_value_to_255(make_scene):
    pixels = np.array([[[0, 5000, 10_000, 30_000]]] * 3, "uint16")
    scene = open_scene(make_scene(pixels), scale=10_000)
    np.testing.assert_allclose(values_of(scene)[0, 0], [0, 127.5, 255, 255])
    assert scene.dtype == np.float32


@pytest.mark.parametrize("percent", [0, 2, 10])
def test_stretch_clips_both_tails_of_the_whole_scene(make_scene, rng, percent):
    pixels = rng.gamma([[[2]], [[3]], [[1]]], 800, (3, 90, 120)).astype("uint16")
    values = values_of(open_scene(make_scene(pixels), stretch=percent, chunk=32))
    for band, source in zip(values, pixels, strict=True):
        low, high = np.percentile(source, [percent, 100 - percent])
        expected = np.clip((source - low) / (high - low) * 255, 0, 255)
        np.testing.assert_allclose(band, expected, atol=0.01)
        assert (band == 0).mean() == pytest.approx(percent / 100, abs=0.005)
        assert (band == 255).mean() == pytest.approx(percent / 100, abs=0.005)


def test_two_chunks_of_a_scene_are_stretched_alike(make_scene):
    """A dark and a bright half: stretched each by itself, they would look the same."""
    pixels = np.empty((3, 64, 128), "uint16")
    pixels[..., :64] = np.linspace(100, 200, 64)
    pixels[..., 64:] = np.linspace(5000, 6000, 64)
    path = make_scene(pixels)
    whole = values_of(open_scene(path, stretch=2, chunk=128))
    parts = open_scene(path, stretch=2, chunk=64)
    np.testing.assert_array_equal(values_of(parts), whole)
    assert values_of(parts[:, :, :64]).max() < 10
    assert values_of(parts[:, :, 64:]).min() > 190


def test_a_stretch_of_a_large_scene_is_that_of_all_its_pixels(make_scene):
    """The sample is decimated: it must come from everywhere, nodata left out."""
    pixels = np.linspace(1, 60_000, 2500 * 1300).reshape(1, 2500, 1300).astype("uint16")
    pixels[:, :, :200] = 0
    values = values_of(open_scene(make_scene(pixels, nodata=0), bands=(1, 1, 1), stretch=5))
    seen = pixels[0][pixels[0] > 0]
    low, high = np.percentile(seen, [5, 95])
    expected = np.clip((pixels[0, :, 200:] - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(values[0, :, 200:], expected, atol=0.3)
    assert np.isnan(values[:, :, :200]).all()


def test_a_stretch_is_the_same_at_every_resolution(make_scene, rng):
    pixels = noise(rng, (3, 64, 64), "uint16", high=9000)
    path = make_scene(pixels)
    fine, coarse = (
        values_of(open_scene(path, stretch=2, resize_factor=factor)) for factor in (1, 64)
    )
    assert coarse[0, 0, 0] == pytest.approx(fine[0].mean(), abs=2)


def test_stretch_of_zarr(tmp_path, rng):
    pixels = noise(rng, (3, 70, 90), "uint16", high=9000)
    values = values_of(open_scene(write_scene_zarr(pixels, tmp_path / "s.zarr"), stretch=5))
    low, high = np.percentile(pixels[1], [5, 95])
    expected = np.clip((pixels[1] - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(values[1], expected, atol=0.01)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_other_types_need_a_scale_or_a_stretch(make_scene, rng, dtype):
    path = make_scene(noise(rng, (3, 8, 8), dtype))
    with pytest.raises(ValueError, match=f"the scene is {dtype}.*scale.*stretch") as error:
        open_scene(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"scale": 0}, "scale is 0"),
        ({"scale": math.nan}, "scale is nan"),
        ({"stretch": 50}, "stretch is 50"),
        ({"stretch": -1}, "stretch is -1"),
        ({"scale": 1, "stretch": 1}, "scale and stretch are both given"),
    ],
)
def test_radiometry_that_makes_no_sense_is_refused(make_scene, rng, how, message):
    with pytest.raises(ValueError, match=message):
        open_scene(make_scene(noise(rng, (3, 8, 8), "uint16")), **how)


# Refusals


def test_a_missing_file(tmp_path):
    for name in ("missing.tif", "missing.zarr"):
        with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
            open_scene(tmp_path / name)


def test_a_directory(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory"):
        open_scene(tmp_path)


def test_a_text_file(tmp_path):
    path = tmp_path / "scene.tif"
    path.write_text("not a picture\n" * 100)
    with pytest.raises(OSError, match=r"scene.tif cannot be opened") as error:
        open_scene(path)
    assert "\n" not in str(error.value)


def test_a_late_damaged_block_names_the_file_and_the_rows(make_scene, rng):
    path = make_scene(noise(rng, (3, 512, 512)), tiled=True, blockxsize=128, blockysize=128)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 3 // 4)
    scene = open_scene(path, chunk=128)
    values_of(scene[:, :128])
    with pytest.raises(OSError, match=r"scene.tif cannot be read at rows 384–512") as error:
        values_of(scene)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bands", [(0, 1, 2), (-1, 1, 2), ()])
def test_bands_count_from_1(make_scene, rng, bands):
    with pytest.raises(ValueError, match="they count from 1"):
        open_scene(make_scene(noise(rng, (3, 8, 8))), bands=bands)


@pytest.mark.parametrize(("count", "bands"), [(3, (1, 2, 9)), (1, (1, 2, 3)), (2, (1, 2, 3))])
def test_a_band_that_is_not_there(make_scene, rng, count, bands):
    with pytest.raises(ValueError, match=f"has {count} band.*within 1 to {count}"):
        open_scene(make_scene(noise(rng, (count, 8, 8))), bands=bands)


def test_a_type_that_no_scene_has(make_scene):
    with pytest.raises(ValueError, match=r"holds float64: convert it to one of uint8"):
        open_scene(make_scene(np.zeros((3, 8, 8))))


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_without_pixels(make_scene, rng, chunk):
    with pytest.raises(ValueError, match=f"chunk is {chunk}"):
        open_scene(make_scene(noise(rng, (3, 8, 8))), chunk=chunk)


def test_chunks_that_do_not_add_up_to_the_scene(make_scene, rng):
    with pytest.raises(ValueError, match="chunk"):
        open_scene(make_scene(noise(rng, (3, 8, 8))), chunk=((4, 5), (8,)))


# Laziness


@pytest.fixture
def reads(monkeypatch):
    """The windows that are read, in order."""
    windows = []
    real = RasterReader._read

    def spy(self, window, *args):
        windows.append(window)
        return real(self, window, *args)

    monkeypatch.setattr(RasterReader, "_read", spy)
    return windows


def test_nothing_is_read_before_it_is_asked_for(make_scene, rng, reads):
    scene = open_scene(make_scene(noise(rng, (3, 64, 64))), chunk=32)
    assert not reads
    values_of(scene[:, :32, 32:])
    assert reads == [Window(32, 0, 32, 32)]


def test_a_reader_is_small_frozen_and_hashable(make_scene, rng):
    reader = open_reader(str(make_scene(noise(rng, (3, 8, 8)))), (1, 2, 3), 7)
    assert len(pickle.dumps(reader)) < 4096
    assert hash(reader) == hash(pickle.loads(pickle.dumps(reader)))


def test_striped_files_are_read_in_whole_rows_once(make_scene, rng, reads):
    """Columns of chunks would decode each strip once for every column."""
    pixels = noise(rng, (3, 100, 3000))
    scene = open_scene(make_scene(pixels, compress="deflate"), chunk=128)
    assert len(scene.chunks[2]) > 20
    np.testing.assert_array_equal(values_of(scene), pixels)
    assert {window.width for window in reads} == {3000}
    assert sum(window.height for window in reads) == 100


def test_tiled_files_are_read_in_squares(make_scene, rng, reads):
    pixels = noise(rng, (3, 128, 3072))
    path = make_scene(pixels, tiled=True, blockxsize=64, blockysize=64)
    values_of(open_scene(path, chunk=128))
    assert {(window.height, window.width) for window in reads} == {(128, 128)}


@pytest.mark.parametrize("profile", [{"tiled": True, "blockxsize": 64, "blockysize": 64}, {}])
def test_one_coarse_chunk_is_read_in_pieces_by_all_threads(
    make_scene, rng, reads, monkeypatch, profile
):
    monkeypatch.setattr("cloudmask.windows._AVERAGED_SIDE", 512)
    path = make_scene(noise(rng, (3, 1500, 2000)), **profile)
    scene = open_scene(path, resize_factor=5)
    assert scene.data.numblocks == (1, 1, 1)
    pieces = values_of(scene)
    assert len(reads) > 8
    assert max(window.height * window.width for window in reads) <= 512**2
    assert sum(window.height * window.width for window in reads) == pytest.approx(1500 * 2000)
    # A mean of 25 never lies half way, where rounding could differ.
    monkeypatch.setattr("cloudmask.windows._AVERAGED_SIDE", 10_000)
    np.testing.assert_array_equal(values_of(open_scene(path, resize_factor=5)), pieces)


def test_an_overwritten_file_is_another_scene(make_scene, rng):
    first, second = noise(rng, (3, 20, 20)), noise(rng, (3, 25, 20))
    np.testing.assert_array_equal(values_of(open_scene(make_scene(first))), first)
    np.testing.assert_array_equal(values_of(open_scene(make_scene(second))), second)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_threads_read_as_one_does(make_scene, rng, scheduler):
    pixels = noise(rng, (3, 300, 300))
    path = make_scene(pixels, tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    with dask.config.set(scheduler=scheduler, num_workers=8):
        np.testing.assert_array_equal(open_scene(path, chunk=37).values, pixels)


# Labels and facts


def test_open_label_reads_a_mask_lazily(make_scene, rng):
    label = rng.choice(np.array([0, 1, 255], "uint8"), (1, 40, 50))
    opened = open_label(make_scene(label, nodata=255), chunk=16)
    assert opened.dims == ("y", "x")
    assert dask.is_dask_collection(opened.data)
    assert opened.dtype == np.uint8
    np.testing.assert_array_equal(opened, label[0])


def test_describe_tells_the_header(make_scene, rng):
    path = make_scene(
        noise(rng, (4, 64, 96), "uint16"), nodata=0, tiled=True, blockxsize=32, blockysize=16
    )
    facts = describe(path)
    assert facts == {
        "height": 64,
        "width": 96,
        "crs": "EPSG:32633",
        "transform": [10, 0, 500_000, 0, -10, 5_000_000],
        "gsd": [10, 10],
        "dtype": "uint16",
        "bands": 4,
        "block": [16, 32],
        "nodata": 0,
        "overviews": [],
        "scales": [1, 1, 1],
        "offsets": [0, 0, 0],
    }


def test_describe_names_a_mask(make_scene, rng):
    pixels, seen = noise(rng, (3, 8, 8)), np.full((8, 8), 255, "uint8")
    assert describe(make_scene(pixels, mask=seen))["nodata"] == "mask"
    assert describe(make_scene(pixels, "plain.tif"))["nodata"] is None


def test_a_grid_and_a_gsd_are_not_both_taken(make_scene, rng):
    path = make_scene(noise(rng, (3, 8, 8)))
    with pytest.raises(ValueError, match="choose one"):
        open_scene(path, grid=open_reader(str(path), (1, 2, 3), None).grid, gsd=20)


def test_a_computed_scene_can_be_pickled(make_scene, rng):
    scene = open_scene(make_scene(rng.integers(0, 255, (3, 40, 50), "uint8")), chunk=32).compute()
    xr.testing.assert_identical(pickle.loads(pickle.dumps(scene)), scene)


def test_open_label_refuses_a_store_of_something_else(tmp_path):
    xr.Dataset({"height": ("y", [1.0])}).to_zarr(tmp_path / "dem.zarr", consolidated=False)
    with pytest.raises(ValueError, match=r"dem\.zarr holds neither a mask nor a probability"):
        open_label(tmp_path / "dem.zarr")


@pytest.mark.parametrize("stray", [np.nan, np.inf])
def test_what_is_no_number_beside_a_nodata_value_spoils_no_mean(make_scene, rng, stray):
    pixels = rng.uniform(1, 255, (3, 60, 80)).astype("float32")
    pixels[:, :10] = -9999
    pixels[:, 5::10, 5::10] = stray
    path = make_scene(pixels, nodata=-9999)
    found = open_scene(path, scale=255, resize_factor=10).to_numpy()
    valid = np.where(np.isfinite(pixels) & (pixels != -9999), pixels, np.nan)
    with np.errstate(invalid="ignore"):
        expected = np.nanmean(valid[:, 10:].reshape(3, 5, 10, 8, 10), axis=(2, 4))
    np.testing.assert_allclose(found[:, 1:], expected, rtol=1e-5)
    assert np.isnan(found[:, 0]).all()


def test_zarr_of_packed_numbers_is_seen_unpacked(tmp_path):
    scene = xr.DataArray(np.linspace(0.1, 1, 48).reshape(3, 4, 4), dims=("band", "y", "x"))
    scene.encoding = {"dtype": "uint8", "scale_factor": 1 / 255, "_FillValue": 0}
    scene.to_dataset(name="rgb").to_zarr(tmp_path / "s.zarr", consolidated=False)
    with pytest.raises(ValueError, match="not uint8: give the value that maps to 255"):
        open_scene(tmp_path / "s.zarr")
    found = open_scene(tmp_path / "s.zarr", scale=1)
    np.testing.assert_allclose(found, scene * 255, atol=0.6)


def test_numbers_of_colours_are_no_pixels(make_scene, rng):
    path = make_scene(rng.integers(0, 4, (1, 8, 8), "uint8"), photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (0, 0, 0, 255), 1: (255, 255, 255, 255)})
    with pytest.raises(ValueError, match=r"has a palette.*gdal_translate -expand rgb"):
        open_scene(path, bands=(1, 1, 1))


def test_a_vrt_is_another_scene_when_its_files_are(make_scene, tmp_path, rng):
    path = make_scene(rng.integers(0, 255, (3, 8, 8), "uint8"))
    rasterio.shutil.copy(path, tmp_path / "s.vrt", driver="VRT")
    before = open_scene(tmp_path / "s.vrt").attrs["scene_version"]
    assert open_scene(tmp_path / "s.vrt").attrs["scene_version"] == before
    make_scene(rng.integers(0, 255, (3, 8, 8), "uint8"))
    assert open_scene(tmp_path / "s.vrt").attrs["scene_version"] != before


def test_a_part_of_a_file_goes_by_gdals_name(make_scene, rng):
    pixels = rng.integers(0, 255, (3, 8, 8), "uint8")
    found = open_scene(f"GTIFF_DIR:1:{make_scene(pixels)}")
    np.testing.assert_array_equal(found, pixels)


def test_numbers_that_netcdf_takes_for_signed(tmp_path, rng):
    pixels = rng.integers(0, 65536, (3, 20, 30), "uint16")
    array = xr.DataArray(pixels.view("int16"), dims=("band", "y", "x"), attrs={"_Unsigned": "true"})
    array.to_dataset(name="rgb").to_zarr(tmp_path / "s.zarr", consolidated=False)
    np.testing.assert_allclose(
        values_of(open_scene(tmp_path / "s.zarr", scale=65535)), pixels / 257, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("shape", "words"),
    [((5, 20, 30), r"is a series \(time, y, x\): a scene is"), ((3, 0, 30), "has no pixel")],
)
def test_a_store_that_is_no_scene_is_refused(tmp_path, shape, words):
    dims = ("time" if shape[0] == 5 else "band", "y", "x")
    array = xr.DataArray(np.zeros(shape, "uint8"), dims=dims, name="b4")
    array.to_dataset().to_zarr(tmp_path / "s.zarr", consolidated=False)
    with pytest.raises(ValueError, match=words):
        open_scene(tmp_path / "s.zarr")


def test_pixels_without_a_size_are_refused(make_scene, rng):
    path = make_scene(noise(rng, (3, 4, 5)), transform=Affine(0, 0, 5e5, 0, 0, 5e6))
    with pytest.raises(ValueError, match=r"pixels without a size .*: give it a transform"):
        open_scene(path)


def test_bands_may_be_numpys(make_scene, tmp_path, rng):
    scene = open_scene(make_scene(noise(rng, (3, 16, 16))), bands=np.array([3, 2, 1]))
    write_zarr(segment(scene, FakeModel()), tmp_path / "mask.zarr")
    assert open_label(tmp_path / "mask.zarr").shape == (16, 16)


def test_describe_names_the_nodata_of_each_band_where_they_differ(make_scene, rng, tmp_path):
    path = make_scene(noise(rng, (3, 8, 8)), nodata=0)
    rasterio.shutil.copy(path, tmp_path / "s.vrt", driver="VRT")
    text = (tmp_path / "s.vrt").read_text()
    for band, value in ((2, 255), (3, 7)):
        at = text.index("<NoDataValue>0", text.index(f'band="{band}"'))
        text = text[:at] + text[at:].replace("<NoDataValue>0", f"<NoDataValue>{value}", 1)
    (tmp_path / "s.vrt").write_text(text)
    assert describe(tmp_path / "s.vrt")["nodata"] == [0, 255, 7]


def test_a_scene_with_a_crs_and_no_transform_has_pixels_for_a_unit(tmp_path, rng, caplog):
    path = tmp_path / "s.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rasterio says so, too
        with rasterio.open(
            path, "w", driver="GTiff", height=300, width=400, count=3, dtype="uint8", crs=UTM
        ) as dataset:
            dataset.write(noise(rng, (3, 300, 400)))
        plan = plan_scene(str(path), load_model())
        assert "s.tif has no transform: pixels are the unit, and all of" in caplog.text
        assert plan.grid == plan.native
        assert plan.native.gsd == (1, 1)
        assert open_scene(path).rio.crs == UTM


def test_bands_that_a_file_calls_otherwise_are_named(make_scene, rng, caplog):
    path = make_scene(noise(rng, (4, 300, 400)))
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp[name] for name in ("blue", "green", "red", "alpha")]
        dataset.write(np.full((300, 400), 255, "uint8"), 4)
    plan_scene(str(path), load_model(), bands=(3, 2, 1))
    plan_scene(str(path), load_model(), bands=(2, 2, 2))
    assert not caplog.records
    plan_scene(str(path), load_model())
    said = "calls band 1 blue, band 3 red, and bands 1, 2, 3 are read as red, green and blue: give"
    assert f"{said} bands 3,2,1" in caplog.text
    plan_scene(str(path), load_model(), bands=(4, 2, 1))
    assert "calls band 4 alpha, and bands 4, 2, 1 are read" in caplog.text


def test_a_transform_of_no_numbers_is_named(tmp_path):
    (tmp_path / "s.vrt").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><GeoTransform>nan, 1, 0, 0, 0, -1'
        "</GeoTransform>" + '<VRTRasterBand dataType="Byte"/>' * 3 + "</VRTDataset>"
    )
    with pytest.raises(ValueError, match=r"s\.vrt has pixels without a size \(.*nan.*gdal_edit"):
        open_scene(tmp_path / "s.vrt")


def test_a_scene_without_a_transform_has_none_when_it_is_read_coarser():
    grid = Grid(900, 1000, Affine.identity(), CRS.from_epsg(4326))
    assert not grid.is_placed
    assert not grid.coarser(2, 2).is_placed
    assert grid.coarser(2, 2).gsd == (1, 1)
    assert Grid(9, 10, Affine(2, 0, 0, 0, -2, 0), UTM).is_placed


def test_a_single_pixel_without_a_place_stays_without(tmp_path, rng):
    Image.fromarray(noise(rng, (1, 1, 3))).save(tmp_path / "one.png")
    assert grid_of(open_scene(tmp_path / "one.png")).transform.is_identity
    assert open_scene(np.array([str(tmp_path / "one.png")])[0]).shape == (3, 1, 1)


def cube(rng, **coords):
    return xr.DataArray(noise(rng, (3, 64, 80), "uint16"), dims=("band", "y", "x"), coords=coords)


def test_a_damaged_chunk_of_a_store_is_one_line_that_names_it(tmp_path, rng):
    path = tmp_path / "s.zarr"
    cube(rng).chunk(32).to_dataset(name="scene").to_zarr(path, zarr_format=3, consolidated=False)
    (path / "scene/c/0/1/1").write_bytes(b"garbage")
    with pytest.raises(
        OSError, match=r"s\.zarr cannot be read at rows .*, a chunk is damaged"
    ) as said:
        open_scene(path, scale=255).compute()
    assert "\n" not in str(said.value)


def test_nodata_of_a_packed_store_is_what_is_stored(tmp_path, rng):
    """Sentinel-2's numbers since its processing baseline 04.00: 0 is nodata, -0.1 unpacked."""
    stored = cube(rng)
    stored[:, :20] = 0
    packed = stored.assign_attrs(scale_factor=1e-4, add_offset=-0.1).to_dataset(name="scene")
    packed.to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False)
    pixels = open_scene(tmp_path / "s.zarr", scale=1, nodata=0)
    np.testing.assert_array_equal(np.isnan(pixels), stored == 0)
    with pytest.raises(ValueError, match=r"nodata is 0\.5, which no pixel of uint16 is"):
        open_scene(tmp_path / "s.zarr", scale=1, nodata=0.5)


def test_a_store_is_placed_by_what_geozarr_tells(tmp_path, rng):
    grid = Grid(64, 80, Affine(10, 0, 4e5, 0, -10, 13e5), UTM)
    told = cube(rng).to_dataset(name="scene").assign_attrs(place_attributes(grid))
    told.to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False)
    assert grid_of(open_scene(tmp_path / "s.zarr", scale=255)) == grid


def test_stores_that_cannot_be_named_so_are_told_how(tmp_path, rng):
    planes = cube(rng).to_dataset(name="scene").scene.assign_coords(band=list("abc"))
    planes.to_dataset("band").to_zarr(tmp_path / "planes.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(ValueError, match=r"none, but a, b, c with two\): a scene is one array"):
        open_scene(tmp_path / "planes.zarr")
    with pytest.raises(
        ValueError, match=r"^http://h/s\.zarr has a query, but a Zarr store is many"
    ):
        open_scene("http://h/s.zarr?sv=2023&sig=SECRET")
    with pytest.raises(ValueError, match=r"is a name of GDAL's: name a store s3://"):
        open_scene("/vsis3/bucket/s.zarr")
