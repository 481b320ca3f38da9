import tracemalloc

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from conftest import FakeModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject

from cloudmask import (
    enlarge,
    enlarging,
    interpolation,
    open_scene,
    open_valid,
    pieces,
    predict,
    resample,
)
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.grid import Grid, grid_of
from cloudmask.readers.raster import RasterReader
from cloudmask.windows import WINDOWS

UTM = CRS.from_epsg(32633)


def on_grid(values, grid, **attributes):
    return grid.attach(xr.DataArray(values, dims=("y", "x"), attrs=attributes))


def scene_of(height, width, valid=None):
    """Where a scene of 10 m pixels is valid, and its grid."""
    grid = Grid(height, width, Affine(10, 0, 500_000, 0, -10, 5_000_000), UTM)
    valid = np.ones((height, width), bool) if valid is None else valid
    return on_grid(valid, grid), grid


def linear(values, size, axis):
    """Independent of the package: NumPy's own interpolation between pixel centres."""
    at = (np.arange(size) + 0.5) * values.shape[axis] / size - 0.5
    own = np.arange(values.shape[axis])
    return np.apply_along_axis(lambda line: np.interp(at, own, line), axis, values)


@pytest.fixture
def small_chunks(monkeypatch):
    def shrink(side):
        monkeypatch.setattr(pieces, "FINE_CHUNK", side)

    return shrink


shapes = st.tuples(st.integers(1, 400), st.integers(1, 400))
forty_times = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@forty_times
@given(
    shape=shapes,
    factor=st.floats(1, 60),
    pieces=st.integers(1, 6),
    seed=st.integers(0, 5),
    threshold=st.sampled_from([None, 0.5]),
    resampling=st.sampled_from(["bilinear", "nearest"]),
)
def test_enlarged_size_nodata_and_values_do_not_depend_on_the_chunks(
    small_chunks, shape, factor, pieces, seed, threshold, resampling
):
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < rng.choice([0.02, 0.9, 1])
    like, grid = scene_of(*shape, valid)
    coarse = grid.coarser(factor, factor)
    probability = rng.random((coarse.height, coarse.width)).astype("float32")
    holes = resample.average(
        np.where(valid, 0, np.nan)[None],
        resample.average_weights(0, coarse.height, grid.height / coarse.height, grid.height)[1],
        resample.average_weights(0, coarse.width, grid.width / coarse.width, grid.width)[1],
    )[0]
    probability[np.isnan(holes)] = np.nan
    how = {"threshold": threshold, "resampling": resampling}

    small_chunks(10_000)
    whole = enlarge(on_grid(probability, coarse), like, **how)
    assert len(whole.chunks[0]) == len(whole.chunks[1]) == 1
    small_chunks(-(-max(shape) // pieces))
    parts = enlarge(on_grid(da.from_array(probability, chunks=37), coarse), like, **how)

    assert grid_of(parts) == grid
    assert parts.rio.bounds() == like.rio.bounds()
    whole, parts = whole.compute(scheduler="sync"), parts.compute(scheduler="sync")
    assert parts.shape == shape
    if threshold is None:
        np.testing.assert_array_equal(np.isnan(parts), ~valid)
        np.testing.assert_allclose(parts, whole, atol=1e-6)
    else:
        np.testing.assert_array_equal(parts == NODATA, ~valid)
        np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize(("shape", "factor"), [((123, 89), 7.3), ((300, 64), 10), ((50, 60), 1)])
def test_bilinear_is_numpys_interpolation_between_pixel_centres(rng, shape, factor):
    like, grid = scene_of(*shape)
    coarse = grid.coarser(factor, factor)
    probability = rng.random((coarse.height, coarse.width)).astype("float32")
    fine = enlarge(on_grid(probability, coarse), like).values
    expected = linear(linear(probability, grid.height, 0), grid.width, 1)
    np.testing.assert_allclose(fine, expected, atol=1e-5)


def test_bilinear_agrees_with_gdal_in_the_interior(rng):
    like, grid = scene_of(160, 240)
    coarse = grid.coarser(8, 8)
    probability = rng.random((coarse.height, coarse.width)).astype("float32")
    fine = enlarge(on_grid(probability, coarse), like).values
    warped = np.zeros_like(fine)
    reproject(
        probability,
        warped,
        src_transform=coarse.transform,
        dst_transform=grid.transform,
        src_crs=UTM,
        dst_crs=UTM,
        resampling=Resampling.bilinear,
    )
    np.testing.assert_allclose(fine[8:-8, 8:-8], warped[8:-8, 8:-8], atol=1e-4)


def test_beside_nodata_the_valid_neighbours_alone_count():
    """Nodata must not pull the outline of a cloud towards clear."""
    like, grid = scene_of(80, 80)
    coarse = grid.coarser(10, 10)
    probability = np.full((8, 8), 0.8, "float32")
    probability[:, 4:] = np.nan
    fine = enlarge(on_grid(probability, coarse), like).values
    np.testing.assert_allclose(fine[:, :40], 0.8, atol=1e-6)
    assert np.isnan(fine[:, 40:]).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_stays_constant(value):
    like, grid = scene_of(101, 211)
    coarse = grid.coarser(9.7, 9.7)
    array = on_grid(np.full((coarse.height, coarse.width), value, "float32"), coarse)
    np.testing.assert_allclose(enlarge(array, like), value, atol=1e-7)


def test_a_threshold_cuts_after_enlarging():
    """Between 0 and 1 the outline lies half way, not on the coarse pixels' edges."""
    like, grid = scene_of(20, 40)
    coarse = Grid(1, 2, grid.transform @ Affine.scale(20), UTM)
    array = on_grid(np.array([[0, 1]], "float32"), coarse, model="m")
    mask = enlarge(array, like, threshold=0.75)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask[0], [CLEAR] * 25 + [CLOUD] * 15)
    assert mask.attrs["threshold"] == 0.75
    assert mask.attrs["model"] == "m"
    assert mask.name == "mask"


@forty_times
@given(
    shape=shapes,
    factor=st.floats(1, 60),
    patch=st.integers(1, 90),
    threshold=st.sampled_from([0, 0.25, 0.5, 1]),
    resampling=st.sampled_from(["bilinear", "nearest"]),
    seed=st.integers(0, 9),
)
def test_what_is_cut_is_what_would_be_interpolated(
    monkeypatch, shape, factor, patch, threshold, resampling, seed
):
    """Patches of one kind, which are never interpolated, among others, and beside nodata."""
    rng = np.random.default_rng(seed)
    like, grid = scene_of(*shape)
    coarse = grid.coarser(factor, factor)
    values = np.array([0, 0.25, 0.5, 1, np.nan][: rng.integers(1, 6)], "float32")
    patches = rng.choice(values, (-(-coarse.height // 5), -(-coarse.width // 5)))
    probability = patches.repeat(5, 0).repeat(5, 1)[: coarse.height, : coarse.width]
    monkeypatch.setattr(enlarging, "_PATCH", 10_000)
    whole = enlarge(on_grid(probability, coarse), like, resampling=resampling).values
    monkeypatch.setattr(enlarging, "_PATCH", patch)
    mask = enlarge(on_grid(probability, coarse), like, threshold=threshold, resampling=resampling)
    cut = np.where(whole >= threshold, CLOUD, CLEAR)
    np.testing.assert_array_equal(mask, np.where(np.isnan(whole), NODATA, cut))


@pytest.mark.parametrize("value", [0.1, 0.9, np.nan])
def test_only_where_clear_meets_cloud_is_interpolated(monkeypatch, value):
    like, grid = scene_of(2400, 2400)
    coarse = grid.coarser(24, 24)
    probability = np.full((100, 100), value, "float32")
    interpolated = []
    real = interpolation._bilinear
    monkeypatch.setattr(
        interpolation, "_bilinear", lambda *args: interpolated.append(args) or real(*args)
    )
    enlarge(on_grid(probability, coarse), like, threshold=0.5).compute()
    assert interpolated == []
    probability[50, 50] = 0.5
    enlarge(on_grid(probability, coarse), like, threshold=0.5).compute()
    assert 1 <= len(interpolated) <= 4


@forty_times
@given(
    shape=shapes,
    factor=st.floats(1, 9),
    pieces=st.integers(2, 6),
    cut=st.sampled_from([None, 0.5]),
    seed=st.integers(0, 99),
)
def test_valid_pixels_take_what_is_known_around_a_coarse_one_that_is_nodata(
    small_chunks, shape, factor, pieces, cut, seed
):
    """Overviews by the nearest pixel, gdaladdo's default, make nodata of what is mostly valid."""
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < 0.8
    like, grid = scene_of(*shape, valid)
    coarse = grid.coarser(factor, factor)
    values = rng.random((coarse.height, coarse.width)).astype("float32")
    values[rng.random(values.shape) < 0.6] = np.nan
    whole = enlarge(on_grid(values, coarse), like, threshold=cut).to_numpy()
    small_chunks(-(-max(shape) // pieces))
    np.testing.assert_array_equal(enlarge(on_grid(values, coarse), like, threshold=cut), whole)
    rows, columns = (
        np.floor((np.arange(size) + 0.5) * parts / size + 1e-9).astype(int)
        for size, parts in zip(shape, values.shape, strict=True)
    )
    near = np.pad(~np.isnan(values), 1)
    around = sum(
        near[y : y + values.shape[0], x : x + values.shape[1]] for y in range(3) for x in range(3)
    )
    is_partly = np.zeros(values.shape, bool)
    np.logical_or.at(is_partly, np.ix_(rows, columns), ~valid)
    is_known = (~np.isnan(values) | ((around > 0) & is_partly))[np.ix_(rows, columns)]
    is_nodata = np.isnan(whole) if cut is None else whole == NODATA
    np.testing.assert_array_equal(is_nodata, ~(valid & is_known))


@pytest.mark.parametrize("kind", [Resampling.nearest, Resampling.average])
def test_a_tilted_scene_loses_no_pixel_to_its_overviews(make_scene, rng, kind):
    pixels = rng.integers(1, 255, (3, 512, 512)).astype("uint8")
    y, x = np.indices(pixels.shape[1:])
    pixels[:, (x + y // 4 < 90) | (x + y // 4 > 530)] = 0
    path = make_scene(pixels, nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], kind)
    low = predict(open_scene(path, resize_factor=6), FakeModel())
    mask = enlarge(low, open_valid(path), threshold=0.5)
    np.testing.assert_array_equal(mask == NODATA, (pixels == 0).all(axis=0))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shape=shapes, factor=st.integers(1, 9), pieces=st.integers(1, 6))
def test_a_mask_is_enlarged_by_nearest_under_the_scenes_nodata(small_chunks, shape, factor, pieces):
    rng = np.random.default_rng(1)
    shape = tuple(max(factor, size // factor * factor) for size in shape)
    valid = rng.random(shape) < 0.9
    like, grid = scene_of(*shape, valid)
    coarse = grid.coarser(factor, factor)
    mask = rng.choice(np.array([CLEAR, CLOUD], "uint8"), (coarse.height, coarse.width))
    small_chunks(-(-max(shape) // pieces))
    fine = enlarge(on_grid(mask, coarse), like)
    expected = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    assert fine.dtype == np.uint8
    np.testing.assert_array_equal(fine, np.where(valid, expected, NODATA))


def test_a_scene_counts_as_nodata_where_any_band_is(make_scene, rng):
    pixels = rng.integers(1, 255, (3, 60, 70)).astype("uint8")
    pixels[1, :20, :30] = 0
    path = make_scene(pixels, nodata=0)
    scene = open_scene(path, chunk=32)
    coarse = grid_of(scene).coarser(5, 5)
    array = on_grid(np.full((coarse.height, coarse.width), 0.5, "float32"), coarse)
    for like in (scene, open_valid(path, chunk=32)):
        np.testing.assert_array_equal(np.isnan(enlarge(array, like)), (pixels == 0).any(axis=0))


def test_strips_are_read_whole_and_say_the_same_as_tiles(make_scene, rng, small_chunks):
    """A scene wider than 1,024 px, whose rows are cut into squares when they are enlarged."""
    pixels = rng.integers(0, 120, (3, 300, 1300)).astype("uint8")
    pixels[:, :, 600:][pixels[:, :, 600:] > 0] += 120
    striped = make_scene(pixels, "strips.tif", nodata=0, blockysize=8)
    tiled = make_scene(pixels, "tiles.tif", nodata=0, tiled=True, blockxsize=128, blockysize=128)
    probability = predict(open_scene(striped, resize_factor=7, scale=255), FakeModel())
    small_chunks(256)
    whole = open_valid(striped, chunk=256)
    assert whole.encoding[WINDOWS].is_striped
    masks = [enlarge(probability, like, threshold=0.5) for like in (whole, open_valid(tiled))]
    assert masks[0].chunks == masks[1].chunks
    np.testing.assert_array_equal(*masks)
    np.testing.assert_array_equal(masks[0] == NODATA, (pixels == 0).any(axis=0))
    assert {int(value) for value in np.unique(masks[0])} == {CLEAR, CLOUD, NODATA}


@forty_times
@given(
    shape=st.tuples(st.integers(150, 400), st.integers(900, 1300)),
    factor=st.floats(1.01, 9),
    chunk=st.integers(20, 120),
    nodata=st.sampled_from([0, None]),
    form=st.sampled_from(["strips", "tiles", "zarr"]),
    seed=st.integers(0, 99),
)
def test_pixels_of_a_coarser_grid_do_not_depend_on_the_chunks_or_the_format(
    make_scene, shape, factor, chunk, nodata, form, seed
):
    """Of noise, so that many pixels are nodata in one band only."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, *shape)).astype("uint8")
    square = {"tiled": True, "blockxsize": 128, "blockysize": 128} if form == "tiles" else {}
    path = make_scene(pixels, nodata=nodata, **square)
    whole = open_scene(path, resize_factor=factor, chunk=4096).to_numpy().astype("float32")
    if form == "zarr":
        path = path.with_suffix(".zarr")
        grid = Grid(*shape, Affine(10, 0, 500_000, 0, -10, 5_000_000), UTM)
        stored = grid.attach(xr.DataArray(pixels, dims=("band", "y", "x"), name="scene"))
        stored.to_dataset().to_zarr(path, mode="w", consolidated=False)
    given = {"nodata": nodata} if form == "zarr" else {}
    parts = open_scene(path, resize_factor=factor, chunk=chunk, **given)
    # A mean that lies between two numbers becomes the one or the other.
    np.testing.assert_allclose(parts.to_numpy().astype("float32"), whole, atol=1)


@pytest.mark.parametrize(("height", "width"), [(4, 40_000), (40_000, 4)])
def test_weights_do_not_grow_with_the_square_of_a_length(height, width):
    pixels = np.ones((1, height, width), "float32")
    pixels[0, 0, 0] = np.nan
    grid = Grid(height, width, Affine.identity(), None)
    tracemalloc.start()
    try:
        mean = resample.average_of(
            lambda rows, columns: pixels[:, rows, columns],
            grid, slice(0, height // 2), slice(0, width // 2), 2, 2,
        )  # fmt: skip
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(mean, np.ones((1, height // 2, width // 2)))
    assert peak < 40 * pixels.nbytes


def test_halves_are_rounded_as_gdal_does(make_scene):
    pixels = np.repeat(np.array([[[-5, -4, -1, 0, 0, 1, 4, 5]]], "int16"), 2, axis=1)
    with rasterio.open(make_scene(pixels)) as dataset:
        by_gdal = dataset.read(out_shape=(1, 1, 4), resampling=Resampling.average)
    mean = pixels.reshape(1, 2, 4, 2).mean(axis=(1, 3), dtype="float32")
    np.testing.assert_array_equal(resample.rounded(mean), by_gdal[0])


def test_a_large_source_is_averaged_few_rows_at_a_time(rng, monkeypatch):
    pixels = rng.random((3, 2000, 900)).astype("float32")
    read = []

    def window(rows, columns):
        read.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return pixels[:, rows, columns]

    grid = Grid(2000, 900, Affine.identity(), None)
    how = (window, grid, slice(3, 190), slice(2, 88), 10.25, 10)
    whole = resample.average_of(*how)
    monkeypatch.setattr(resample, "_PIXELS", 80_000)
    read.clear()
    np.testing.assert_allclose(resample.average_of(*how), whole, rtol=1e-6)
    assert 40_000 < max(read) <= 80_000 + 860  # and a row shared with the next


def test_another_array_than_the_one_opened_is_not_read_from_the_file(make_scene, rng, monkeypatch):
    """What persisted, cropped or changed arrays know of the file they came from is not theirs."""
    pixels = rng.integers(0, 9, (3, 120, 160)).astype("uint8")
    valid = open_valid(make_scene(pixels, nodata=0), chunk=64)

    def seen(like):
        coarse = grid_of(like).coarser(4, 4)
        ones = np.ones((coarse.height, coarse.width), "uint8")
        return enlarge(on_grid(ones, coarse), like).compute() != NODATA

    for like in (valid[40:80, 80:160], valid & (valid.x > valid.x[80])):
        np.testing.assert_array_equal(seen(like), like)
    kept = valid.persist()
    monkeypatch.setattr(RasterReader, "read", None)
    np.testing.assert_array_equal(seen(kept), (pixels != 0).all(axis=0))


def test_every_valid_pixel_of_a_scene_is_in_the_mask_however_lonely(make_scene, rng):
    """One valid pixel in 3,600 still makes its coarse pixel valid, so that it is not lost."""
    pixels = rng.integers(1, 255, (3, 180, 180)).astype("uint8")
    seen = np.zeros((180, 180), "uint8")
    seen[70, 100] = seen[:60, :60] = 255
    path = make_scene(pixels, mask=seen)
    coarse = open_scene(path, resize_factor=60)
    assert int(coarse.notnull().all("band").sum()) == 2
    probability = on_grid(coarse.mean("band", skipna=False).values / 255, grid_of(coarse))
    fine = enlarge(probability.astype("float32"), open_valid(path))
    np.testing.assert_array_equal(fine.notnull(), seen > 0)


def test_nothing_is_computed_before_it_is_asked_for():
    like, grid = scene_of(64, 64)

    def never(_):
        raise AssertionError("computed too early")

    coarse = grid.coarser(8, 8)
    lazy = da.ones((8, 8), dtype="float32").map_blocks(
        never, dtype="float32", meta=np.empty((0, 0))
    )
    fine = enlarge(on_grid(lazy, coarse), like)
    assert dask.is_dask_collection(fine.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resampling": "cubic"}, "resampling is 'cubic': choose"),
        ({"threshold": 1.5}, "threshold is 1.5"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    like, grid = scene_of(8, 8)
    array = on_grid(np.zeros((4, 4), "float32"), grid.coarser(2, 2))
    with pytest.raises(ValueError, match=message):
        enlarge(array, like, **change)


def test_another_area_is_refused():
    like, _ = scene_of(80, 80)
    _, elsewhere = scene_of(80, 84)
    array = on_grid(np.zeros((10, 10), "float32"), elsewhere.resized(10, 10))
    with pytest.raises(ValueError, match="do not cover the same area"):
        enlarge(array, like)


def test_a_coarser_scene_is_refused():
    like, grid = scene_of(8, 8)
    with pytest.raises(ValueError, match="coarser"):
        enlarge(on_grid(np.zeros((16, 8), "float32"), grid.resized(16, 8)), like)


def test_a_cut_mask_cannot_be_cut_again():
    like, grid = scene_of(8, 8)
    with pytest.raises(ValueError, match="cut already"):
        enlarge(on_grid(np.zeros((4, 4), "uint8"), grid.coarser(2, 2)), like, threshold=0.5)


def test_average_leaves_nodata_out_and_keeps_it_where_alone():
    values = np.array([[[1, 3, np.nan, np.nan, 8]]], "float32")
    _, weights_y = resample.average_weights(0, 1, 1, 1)
    window, weights_x = resample.average_weights(0, 3, 5 / 3, 5)
    assert window == slice(0, 5)
    mean = resample.average(values, weights_y, weights_x)[0, 0]
    # Pixels of 5/3: [1, 2/3 of 3], [1/3 of 3, NaN, 1/3 of NaN], [NaN, 8].
    np.testing.assert_allclose(mean, [(1 + 2) / (5 / 3), 3, 8], rtol=1e-6)
    alone = resample.average(values[..., 2:4], np.ones((1, 1)), np.ones((1, 2)))
    assert np.isnan(alone).all()
