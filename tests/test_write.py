import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import xarray as xr
import zarr
from affine import Affine
from conftest import FakeModel, listing
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rio_cogeo.cogeo import cog_validate

from cloudmask import (
    open_label,
    open_scene,
    open_valid,
    predict,
    segment,
    threshold,
    write_cog,
    write_png,
    write_zarr,
)
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.grid import Grid, grid_of
from cloudmask.locks import alone
from cloudmask.write.overviews import halved

UTM = CRS.from_epsg(32633)
GDAL = tuple(map(int, rasterio.__gdal_version__.split(".")[:2]))
WRITERS = {".tif": write_cog, ".png": write_png, ".zarr": write_zarr}

each_writer = pytest.mark.parametrize("suffix", WRITERS)


def place(data, *, transform=None, crs=UTM, **attributes):
    """A DataArray (y, x) on a grid of 10 m, or on the one given."""
    transform = transform or Affine(10, 0, 500_000, 0, -10, 5_000_000)
    array = xr.DataArray(data, dims=("y", "x"), attrs=attributes)
    return Grid(*data.shape, transform, crs).attach(array)


def patches(rng, height, width, values=(CLEAR, CLOUD, NODATA)):
    """Values in patches of 7 × 5 pixels, so that compression and overviews have something to do."""
    coarse = rng.choice(np.array(values, "uint8"), (height // 7 + 1, width // 5 + 1))
    return coarse.repeat(7, axis=0).repeat(5, axis=1)[:height, :width]


def lazily(function, data):
    """Map a function over chunks, and over nothing else: dask need not call it to know the type."""
    return data.map_blocks(function, dtype=data.dtype, meta=data._meta)


def breaking(pixels, *, at, chunk=100):
    """A lazy copy of `pixels` whose chunk number `at` raises, while others still compute."""

    def load(block, block_id):
        if block_id == at:
            raise ValueError("this chunk is broken")
        time.sleep(0.02)
        return block

    return da.from_array(pixels, chunks=chunk).map_blocks(load, dtype=pixels.dtype)


def nearest(array, height, width):
    """Enlarge by nearest, by the definition."""
    rows, columns = (
        np.floor((np.arange(fine) + 0.5) * coarse / fine).astype(int)
        for fine, coarse in zip((height, width), array.shape, strict=True)
    )
    return array[np.ix_(rows, columns)]


def bilinear(array, height, width):
    """Enlarge bilinearly, by the definition: one axis after the other, clamped at the edges."""
    for axis, fine in enumerate((height, width)):
        coarse = array.shape[axis]
        at = (np.arange(fine) + 0.5) * coarse / fine
        centres = np.arange(coarse) + 0.5
        array = np.apply_along_axis(
            lambda line, a, c: np.interp(a, c, line), axis, array, at, centres
        )
    return array


# --- the COG's grid, pixels and layout


@pytest.mark.parametrize("compress", ["deflate", "zstd"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (500, 701), (513, 513), (1030, 1500)])
def test_cog_has_the_pixels_on_the_very_grid(tmp_path, rng, shape, compress):
    transform = Affine(0.3, 0, 1234.56, 0, -0.7, 98765.4)
    pixels = patches(rng, *shape)
    write_cog(place(pixels, transform=transform), tmp_path / "m.tif", compress=compress)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.shape == shape
        assert dataset.transform == transform
        assert dataset.crs == UTM
        assert dataset.dtypes == ("uint8",)
        assert dataset.nodata == NODATA
        assert dataset.block_shapes == [(512, 512)]
        assert dataset.compression.name == compress
        np.testing.assert_array_equal(dataset.read(1), pixels)
    is_valid, errors, warnings = cog_validate(tmp_path / "m.tif", strict=True)
    assert is_valid, (errors, warnings)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.tif", "m.tif.aux.xml"]


def test_cog_keeps_a_crs_that_does_not_fit_into_a_geotiff(tmp_path, rng):
    crs = CRS.from_user_input(
        "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 "
        "+to_meter=0.0174532925199433 +a=6367470 +b=6367470"
    )
    write_cog(place(patches(rng, 40, 30), crs=crs), tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.crs == crs
    notes = ElementTree.parse(tmp_path / "m.tif.aux.xml")
    assert len(notes.findall("PAMRasterBand/CategoryNames/Category")) == 2


def test_overviews_beside_a_replaced_mask_go_with_it(tmp_path, rng):
    write_cog(place(patches(rng, 40, 30)), tmp_path / "m.tif")
    (tmp_path / "m.tif.ovr").write_bytes(b"of the old mask")
    write_cog(place(patches(rng, 40, 30)), tmp_path / "m.tif", overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.tif", "m.tif.aux.xml"]


def test_cog_keeps_a_rotated_grid_and_a_geographic_crs(tmp_path, rng):
    transform = Affine.translation(13.4, 52.5) @ Affine.rotation(20) @ Affine.scale(1e-4, -2e-4)
    array = place(patches(rng, 40, 30), transform=transform, crs=CRS.from_epsg(4326))
    write_cog(array, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.transform.almost_equals(transform, 1e-12)
        assert dataset.crs == CRS.from_epsg(4326)


CURVE = [1.0, *[0.0] * 19]
RPCS = RPC(
    height_off=10, height_scale=500, lat_off=49.5, lat_scale=0.5, long_off=10.5, long_scale=0.5,
    line_off=300, line_scale=300, samp_off=350, samp_scale=350, line_num_coeff=CURVE,
    line_den_coeff=CURVE, samp_num_coeff=CURVE, samp_den_coeff=CURVE, err_bias=1, err_rand=2,
)  # fmt: skip


def test_cog_of_a_raw_scene_keeps_ground_control_points_and_rpcs(tmp_path, rng):
    points = [
        GroundControlPoint(row, column, 10 + column / 700, 50 - row / 600)
        for row in (0, 600)
        for column in (0, 700)
    ]
    kind = {"driver": "GTiff", "height": 600, "width": 700, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "raw.tif", "w", **kind) as dataset:
        dataset.write(rng.integers(0, 256, (3, 600, 700), "uint8"))
        dataset.gcps = points, CRS.from_epsg(4326)
        dataset.rpcs = RPCS
    mask = segment(open_scene(tmp_path / "raw.tif"), FakeModel())
    write_cog(mask, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        kept, crs = dataset.gcps
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [
            (p.row, p.col, p.x, p.y) for p in points
        ]
        assert crs == CRS.from_epsg(4326)
        assert dataset.rpcs.to_dict() == RPCS.to_dict()
    assert cog_validate(tmp_path / "m.tif")[0]

    directory = segment(open_scene(f"GTIFF_DIR:1:{tmp_path / 'raw.tif'}"), FakeModel())
    write_cog(directory, tmp_path / "directory.tif")
    with rasterio.open(tmp_path / "directory.tif") as dataset:
        assert len(dataset.gcps[0]) == len(points)

    half = segment(open_scene(tmp_path / "raw.tif", resize_factor=2), FakeModel())
    write_cog(half, tmp_path / "half.tif")
    with rasterio.open(tmp_path / "half.tif") as dataset:
        assert [(p.row * 2, p.col * 2, p.x, p.y) for p in dataset.gcps[0]] == [
            (p.row, p.col, p.x, p.y) for p in points
        ]
        assert dataset.rpcs is None

    write_cog(mask.isel(y=slice(100, None)), tmp_path / "part.tif")
    (tmp_path / "raw.tif").unlink()
    write_cog(mask.copy(data=np.zeros((600, 700), "uint8")), tmp_path / "gone.tif")
    for file in ("part.tif", "gone.tif"):
        with rasterio.open(tmp_path / file) as dataset:
            assert dataset.gcps == ([], None)
            assert dataset.rpcs is None


def test_cog_of_a_scene_with_a_crs_keeps_its_rpcs(tmp_path, rng):
    """Of "ortho-ready" scenes, which are projected once more by these: their masks must be so."""
    kind = {"driver": "GTiff", "height": 60, "width": 70, "count": 3, "dtype": "uint8"}
    place_on_earth = {"crs": CRS.from_epsg(32633), "transform": Affine(2, 0, 5e5, 0, -2, 5e6)}
    with rasterio.open(tmp_path / "scene.tif", "w", **kind, **place_on_earth) as dataset:
        dataset.write(rng.integers(0, 256, (3, 60, 70), "uint8"))
        dataset.rpcs = RPCS
    write_cog(segment(open_scene(tmp_path / "scene.tif"), FakeModel()), tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.rpcs.to_dict() == RPCS.to_dict()
        assert {"crs": dataset.crs, "transform": dataset.transform} == place_on_earth


def test_cog_of_part_of_a_scene_lies_where_that_part_is(tmp_path, rng):
    whole = place(patches(rng, 60, 80))
    write_cog(whole.isel(y=slice(20, 50), x=slice(30, 45)), tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.bounds == (500_300, 4_999_500, 500_450, 4_999_800)
        np.testing.assert_array_equal(dataset.read(1), whole.values[20:50, 30:45])


def test_overviews_take_the_most_frequent_value(tmp_path, rng):
    # Three of each 2 × 2 pixels agree; which one does not, changes: nearest would pick it.
    common = rng.integers(0, 2, (512, 600), "uint8")
    pixels = common.repeat(2, axis=0).repeat(2, axis=1)
    odd = rng.integers(0, 2, (2, *common.shape))
    pixels[2 * np.arange(512)[:, None] + odd[0], 2 * np.arange(600) + odd[1]] ^= 1
    write_cog(place(pixels), tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.overviews(1)[0] == 2
    with rasterio.open(tmp_path / "m.tif", overview_level=0) as overview:
        np.testing.assert_array_equal(overview.read(1), common)


def test_each_overview_halves_the_one_before(tmp_path, rng):
    level = place(patches(rng, 1500, 1301))
    write_cog(level, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert len(dataset.overviews(1)) == 2
    for number in range(2):
        level = halved(level.chunk(400))
        with rasterio.open(tmp_path / "m.tif", overview_level=number) as overview:
            np.testing.assert_array_equal(overview.read(1), level)


def test_cog_carries_colours_names_and_provenance(tmp_path, rng):
    provenance = {"model": "m1", "model_sha256": "ab12", "cloudmask_version": "9.9"}
    array = place(patches(rng, 50, 60), threshold=0.37, **provenance)
    write_cog(array, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        tags, colours = dataset.tags(), dataset.colormap(1)
        assert dataset.tags(1)["flag_values"] == "0 1 255"
        assert dataset.tags(1)["flag_meanings"] == "clear cloud nodata"
    assert tags["CLOUDMASK_MODEL"] == "m1"
    assert tags["CLOUDMASK_MODEL_SHA256"] == "ab12"
    assert tags["CLOUDMASK_THRESHOLD"] == "0.37"
    assert tags["CLOUDMASK_VERSION"] == "9.9"
    assert colours[CLEAR] == (0, 0, 0, 255)
    assert colours[CLOUD] == (255, 255, 255, 255)
    assert colours[NODATA][3] == 0
    assert categories(tmp_path / "m.tif", tmp_path)[:2] == ["clear", "cloud"]


def categories(path, folder):
    """Category names as GDAL itself reads them: it repeats them in a VRT."""
    rasterio.shutil.copy(path, folder / "copy.vrt", driver="VRT")
    document = ElementTree.parse(folder / "copy.vrt")
    return [item.text for item in document.iter("Category")]


def test_names_of_a_replaced_mask_do_not_stay_with_a_probability(tmp_path, rng):
    write_cog(place(patches(rng, 50, 60)), tmp_path / "m.tif")
    write_cog(place(rng.random((50, 60), "float32")), tmp_path / "m.tif", overwrite=True)
    assert not categories(tmp_path / "m.tif", tmp_path)


def test_probability_cog_is_float32_with_nan_and_the_very_bits(tmp_path, rng):
    values = rng.random((700, 600), "float32")
    values[:100, 50:] = np.nan
    write_cog(place(values, threshold=0.5), tmp_path / "p.tif")
    with rasterio.open(tmp_path / "p.tif") as dataset:
        assert dataset.dtypes == ("float32",)
        assert np.isnan(dataset.nodata)
        np.testing.assert_array_equal(dataset.read(1), values)
    with rasterio.open(tmp_path / "p.tif", overview_level=0) as overview:
        mean = values[200:300, :100].reshape(50, 2, 50, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(overview.read(1)[100:150, :50], mean, atol=1e-6)
    assert cog_validate(tmp_path / "p.tif", strict=True)[0]


def test_threshold_cuts_a_probability_on_its_own_grid(tmp_path):
    values = np.array([[0.2, 0.6, np.nan], [0.7, 0.59, 1.0]], "float32")
    write_cog(place(values), tmp_path / "m.tif", threshold=0.6)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), [[0, 1, 255], [1, 0, 1]])
    with pytest.raises(ValueError, match="uint8: a mask has been cut already"):
        threshold(open_label(tmp_path / "m.tif"), 0.5)  # nodata, 255, would be cloud


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells open files on Linux only")
def test_files_that_a_mask_was_made_of_are_closed(tmp_path, rng):
    mask = place(rng.integers(0, 2, (2600, 2600)).astype("uint8"))
    write_cog(mask, tmp_path / "m.tif")
    open_label(tmp_path / "m.tif").compute()
    (tmp_path / "m.tif").unlink()
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    opened = [str(link.readlink()) for link in links]
    assert [name for name in opened if name.startswith(str(tmp_path))] == []


# --- onto the scene's grid


@pytest.fixture
def scene(make_scene, rng):
    """An odd-sized scene with a hole and a border of nodata."""
    pixels = rng.integers(1, 256, (3, 500, 701), "uint8")
    pixels[:, 200:333, 100:150] = 0
    pixels[1, :, 690:] = 0
    return make_scene(pixels, nodata=0)


@pytest.fixture
def smooth(scene, rng):
    """A probability on a grid a third as fine, over the same bounds."""
    coarse = open_scene(scene, resize_factor=3)
    values = bilinear(rng.random((8, 9)), *coarse.shape[1:]).astype("float32")
    return xr.DataArray(
        values,
        dims=("y", "x"),
        coords=coarse.isel(band=0, drop=True).coords,
        attrs={"threshold": 0.5},
    ).chunk(64)


def holes(path):
    with rasterio.open(path) as dataset:
        return (dataset.read() == 0).any(axis=0)


@pytest.mark.parametrize("kind", ["path", "text", "scene", "valid"])
def test_like_puts_a_smooth_cut_on_the_scene_s_grid(tmp_path, scene, smooth, kind):
    like = {
        "path": scene,
        "text": str(scene),
        "scene": open_scene(scene),
        "valid": open_valid(scene),
    }
    write_cog(smooth, tmp_path / "m.tif", like=like[kind])
    with rasterio.open(tmp_path / "m.tif") as dataset, rasterio.open(scene) as original:
        assert dataset.shape == original.shape
        assert dataset.transform.almost_equals(original.transform, 1e-9)
        assert dataset.crs == original.crs
        mask = dataset.read(1)
        assert dataset.tags()["CLOUDMASK_THRESHOLD"] == "0.5"
    np.testing.assert_array_equal(mask == NODATA, holes(scene))
    expected = bilinear(smooth.values.astype("float64"), 500, 701)
    known = (mask != NODATA) & (np.abs(expected - 0.5) > 1e-5)
    assert known.mean() > 0.85
    np.testing.assert_array_equal(mask[known], (expected >= 0.5)[known])


def test_like_by_nearest_on_request(tmp_path, scene, smooth):
    write_cog(smooth, tmp_path / "m.tif", like=scene, resampling="nearest", threshold=0.4)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        mask = dataset.read(1)
    expected = np.where(holes(scene), NODATA, nearest(smooth.values, 500, 701) >= 0.4)
    np.testing.assert_array_equal(mask, expected)


def test_like_enlarges_a_mask_by_nearest(tmp_path, scene, smooth):
    coarse = (smooth >= 0.5).astype("uint8")
    coarse[3:9, 4:8] = NODATA
    write_cog(coarse, tmp_path / "m.tif", like=scene)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        mask = dataset.read(1)
    expected = np.where(holes(scene), NODATA, nearest(coarse.values, 500, 701))
    np.testing.assert_array_equal(mask, expected)


def test_what_cannot_be_written_is_refused_in_one_line(tmp_path, scene, smooth):
    out = tmp_path / "m.tif"
    before = listing(tmp_path)
    shifted = smooth.rio.write_transform().assign_coords(x=smooth.x + 30)
    refusals = [
        (lambda: write_cog(smooth.drop_attrs(), out, like=scene), "names no threshold"),
        (lambda: write_cog(smooth, out, threshold=1.5), "threshold is 1.5"),
        (lambda: write_cog((smooth > 0.5).astype("uint8"), out, threshold=0.5), "cut already"),
        (lambda: write_cog(smooth.expand_dims("time"), out), "time, y, x"),
        (lambda: write_cog(smooth, out, compress="jpeg"), "'jpeg'"),
        (lambda: write_cog(smooth, out, like=scene, resampling="cubic"), "'cubic'"),
        (lambda: write_cog(shifted, out, like=scene), "same area"),
        (lambda: write_png(smooth, tmp_path / "m.png"), "float32"),
    ]
    for refused, words in refusals:
        with pytest.raises(ValueError, match=words) as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before


# --- the output's place on disk


@each_writer
def test_what_a_link_stands_for_is_replaced_not_the_link(tmp_path, rng, suffix):
    write, target, link = WRITERS[suffix], tmp_path / "far" / "x", tmp_path / f"m{suffix}"
    target.parent.mkdir()
    link.symlink_to(target)
    for overwrite in (False, True):
        mask = patches(rng, 200, 300)
        write(place(mask).chunk(100), link, overwrite=overwrite)
        assert link.readlink() == target
        np.testing.assert_array_equal(open_label(link), mask)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@each_writer
def test_an_existing_output_is_replaced_only_on_request(tmp_path, rng, suffix):
    write, out = WRITERS[suffix], tmp_path / f"m{suffix}"
    first, second = patches(rng, 200, 300), patches(rng, 150, 250)
    write(place(first).chunk(100), out)
    before = listing(tmp_path)
    with pytest.raises(FileExistsError, match=r"exists: pass overwrite"):
        write(place(second), out)
    assert listing(tmp_path) == before
    write(place(second).chunk(100), out, overwrite=True)
    np.testing.assert_array_equal(open_label(out), second)
    assert not [name for name in listing(tmp_path) if name.startswith(".")]


@each_writer
@pytest.mark.parametrize("at", [(0, 0), (1, 1), (2, 3)])
@pytest.mark.parametrize("has_old", [True, False])
def test_a_broken_chunk_leaves_everything_as_it_was(tmp_path, rng, suffix, at, has_old):
    write, out = WRITERS[suffix], tmp_path / f"m{suffix}"
    pixels = patches(rng, 260, 370)
    if has_old:
        write(place(pixels), out)
    before = listing(tmp_path)
    with pytest.raises(ValueError, match="this chunk is broken"):
        write(place(breaking(pixels, at=at)), out, overwrite=True)
    time.sleep(0.1)  # chunks that were under way have come to their end
    assert listing(tmp_path) == before


FULL = """
import resource, sys
import numpy as np, xarray as xr
from affine import Affine
from rasterio.crs import CRS
import cloudmask
from cloudmask.grid import Grid
name, path, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
pixels = np.random.default_rng(1).integers(0, 2, (900, 1100)).astype("uint8")
array = xr.DataArray(pixels, dims=("y", "x"))
array = Grid(900, 1100, Affine.scale(2, -2), CRS.from_epsg(32633)).attach(array).chunk(256)
try:
    getattr(cloudmask, name)(array, path, overwrite=True)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limit here")
@pytest.mark.parametrize(
    ("suffix", "limit"),
    # .tif: while staging, near its end, and in GDAL's COG driver; the finished file is smaller.
    [(".tif", 50_000), (".tif", 1_400_000), (".png", 50_000), (".zarr", 5000)],
)
def test_a_full_disk_leaves_the_old_output_and_says_so(tmp_path, rng, suffix, limit):
    out = tmp_path / f"m{suffix}"
    WRITERS[suffix](place(patches(rng, 60, 70)), out)
    before = listing(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL, WRITERS[suffix].__name__, out, str(limit)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "disk" in done.stdout
    assert "full" in done.stdout
    assert str(out.name) in done.stdout
    assert done.stdout.count("\n") == 1
    assert listing(tmp_path) == before


@each_writer
def test_a_place_that_cannot_be_written_to_is_refused_before_any_chunk(tmp_path, rng, suffix):
    write = WRITERS[suffix]
    array = place(breaking(patches(rng, 20, 20), at=(0, 0)))  # to compute it would raise
    with pytest.raises(FileNotFoundError, match="does not exist: make it first"):
        write(array, tmp_path / "none" / f"m{suffix}")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        write(array, tmp_path / "file" / f"m{suffix}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    (folder / "precious").write_text("kept")
    with pytest.raises((IsADirectoryError, FileExistsError), match="is a directory"):
        write(array, folder, overwrite=True)
    assert (folder / "precious").read_text() == "kept"
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match=f"{pipe.name} is a device or a pipe, which stays"):
        write(array, pipe, overwrite=True)
    assert pipe.is_fifo()


@each_writer
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path, rng, suffix):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="is not writable"):
            WRITERS[suffix](place(patches(rng, 20, 20)), tmp_path / f"m{suffix}")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_is_not_taken_for_an_old_store(tmp_path, rng):
    file = tmp_path / "scene.zarr"
    file.write_text("precious")
    with pytest.raises(FileExistsError, match=r"scene\.zarr is a file, but no Zarr store"):
        write_zarr(place(patches(rng, 20, 20)), file, overwrite=True)
    assert file.read_text() == "precious"


def test_a_folder_of_other_things_is_not_taken_for_an_old_store(tmp_path, rng):
    folder = tmp_path / "photos.zarr"
    folder.mkdir()
    (folder / "precious.jpg").write_text("kept")
    with pytest.raises(OSError, match="no Zarr store"):
        write_zarr(place(patches(rng, 20, 20)), folder, overwrite=True)
    assert listing(tmp_path) == {"photos.zarr": b"", "photos.zarr/precious.jpg": b"kept"}


# --- on any scheduler


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def on_a_worker(block):
    from distributed import get_worker

    get_worker()  # raises anywhere else
    return block


@each_writer
def test_a_cluster_writes_what_threads_write(tmp_path, rng, suffix, client):
    write = WRITERS[suffix]
    pixels = patches(rng, 700, 900)
    lazy = place(pixels).chunk(256)
    with dask.config.set(scheduler="synchronous"):
        write(lazy, tmp_path / f"one{suffix}")
    with dask.config.set(scheduler="threads"):
        write(lazy, tmp_path / f"threads{suffix}")
    with client.as_current():
        write(lazy.copy(data=lazily(on_a_worker, lazy.data)), tmp_path / f"cluster{suffix}")
    for name in ("one", "threads", "cluster"):
        np.testing.assert_array_equal(open_label(tmp_path / f"{name}{suffix}"), pixels)


@each_writer
def test_a_broken_chunk_on_a_cluster_leaves_nothing(tmp_path, rng, suffix, client):
    array = place(breaking(patches(rng, 260, 370), at=(1, 2)))
    with client.as_current(), pytest.raises((ValueError, OSError), match="this chunk is broken"):
        WRITERS[suffix](array, tmp_path / f"m{suffix}")
    assert not listing(tmp_path)


@each_writer
def test_each_chunk_is_computed_once(tmp_path, smooth, suffix):
    calls = []

    def count(block):
        calls.append(block.shape)
        return block

    coarse = (smooth >= 0.5).astype("uint8")
    WRITERS[suffix](coarse.copy(data=lazily(count, coarse.data)), tmp_path / f"m{suffix}")
    assert len(calls) == coarse.data.npartitions


def test_each_chunk_is_computed_once_for_the_scene_s_grid(tmp_path, scene, smooth):
    calls = []

    def count(block):
        calls.append(block.shape)
        return block

    write_cog(smooth.copy(data=lazily(count, smooth.data)), tmp_path / "m.tif", like=scene)
    assert len(calls) == smooth.data.npartitions


# --- Zarr


def stored(path, name="mask"):
    return json.loads((path / name / "zarr.json").read_text())


@pytest.mark.parametrize(
    ("chunks", "length"),
    [
        (((512, 512, 76), (512, 188)), (512, 512)),
        (((400, 300, 400), (350, 350)), (400, 350)),  # uneven, as enlarge makes them
        (((10, 1090), (699, 1)), (1090, 699)),
        (((1100,), (700,)), (1100, 700)),
    ],
)
def test_zarr_loses_nothing_whatever_the_chunks(tmp_path, rng, chunks, length):
    pixels = patches(rng, 1100, 700)
    write_zarr(place(da.from_array(pixels, chunks=chunks)), tmp_path / "m.zarr")
    metadata = stored(tmp_path / "m.zarr")
    assert metadata["zarr_format"] == 3
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == list(length)
    np.testing.assert_array_equal(zarr.open(tmp_path / "m.zarr/mask", mode="r")[:], pixels)


def test_zarr_has_one_task_for_each_chunk(tmp_path, rng):
    """Two tasks that write one Zarr chunk would lose data."""
    pixels = rng.integers(0, 2, (600, 500), "uint8")
    lazy = place(da.from_array(pixels, chunks=((200, 150, 250), (500,))))
    written = []
    store = type(zarr.storage.LocalStore(tmp_path))
    original = store.set

    async def record(self, key, value, *rest):
        written.append(key)
        return await original(self, key, value, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "set", record)
        write_zarr(lazy, tmp_path / "m.zarr")
    keys = [key for key in written if "mask/c/" in key]
    assert len(keys) == 3, written
    assert len(set(keys)) == 3


def test_zarr_is_self_describing_in_cf(tmp_path, rng):
    pixels = patches(rng, 300, 400)
    array = place(
        pixels, model="m1", flag_values=[0, 1, 255], flag_meanings="clear cloud nodata"
    ).chunk(128)
    write_zarr(array, tmp_path / "m.zarr")
    attributes = stored(tmp_path / "m.zarr")["attributes"]
    assert attributes["flag_values"] == [0, 1, 255]
    assert attributes["flag_meanings"] == "clear cloud nodata"
    assert attributes["_FillValue"] == NODATA
    assert attributes["grid_mapping"] == "spatial_ref"
    assert attributes["model"] == "m1"
    # Readers that know no CF, GDAL among them, take Zarr's own fill value for nodata.
    assert stored(tmp_path / "m.zarr")["fill_value"] == NODATA


def test_zarr_follows_geozarr(tmp_path, rng):
    write_zarr(place(patches(rng, 300, 400)), tmp_path / "m.zarr")
    attributes = json.loads((tmp_path / "m.zarr/zarr.json").read_text())["attributes"]
    assert attributes["proj:code"] == "EPSG:32633"
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert attributes["spatial:shape"] == [300, 400]
    assert attributes["spatial:transform"] == [10, 0, 500_000, 0, -10, 5_000_000]
    assert attributes["spatial:bbox"] == [500_000, 4_997_000, 504_000, 5_000_000]
    assert {item["name"] for item in attributes["zarr_conventions"]} == {"proj:", "spatial:"}
    write_zarr(place(patches(rng, 300, 400))[::-1], tmp_path / "up.zarr")
    attributes = json.loads((tmp_path / "up.zarr/zarr.json").read_text())["attributes"]
    assert attributes["spatial:transform"] == [10, 0, 500_000, 0, 10, 4_997_000]
    assert attributes["spatial:bbox"] == [500_000, 4_997_000, 504_000, 5_000_000]


@pytest.mark.parametrize("options", [{}, {"decode_coords": "all"}, {"mask_and_scale": False}])
def test_zarr_is_placed_by_xarray_and_rioxarray(tmp_path, rng, options):
    array = place(patches(rng, 300, 400)).chunk(128)
    write_zarr(array, tmp_path / "m.zarr")
    mask = xr.open_zarr(tmp_path / "m.zarr", consolidated=False, **options)["mask"]
    assert grid_of(mask) == grid_of(array)
    np.testing.assert_array_equal(mask.x, array.x)
    expected = array.values
    if options.get("mask_and_scale", True):
        expected = np.where(expected == NODATA, np.nan, expected)
    np.testing.assert_array_equal(mask, expected)


def test_zarr_places_an_array_without_coordinates(tmp_path, rng):
    array = xr.DataArray(patches(rng, 30, 40), dims=("y", "x"))
    array = array.rio.write_crs(UTM).rio.write_transform(Affine(10, 0, 5e5, 0, -10, 5e6))
    write_zarr(array, tmp_path / "m.zarr")
    mask = xr.open_zarr(tmp_path / "m.zarr", consolidated=False)["mask"]
    np.testing.assert_array_equal(mask.x[:2], [500_005, 500_015])
    np.testing.assert_array_equal(mask.y[:2], [4_999_995, 4_999_985])


def test_zarr_of_a_probability_and_of_a_time_series(tmp_path, rng):
    values = rng.random((2, 300, 400), "float32")
    values[:, 100:] = np.nan
    series = xr.concat([place(one) for one in values], dim="time").chunk({"time": 1, "y": 128})
    write_zarr(series, tmp_path / "p.zarr")
    stack = xr.open_zarr(tmp_path / "p.zarr", consolidated=False)["probability"]
    assert stack.dims == ("time", "y", "x")
    np.testing.assert_array_equal(stack, values)
    assert stored(tmp_path / "p.zarr", "probability")["fill_value"] == "NaN"


@pytest.mark.skipif(GDAL < (3, 11), reason="GDAL reads Zarr v3 as it was published from 3.11 on")
@pytest.mark.parametrize("name", ["{}", 'ZARR:"{}":/mask'])
def test_zarr_is_placed_by_gdal(tmp_path, rng, name):
    array = place(patches(rng, 300, 400)).chunk(128)
    write_zarr(array, tmp_path / "m.zarr")
    with rasterio.open(name.format(tmp_path / "m.zarr")) as dataset:
        assert dataset.crs.to_epsg() == 32633
        assert dataset.transform.almost_equals(array.rio.transform())
        assert dataset.nodata == NODATA
        np.testing.assert_array_equal(dataset.read(1), array)


# --- pictures


def test_png_is_a_palette_picture(tmp_path, rng):
    pixels = patches(rng, 130, 170)
    write_png(place(pixels).chunk(64), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.format == "PNG"
        assert picture.mode == "P"
        assert picture.size == (170, 130)
        np.testing.assert_array_equal(np.asarray(picture), pixels)
        shown = np.asarray(picture.convert("RGBA"))
    assert (shown[pixels == CLEAR] == (0, 0, 0, 255)).all()
    assert (shown[pixels == CLOUD] == (255, 255, 255, 255)).all()
    assert (shown[pixels == NODATA][:, 3] == 0).all()
    assert [file.name for file in tmp_path.iterdir()] == ["m.png"]


# What the scene was opened with


def test_like_by_path_knows_the_nodata_and_bands_the_scene_was_opened_with(
    make_scene, tmp_path, rng
):
    pixels = rng.integers(1, 200, (1, 256, 256)).astype("uint8")
    pixels[:, 20:120, 30:131] = 0
    path = make_scene(pixels)
    scene = open_scene(path, bands=(1, 1, 1), nodata=0, resize_factor=8)
    out = tmp_path / "o.tif"
    write_cog(predict(scene, FakeModel()), out, like=path)
    with rasterio.open(out) as dataset:
        np.testing.assert_array_equal(dataset.read(1) == 255, pixels[0] == 0)


def test_processes_write_the_same_pixels_as_threads(make_scene, tmp_path, rng):
    scene = open_scene(make_scene(rng.integers(0, 255, (3, 300, 400)).astype("uint8")), chunk=128)
    mask = segment(scene, FakeModel())
    write_cog(mask, tmp_path / "threads.tif")
    with dask.config.set(scheduler="processes", num_workers=2):
        write_cog(mask, tmp_path / "processes.tif")
    assert (tmp_path / "threads.tif").read_bytes() == (tmp_path / "processes.tif").read_bytes()


@pytest.mark.parametrize("dtype", ["bool", "int64"])
@pytest.mark.parametrize(("write", "name"), [(write_cog, "o.tif"), (write_zarr, "o.zarr")])
def test_other_types_than_mask_and_probability_are_refused(tmp_path, write, name, dtype):
    array = xr.DataArray(np.zeros((8, 8), dtype), dims=("y", "x"))
    with pytest.raises(ValueError, match=rf"{dtype}: a mask is uint8"):
        write(array, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_mask_has_no_unit(make_scene, rng):
    scene = open_scene(make_scene(rng.integers(0, 255, (3, 40, 50)).astype("uint8")))
    assert "units" not in segment(scene, FakeModel()).attrs


def test_zarr_of_doubles_is_float32_and_dims_are_checked(tmp_path):
    values = place(np.full((40, 50), 0.25, "float32")).astype("float64")
    write_zarr(values, tmp_path / "p.zarr")
    assert open_label(tmp_path / "p.zarr").dtype == "float32"
    with pytest.raises(ValueError, match="dimensions x, y: let them end in y, x"):
        write_zarr(values.transpose("x", "y"), tmp_path / "q.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["p.zarr"]


def test_zarr_may_end_in_capitals(make_scene, tmp_path, rng):
    scene = open_scene(make_scene(rng.integers(0, 255, (3, 40, 50)).astype("uint8")))
    mask = segment(scene, FakeModel())
    write_zarr(mask, tmp_path / "M.ZARR")
    write_zarr(mask, tmp_path / "M.ZARR", overwrite=True)
    np.testing.assert_array_equal(open_label(tmp_path / "M.ZARR"), mask)


@pytest.mark.parametrize(
    ("height", "width", "chunk", "is_mask"),
    [(1100, 700, 256, True), (513, 1, 100, True), (1025, 901, 300, False)],
)
def test_overviews_of_a_store_halve_it_on_its_grid(tmp_path, rng, height, width, chunk, is_mask):
    if is_mask:
        pixels = rng.choice(np.array([0, 1, 255], "uint8"), (height, width))
    else:
        pixels = rng.random((height, width), "float32")
        pixels[rng.random(pixels.shape) < 0.4] = np.nan
    array = place(da.from_array(pixels, chunks=chunk))
    store = tmp_path / "m.zarr"
    write_zarr(array, store, multiscale=True)
    name = "mask" if is_mask else "probability"
    group = zarr.open_group(store, mode="r")
    layout = group.attrs["multiscales"]["layout"]
    assert [level["asset"] for level in layout][:2] == [name, f"2/{name}"]
    finer = pixels
    for factor, level in zip((2, 4), layout[1:], strict=False):
        coarse = group[level["asset"]][:]
        rows, columns = (-(-length // 2) for length in finer.shape)
        assert coarse.shape == (rows, columns)
        i, j = rng.integers(rows), rng.integers(columns)
        four = finer[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel()
        if is_mask:
            four = np.concatenate([four, np.full(4 - four.size, 255, "uint8")])
            counts = {value: (four == value).sum() for value in (1, 0, 255)}
            assert coarse[i, j] == max(counts, key=counts.get)
        else:
            np.testing.assert_allclose(
                coarse[i, j],
                np.nan if np.isnan(four).all() else np.nanmean(four),
                rtol=1e-6,
            )
        placed = xr.open_zarr(store, group=str(factor), consolidated=False)[name]
        assert placed.rio.crs == array.rio.crs
        scaled = array.rio.transform() @ Affine.scale(factor)
        assert placed.rio.transform().almost_equals(scaled, precision=1e-6)
        finer = coarse
    assert max(finer.shape) <= 512 or len(layout) > 3


def test_what_a_killed_run_left_goes_with_the_next(tmp_path, start):
    code = (
        "import sys, time, dask.array as da, numpy as np, xarray as xr, cloudmask as cm\n"
        "def block(x): time.sleep(600)\n"
        "meta = np.zeros((0, 0), 'uint8')\n"
        "cloud = da.zeros((64, 64), dtype='uint8').map_blocks(block, dtype='uint8', meta=meta)\n"
        "cm.write_cog(xr.DataArray(cloud, dims=('y', 'x')), sys.argv[1])\n"
    )
    others = [
        tmp_path / name
        for name in (".n.tif.abcdefg1", ".m.tif.notes", ".m.tif.replaced", ".m.tif.abcdefg1")
    ]
    for folder in others:
        folder.mkdir()
    process = start([sys.executable, "-c", code, tmp_path / "m.tif"])
    process.until(lambda: list(tmp_path.glob(".m.tif.*.????????/*")))
    process.kill()
    process.wait()
    assert list(tmp_path.glob(".m.tif.*.????????"))
    write_cog(xr.DataArray(np.zeros((4, 4), "uint8"), dims=("y", "x")), tmp_path / "m.tif")
    assert set(tmp_path.glob(".*")) == set(others)


def test_a_file_is_written_by_one_process_at_a_time(tmp_path):
    mask = xr.DataArray(np.zeros((4, 4), "uint8"), dims=("y", "x"))
    for name, write in (("m.tif", write_cog), ("m.png", write_png)):
        with (
            alone(tmp_path / name, "written"),
            pytest.raises(FileExistsError, match="is being written by another process: wait"),
        ):
            write(mask, tmp_path / name)
        write(mask, tmp_path / name)
    assert not list(tmp_path.glob(".*"))
