"""What is done with arrays in a notebook: kept on a cluster, sliced, joined, pickled, written."""

import asyncio
import multiprocessing
import os
import pickle
import shutil

import dask
import dask.array
import numpy as np
import pyproj
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from conftest import FakeModel
from distributed import Client

import cloudmask
from cloudmask import (
    enlarge,
    evaluate,
    open_label,
    open_scene,
    open_valid,
    predict,
    quicklook,
    segment,
    threshold,
    write_cog,
    write_png,
    write_sample,
    write_zarr,
)
from cloudmask.grid import grid_of
from cloudmask.manifest import Example

MODEL = FakeModel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    write_sample(folder / "scene.tif", size=(300, 400))
    return folder


@pytest.fixture
def scene(folder):
    return open_scene(folder / "scene.tif", chunk=128)


def test_what_was_kept_on_a_cluster_is_written(scene, tmp_path):
    expected = segment(scene, MODEL).to_numpy()
    with Client(processes=False, n_workers=1, dashboard_address=":0"):
        mask = segment(scene, MODEL).persist()
        for write, name in ((write_cog, "m.tif"), (write_png, "m.png"), (write_zarr, "m.zarr")):
            write(mask, tmp_path / name)
            np.testing.assert_array_equal(open_label(tmp_path / name), expected)
        probability = predict(scene, MODEL).persist()
        write_cog(threshold(probability, 0.5), tmp_path / "half.tif")
        np.testing.assert_array_equal(open_label(tmp_path / "half.tif"), expected)


def test_a_client_that_cannot_be_waited_for_is_named(scene, tmp_path):
    async def work():
        options = {"processes": False, "n_workers": 1, "dashboard_address": ":0"}
        async with Client(asynchronous=True, **options):
            write_cog(segment(scene, MODEL), tmp_path / "m.tif")

    with pytest.raises(RuntimeError, match="Dask client is asynchronous"):
        asyncio.run(work())
    assert not list(tmp_path.iterdir())

    async def work_on_threads():
        options = {"processes": False, "n_workers": 1, "dashboard_address": ":0"}
        async with Client(asynchronous=True, **options):
            with dask.config.set(scheduler="threads"):
                write_cog(segment(scene, MODEL), tmp_path / "m.tif")

    asyncio.run(work_on_threads())
    assert (tmp_path / "m.tif").exists()


def test_scenes_and_results_are_pickled(scene):
    again = pickle.loads(pickle.dumps(scene))
    np.testing.assert_array_equal(again, scene)
    mask = segment(scene, MODEL)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mask)), mask)


def test_where_a_scene_is_valid_is_bool(folder):
    for nodata in (None, 0):
        valid = open_valid(folder / "scene.tif", nodata=nodata)
        assert valid.dtype == bool
        assert (~valid).to_numpy().dtype == bool


def test_dimensions_go_by_their_names(folder, scene, tmp_path):
    square = {"x": slice(0, 300)}
    mask, label = segment(scene, MODEL).isel(square), open_label(folder / "scene_label.tif")
    scores = evaluate(mask, label.isel(square)).f1
    assert scores > 0
    assert evaluate(mask.T, label.isel(square)).f1 == scores
    assert evaluate(mask, label.isel(square).T).f1 == scores
    for name, shown in (("a.png", mask), ("b.png", mask.T)):
        quicklook(scene.isel(square), shown, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match=r"dimensions time, y, x: give one of \(y, x\)"):
        evaluate(mask.expand_dims("time"), label.isel(square))


def test_parts_that_do_not_touch_have_no_place(scene, tmp_path):
    mask = segment(scene, MODEL)
    apart = xr.concat([mask.isel(x=slice(0, 100)), mask.isel(x=slice(300, 400))], "x")
    for uneven in (apart, mask.isel(x=[0, 1, 2, 5, 9])):
        with pytest.raises(ValueError, match="x is not evenly spaced"):
            write_cog(uneven, tmp_path / "m.tif")
    with pytest.raises(ValueError, match="y is <U"):
        write_cog(mask.assign_coords(y=mask.y.astype(str)), tmp_path / "m.tif")
    every_second = mask.isel(x=slice(None, None, 2), y=slice(10, None, 2))
    write_cog(every_second, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.transform.almost_equals(grid_of(every_second).transform)


def test_a_probability_knows_its_nodata_when_it_is_cut(scene, tmp_path):
    write_cog(predict(scene, MODEL), tmp_path / "p.tif")
    mask = threshold(open_label(tmp_path / "p.tif"), 0.5)
    assert "_FillValue" not in mask.attrs
    mask.rio.to_raster(tmp_path / "m.tif")
    mask.chunk(100).to_zarr(tmp_path / "m.zarr", consolidated=False)
    declared = xr.DataArray(
        np.array([[0.9, -9999, 0.1]], "float32"), dims=("y", "x"), attrs={"_FillValue": -9999.0}
    )
    np.testing.assert_array_equal(threshold(declared, 0.5), [[1, 255, 0]])


def test_attributes_of_a_rescaled_scene_are_flat(folder):
    result = predict(open_scene(folder / "scene.tif", stretch=2), MODEL)
    for value in result.attrs.values():  # netCDF takes numbers, text, and lists of them
        assert np.ndim(value) <= 1
    assert result.attrs["scene_source"] == str(folder / "scene.tif")


def test_a_relative_path_is_that_of_the_folder_in_which_it_was_opened(folder, monkeypatch):
    monkeypatch.chdir(folder)
    scene = open_scene("scene.tif")
    assert scene.attrs["scene_source"] == str(folder / "scene.tif")


def test_another_date_is_not_taken_for_one_that_was_begun(folder, tmp_path):
    dates = []
    for day in "ab":
        path = tmp_path / f"{day}.tif"
        path.write_bytes((folder / "scene.tif").read_bytes())
        dates.append(rioxarray.open_rasterio(path, chunks={"y": 128, "x": 128}))
    write_zarr(segment(dates[0], MODEL), tmp_path / "m.zarr", resume=True)
    write_zarr(segment(dates[0], MODEL), tmp_path / "m.zarr", resume=True)
    with pytest.raises(ValueError, match="made from another scene source"):
        write_zarr(segment(dates[1], MODEL), tmp_path / "m.zarr", resume=True)


def test_a_series_of_zarr_version_2_gives_one_of_version_3(scene, tmp_path):
    days = scene.expand_dims(time=2).rename("scene").chunk(x=100, y=100)
    days.attrs = {}
    days.to_zarr(tmp_path / "days.zarr", zarr_format=2, consolidated=False)
    stored = xr.open_zarr(tmp_path / "days.zarr", decode_coords="all", consolidated=False)["scene"]
    write_zarr(segment(stored, MODEL), tmp_path / "m.zarr")
    masks = xr.open_zarr(tmp_path / "m.zarr", mask_and_scale=False, consolidated=False)["mask"]
    for mask in masks:
        np.testing.assert_array_equal(mask, segment(scene, MODEL))


def test_a_store_may_be_named_by_a_url_of_this_machine(scene, tmp_path):
    mask = segment(scene, MODEL)
    write_zarr(mask, f"file://{tmp_path}/m.zarr")
    np.testing.assert_array_equal(open_label(tmp_path / "m.zarr"), mask)


def test_a_file_does_not_take_the_place_of_a_store_nor_of_a_folder(scene, tmp_path):
    mask = segment(scene, MODEL)
    write_zarr(mask, tmp_path / "m.zarr")
    for write, suffix in ((write_cog, ".tif"), (write_png, ".png")):
        store = tmp_path / f"m{suffix}"
        store.symlink_to(tmp_path / "m.zarr")
        with pytest.raises(IsADirectoryError, match="is a directory: name a file"):
            write(mask, store, overwrite=True)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match="is a directory: name a file"):
        quicklook(scene, mask, tmp_path / "folder.png")
    np.testing.assert_array_equal(open_label(tmp_path / "m.zarr"), mask)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chunk": (512, 512)}, r"chunk is \(512, 512\): give a number of pixels"),
        ({"chunk": "auto"}, "chunk is 'auto': give a number of pixels"),
        ({"chunk": 128.0}, "chunk is 128.0: give a number of pixels"),
        ({"bands": 3}, "bands is 3: give three numbers"),
        ({"bands": (1.5, 2, 3)}, r"bands is \(1.5, 2, 3\): give three numbers"),
    ],
)
def test_what_is_no_chunk_and_no_band_is_named(folder, given, message):
    with pytest.raises(ValueError, match=message):
        open_scene(folder / "scene.tif", **given)


def test_only_masks_and_probabilities_are_enlarged(scene):
    mask = segment(scene, MODEL)
    for dtype in ("bool", "int64"):
        with pytest.raises(ValueError, match=f"the array is {dtype}: a mask is uint8"):
            enlarge(mask.astype(dtype), scene)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_coordinates_that_are_lazy_are_written(scene, tmp_path):
    days = np.datetime64("2024-05-01T10:00", "ns") + np.arange(300).astype("m8[s]")
    lazy = segment(scene, MODEL).assign_coords(
        lat=(("y", "x"), dask.array.full((300, 400), 11.5, chunks=128)),
        acquired=("y", dask.array.from_array(days, chunks=100)),
    )
    write_zarr(lazy, tmp_path / "m.zarr", multiscale=True)
    stored = xr.open_zarr(tmp_path / "m.zarr", consolidated=False)
    assert (stored.lat == 11.5).all()
    np.testing.assert_array_equal(stored.acquired, days)


def test_overviews_leave_out_coordinates_of_the_pixels(tmp_path):
    mask = _numbered_rows(700, 30)
    write_zarr(mask.assign_coords(row=("y", np.arange(700))), tmp_path / "m.zarr", multiscale=True)
    coarse = xr.open_zarr(tmp_path / "m.zarr", group="2", consolidated=False)
    assert coarse.sizes["y"] == 350
    assert "row" not in coarse.coords


@pytest.mark.parametrize(
    "changed",
    [
        lambda mask: mask.assign_coords(pilot=np.array({}, dtype=object)),
        lambda mask: mask.assign_attrs(pilot={1: object()}),
    ],
)
def test_what_a_store_cannot_hold_is_told_of(scene, tmp_path, changed):
    with pytest.raises(ValueError, match=r"m\.zarr cannot hold a coordinate or an attribute"):
        write_zarr(changed(segment(scene, MODEL)), tmp_path / "m.zarr")
    assert not list(tmp_path.iterdir())


def test_a_file_that_kept_attributes_of_its_scene_is_another_file(folder, tmp_path):
    scene = open_scene(folder / "scene.tif")
    scene.rio.to_raster(tmp_path / "a.tif")
    (scene // 4).assign_attrs(scene.attrs).rio.write_crs(scene.rio.crs).rio.to_raster(
        tmp_path / "b.tif"
    )
    one, other = (
        predict(rioxarray.open_rasterio(tmp_path / name), MODEL) for name in ("a.tif", "b.tif")
    )
    write_zarr(one, tmp_path / "p.zarr", resume=True)
    with pytest.raises(ValueError, match=r"another scene source .*a\.tif, now .*b\.tif"):
        write_zarr(other, tmp_path / "p.zarr", resume=True)
    write_cog(other, tmp_path / "m.tif", like=tmp_path / "b.tif")


def test_a_scene_behind_a_link_keeps_what_was_told_of_it(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    scene, pixels = linked / "scene.tif", open_scene(folder / "scene.tif").to_numpy()
    nodata = int(pixels[0, 150, 200])
    hidden = int((pixels == nodata).any(axis=0).sum())
    coarse = predict(open_scene(scene, resize_factor=2, nodata=nodata), MODEL)
    write_cog(coarse, tmp_path / "m.tif", like=scene)
    assert int((open_label(tmp_path / "m.tif") == 255).sum()) == hidden
    write_zarr(predict(open_scene(scene, scale=255), MODEL), tmp_path / "p.zarr")
    with pytest.raises(ValueError, match="made from another scene radiometry"):
        write_zarr(predict(open_scene(scene, scale=200), MODEL), tmp_path / "p.zarr", resume=True)


@pytest.mark.parametrize(
    "changed",
    [
        lambda scene: scene // 2,  # has no attributes any more
        lambda scene: (scene // 2).assign_attrs(scene.attrs),
        lambda scene: scene.copy(
            data=dask.array.asarray(scene.to_numpy() // 2, chunks=scene.chunks)
        ),
        lambda scene: xr.concat([scene, scene // 2], "time", join="override")[1],
    ],
)
def test_a_store_of_other_pixels_is_not_resumed(scene, tmp_path, changed):
    own, other = segment(scene, MODEL), segment(changed(scene).astype("uint8"), MODEL)
    for one in (own, other):
        write_zarr(one, tmp_path / "m.zarr", overwrite=True)
        write_zarr(one, tmp_path / "m.zarr", resume=True)
    with pytest.raises(ValueError, match="made from another scene"):
        write_zarr(own, tmp_path / "m.zarr", resume=True)


@pytest.mark.parametrize("nodata", [None, 7])
def test_what_rioxarray_opens_without_chunks_stays_on_disk(make_scene, rng, nodata):
    scene = make_scene(rng.integers(0, 256, (3, 300, 260), "uint8"), nodata=nodata)
    opened = rioxarray.open_rasterio(scene)
    probability = predict(opened, MODEL)
    valid = enlarge(probability, opened, threshold=0.5)
    assert not opened.variable._in_memory
    np.testing.assert_array_equal(probability, predict(open_scene(scene), MODEL))
    assert (valid == 255).any() == (nodata is not None)


def test_a_cube_in_memory_is_cut_by_dates_and_not_by_pixels(rng):
    cube = xr.DataArray(rng.random((40, 3, 600, 700), "float32"), dims=("time", "band", "y", "x"))
    assert predict(cube, MODEL).chunks == ((1,) * 40, (600,), (700,))


def test_a_mask_of_a_scene_that_is_gone_is_written(tmp_path, scene):
    (tmp_path / "gone.txt").touch()
    for source in ("/vsimem/gone.tif", str(tmp_path / "gone.txt"), str(tmp_path / "gone.tif")):
        plain = xr.DataArray(scene.to_numpy(), dims=("band", "y", "x"))
        plain.encoding["source"] = source
        write_cog(segment(plain, MODEL), tmp_path / "m.tif", overwrite=True)


def test_corners_that_stackstac_tells_of_are_no_centres(rng):
    transform = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    scene = xr.DataArray(
        rng.integers(0, 256, (3, 64, 64), "uint8"),
        dims=("band", "y", "x"),
        coords={"y": 5_000_000 - 10.0 * np.arange(64), "x": 500_000 + 10.0 * np.arange(64)},
        attrs={"crs": "epsg:32633", "transform": transform},
    )
    assert segment(scene, MODEL).rio.transform().almost_equals(transform)
    part = segment(scene[:, 8:, 16:], MODEL).rio.transform()
    assert part.almost_equals(transform @ Affine.translation(16, 8))
    centres = scene.assign_coords(y=scene.y - 5, x=scene.x + 5)
    assert segment(centres, MODEL).rio.transform().almost_equals(transform)


def test_a_threshold_of_numpy_is_that_of_python(scene, tmp_path):
    probability = predict(scene, MODEL, overlap=np.int64(16))
    write_zarr(threshold(probability, np.float32(0.5)), tmp_path / "m.zarr")
    write_zarr(segment(scene, MODEL, overlap=16), tmp_path / "m.zarr", resume=True)


def test_a_slice_of_a_rotated_scene_lies_where_it_did(make_scene, rng, tmp_path):
    turned = Affine.translation(4e5, 1.3e6) @ Affine.rotation(20) @ Affine.scale(10, -10)
    pixels = rng.integers(0, 255, (3, 60, 80), "uint8")
    scene = open_scene(make_scene(pixels, crs="EPSG:32637", transform=turned))
    part = scene.isel(y=slice(20, 52), x=slice(16, 80))
    expected = turned @ Affine.translation(16, 20)
    write_cog(segment(part, MODEL), tmp_path / "m.tif")
    write_zarr(segment(part, MODEL), tmp_path / "m.zarr")
    for name in ("m.tif", "m.zarr"):
        assert grid_of(open_label(tmp_path / name)).transform.almost_equals(expected)
    thin = scene.isel(y=slice(20, None, 2), x=slice(16, None, 4))
    thinned = turned @ Affine.translation(14.5, 19.5) @ Affine.scale(4, 2)
    assert grid_of(thin).transform.almost_equals(thinned)
    told = part.rio.write_transform(expected)  # as rioxarray does after cutting
    assert grid_of(told).transform.almost_equals(expected)


def test_coordinates_of_the_caller_s_own_are_kept(scene, tmp_path):
    """Landsat counts its scenes by path and row."""
    write_zarr(segment(scene, MODEL).assign_coords(path=185, row=33), tmp_path / "m.zarr")
    assert open_label(tmp_path / "m.zarr").coords["row"] == 33


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (write_cog, "m.zarr", r"let it end in \.tif or \.tiff"),
        (write_zarr, "m.tif", r"let it end in \.zarr"),
        (write_png, "m.tif", r"let it end in \.png"),
        (lambda mask, path: quicklook(mask.expand_dims(band=3), mask, path), "s.tif", r"in \.png"),
    ],
)
def test_a_name_that_readers_would_take_for_another_kind_is_refused(
    scene, tmp_path, write, name, message
):
    (tmp_path / name).write_bytes(b"kept")
    with pytest.raises(ValueError, match=rf"{name} ends in .*{message}"):
        write(segment(scene, MODEL), tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda scene: predict(scene, "lite"), "the model is 'lite': give what load_model returns"),
        (lambda scene: predict(scene, MODEL, overlap=16.0), "overlap is 16.0: give a whole number"),
        (lambda scene: segment(scene, MODEL, overlap="16"), "overlap is '16': give a whole number"),
        (lambda scene: threshold(predict(scene, MODEL), "0.5"), "threshold is '0.5'"),
        (lambda scene: open_scene(scene.attrs["scene_source"], scale="1"), "scale is '1'"),
        (lambda scene: open_scene(scene.attrs["scene_source"], stretch=[2]), r"stretch is \[2\]"),
        (lambda scene: open_scene(scene.attrs["scene_source"], nodata="0"), "nodata is '0'"),
        (lambda scene: open_scene(scene.attrs["scene_source"], gsd=[30]), r"gsd is \[30\]"),
        (lambda scene: open_scene(scene.attrs["scene_source"], resize_factor="2"), "factor is '2'"),
        (lambda scene: open_scene(scene.attrs["scene_source"], chunk=((3e2,), (4e2,))), "300.0"),
        (lambda scene: open_scene(scene.attrs["scene_source"], chunk=scene.chunks), "chunk is "),
        (lambda scene: predict(scene, scene), "the model is <xarray.DataArray 'scene' .*: give"),
        (lambda _: cloudmask.load_model(""), "no model is called ''"),
        (lambda _: write_sample("s.tif", size=100), "size is 100: give a height and a width"),
    ],
)  # fmt: skip
def test_what_is_no_number_and_no_model_is_named(scene, call, message):
    with pytest.raises(ValueError, match=message):
        call(scene)


def test_a_number_in_an_array_is_a_number(scene):
    step = abs(scene.x[1] - scene.x[0])
    assert open_scene(scene.attrs["scene_source"], gsd=2 * step).shape == (3, 150, 200)
    assert threshold(predict(scene, MODEL), np.array(0.5)).attrs["threshold"] == 0.5


def test_cards_of_models_are_the_caller_s_own():
    cloudmask.list_models()["lite"]["gsd_range"][1] = 9999
    assert cloudmask.load_model("lite").gsd_range[1] < 9999


def test_an_error_of_a_reader_comes_back_from_a_worker_as_it_is(folder, tmp_path):
    path = tmp_path / "s.tif"
    shutil.copy(folder / "scene.tif", path)
    mask = segment(open_scene(path), MODEL)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        Client(n_workers=1, threads_per_worker=1, dashboard_address=":0"),
        pytest.raises(OSError, match=r"s\.tif cannot be read .* truncated or damaged"),
    ):
        mask.compute()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (lambda mask: mask.rio.write_crs(32638), "crs"),
        (lambda mask: mask.assign_coords(time=np.datetime64("2021-01-01", "ns")), "coordinates"),
    ],
)
def test_a_store_of_another_place_or_time_is_not_resumed(tmp_path, changed, what):
    mask = _numbered_rows(40, 60).assign_coords(time=np.datetime64("2020-01-01", "ns"))
    write_zarr(mask, tmp_path / "m.zarr")
    write_zarr(mask, tmp_path / "m.zarr", resume=True)
    with pytest.raises(ValueError, match=f"made from another {what} "):
        write_zarr(changed(mask), tmp_path / "m.zarr", resume=True)


def test_declared_nodata_of_a_probability_is_nodata_everywhere(folder, tmp_path):
    values = np.full((30, 40), 0.9, "float32")
    values[:15] = -9999
    with rasterio.open(folder / "scene.tif") as scene, rasterio.open(
        tmp_path / "p.tif", "w", driver="GTiff", height=30, width=40, count=1, dtype="float32",
        crs=scene.crs, transform=scene.transform @ scene.transform.scale(10), nodata=-9999,
    ) as file:  # fmt: skip
        file.write(values, 1)
    probability = open_label(tmp_path / "p.tif")
    write_cog(probability, tmp_path / "m.tif", like=folder / "scene.tif", threshold=0.5)
    mask = open_label(tmp_path / "m.tif").to_numpy()
    assert set(np.unique(mask[:150])) == {255}
    assert set(np.unique(mask[150:])) == {1}
    for write, name in ((write_cog, "copy.tif"), (write_zarr, "copy.zarr")):
        write(probability, tmp_path / name)
        copy = open_label(tmp_path / name).to_numpy()
        np.testing.assert_array_equal(copy, np.where(values == -9999, np.nan, values))


def test_a_mask_that_xarray_decoded_is_a_mask(scene, folder, tmp_path):
    mask = segment(scene.astype("float32").where(scene.x > scene.x[50]), MODEL)
    write_zarr(mask, tmp_path / "m.zarr")
    decoded = xr.open_zarr(tmp_path / "m.zarr", consolidated=False)["mask"]
    assert decoded.dtype == np.float32
    for keywords in ({}, {"like": folder / "scene.tif"}):
        write_cog(decoded, tmp_path / "m.tif", overwrite=True, **keywords)
        written = open_label(tmp_path / "m.tif")
        assert written.dtype == np.uint8
        np.testing.assert_array_equal(written, mask)


def test_the_crs_is_kept_whatever_its_coordinate_is_called(scene, tmp_path):
    plain = scene.drop_vars("spatial_ref").rio.write_crs(scene.rio.crs, grid_mapping_name="crs")
    plain.attrs, plain.encoding = {}, {"grid_mapping": "crs"}
    plain.chunk(128).to_dataset(name="rgb").to_zarr(tmp_path / "s.zarr", consolidated=False)
    opened = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).set_coords("crs")["rgb"]
    mask = segment(opened, MODEL)
    assert mask.rio.crs == scene.rio.crs
    mask.chunk(128).to_zarr(tmp_path / "m.zarr", consolidated=False)
    assert grid_of(open_label(tmp_path / "m.zarr")) == grid_of(scene)


def test_a_single_row_or_column_stays_where_it_is(scene, tmp_path):
    mask = _numbered_rows(40, 60)
    column = mask[5:20, 7:8]
    write_cog(column, tmp_path / "c.tif")
    assert tuple(grid_of(open_label(tmp_path / "c.tif")).transform)[:6] == (
        10, 0, 1070, 0, -10, 4950,
    )  # fmt: skip
    write_zarr(column, tmp_path / "c.zarr")
    np.testing.assert_array_equal(open_label(tmp_path / "c.zarr").y, column.y)
    every_second = scene[0, ::2, 5:6]
    transform = grid_of(every_second).transform
    assert (transform.a, transform.e) == (10, -20)
    assert transform.f - 10 == every_second.y[0]


def test_a_picture_of_a_mask_from_elsewhere_is_refused(scene, tmp_path):
    mask = segment(scene, MODEL)
    for other in (mask[::-1], mask.assign_coords(x=mask.x + 10_000)):
        with pytest.raises(ValueError, match="lies elsewhere than the scene"):
            quicklook(scene, other, tmp_path / "q.png")
    quicklook(scene, mask, tmp_path / "q.png")


def test_what_has_no_dimension_of_its_own_is_kept_when_enlarged(folder):
    small = predict(open_scene(folder / "scene.tif", resize_factor=4), MODEL)
    large = enlarge(small.assign_coords(time=5), open_scene(folder / "scene.tif"), threshold=0.5)
    assert large.time == 5
    assert large.rio.crs == small.rio.crs
    with pytest.raises(ValueError, match="CRS of the array is None"):
        enlarge(small.drop_vars("spatial_ref"), open_scene(folder / "scene.tif"))


@pytest.mark.parametrize(
    "call",
    [
        lambda what, _: predict(what, MODEL),
        lambda what, _: threshold(what, 0.5),
        lambda what, _: cloudmask.cloud_cover(what),
        lambda what, folder: write_cog(what, folder / "m.tif"),
        lambda what, folder: write_png(what, folder / "m.png"),
        lambda what, folder: write_zarr(what, folder / "m.zarr"),
        lambda what, _: enlarge(what, what),
    ],
)
def test_what_is_no_array_or_empty_is_named(call, scene, tmp_path):
    for what, message in (
        (np.zeros((3, 40, 40), "uint8"), "ndarray has no dimensions by name"),
        (scene.to_dataset(name="rgb"), "Dataset of rgb: give one of its arrays"),
    ):
        with pytest.raises(ValueError, match=message):
            call(what, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_empty_scene_or_mask_is_named(scene, tmp_path):
    with pytest.raises(ValueError, match="the scene has no pixel"):
        predict(scene[:, :0], MODEL)
    with pytest.raises(ValueError, match="the array has no pixel"):
        write_cog(segment(scene, MODEL)[:0], tmp_path / "m.tif")


def _numbered_rows(height, width):
    """A mask of 10 m from (1000, 5000), as others make one: no transform is noted."""
    rows = np.arange(height)
    return xr.DataArray(
        np.broadcast_to(((rows // 7) % 2).astype("uint8")[:, None], (height, width)).copy(),
        dims=("y", "x"),
        coords={"y": 4995.0 - 10 * rows, "x": 1005.0 + 10 * np.arange(width)},
    ).rio.write_crs(32637)


def test_a_forked_process_is_told_to_be_spawned(scene):
    small = scene.isel(y=slice(0, 64), x=slice(0, 64)).to_numpy()
    pixels = np.moveaxis(small, 0, -1)[np.newaxis]
    model = cloudmask.load_model("lite")
    model(pixels)
    fork = multiprocessing.get_context("fork")
    said, say = fork.Pipe(duplex=False)

    def work():
        try:
            say.send(str(model(pixels).shape))
        except RuntimeError as error:
            say.send(str(error))
        os._exit(0)

    process = fork.Process(target=work)
    process.start()
    assert said.poll(60)
    assert "forked from one in which TensorFlow ran" in said.recv()
    process.join()


# --- arrays that are not what they call themselves


def test_means_of_masks_are_no_masks(scene, tmp_path):
    mask = segment(scene, MODEL)
    share = mask.where(mask != 255).coarsen(y=10, x=10, boundary="trim").mean()
    share[0, 0] = 0.5
    with pytest.raises(ValueError, match=r"and calls itself a mask.*del array.attrs\['flag_val"):
        cloudmask.cloud_cover(share)
    with pytest.raises(ValueError, match="calls itself a mask"):
        write_cog(share, tmp_path / "m.tif")
    assert not list(tmp_path.iterdir())
    del share.attrs["flag_values"]
    write_cog(share, tmp_path / "m.tif")
    np.testing.assert_array_equal(open_label(tmp_path / "m.tif"), share)
    as_floats = mask.where(mask != 255)  # as xarray reads one by default
    assert cloudmask.cloud_cover(as_floats) == cloudmask.cloud_cover(mask)
    assert evaluate(mask, as_floats).f1 == 1


@pytest.mark.parametrize(("write", "name"), [(write_cog, "m.tif"), (write_zarr, "m.zarr")])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_imagery_is_neither_a_mask_nor_a_probability(scene, tmp_path, write, name, dtype):
    kind = {"uint8": "a mask is 0 clear", "float32": "a probability is from 0 to 1"}[dtype]
    with pytest.raises(ValueError, match=rf"the array holds \d+: {kind}"):
        write(scene[0].astype(dtype), tmp_path / name)
    assert not list(tmp_path.iterdir())


class Double(FakeModel):
    """As what computes in NumPy's own precision."""

    def __call__(self, pixels):
        return super().__call__(pixels).astype("float64")


class AsOfKeras(FakeModel):
    """With the channel that Keras' networks end in."""

    def __call__(self, pixels):
        return super().__call__(pixels)[..., None]


def test_models_of_others_may_give_other_types_and_no_other_shapes(scene, tmp_path):
    found = predict(scene, Double())
    assert found.compute().dtype == found.dtype == "float32"
    write_cog(found, tmp_path / "p.tif")
    for pixels in (scene, scene.astype("float32").where(scene != 3)):
        with pytest.raises(ValueError, match=r"fake gives \(1, .*, 1\) for pixels .*: a model"):
            predict(pixels, AsOfKeras()).compute()

    class Bare:
        name, overlap, window, threshold = "bare", 0, None, 0.5

        def __call__(self, pixels):
            return pixels[..., 0]

    with pytest.raises(ValueError, match=r"the model has no stride: see cloudmask\.forward\.Pred"):
        predict(scene, Bare())


def test_a_dataset_is_told_how_to_become_an_array(scene):
    with pytest.raises(ValueError, match=r"\.to_array\('band'\), and give that"):
        predict(scene.to_dataset("band"), MODEL)


def test_rows_in_opposite_order_are_named(scene):
    low = predict(scene.astype("float32").coarsen(y=4, x=4).mean(), MODEL)
    with pytest.raises(ValueError, match=r"in opposite order: turn one round \(sortby\('y'"):
        enlarge(low, scene[:, ::-1])


def test_wrong_examples_and_readings_are_named():
    example = Example("a.png", "b.png", "val", "a", "all")
    for wrong in ("man.csv", example, [], ["a.png"]):
        with pytest.raises(ValueError, match=r"no examples: give some, as read_examples\(manifest"):
            cloudmask.evaluate_model(MODEL, wrong)
    with pytest.raises(ValueError, match=r"reading is .*: give a Reading"):
        cloudmask.evaluate_model(MODEL, [example], {"scale": 1})


def test_a_crs_that_satpy_attaches_is_kept(scene, tmp_path):
    crs = scene.rio.crs
    as_satpy = scene.drop_vars("spatial_ref").assign_coords(crs=pyproj.CRS.from_user_input(crs))
    for write, name in ((write_cog, "m.tif"), (write_zarr, "m.zarr")):
        write(segment(as_satpy, MODEL), tmp_path / name)
        assert grid_of(open_label(tmp_path / name)) == grid_of(scene)


def test_a_single_pixel_lies_where_it_does(scene):
    pixel = scene[:, 5:6, 7:8]
    transform = grid_of(segment(pixel, MODEL)).transform
    assert transform.almost_equals(grid_of(scene).transform @ Affine.translation(7, 5))
    bare = grid_of(pixel.drop_vars("spatial_ref").rio.write_crs(scene.rio.crs)).transform
    assert bare @ (0.5, 0.5) == pytest.approx(transform @ (0.5, 0.5))


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
def test_stores_are_opened_without_a_word(tmp_path):
    mask = xr.DataArray(dask.array.ones((40, 1100), dtype="uint8", chunks=512), dims=("y", "x"))
    write_zarr(mask, tmp_path / "m.zarr", multiscale=True)
    for group, shape in ((None, (40, 1100)), ("2", (20, 550)), ("4", (10, 275))):
        stored = xr.open_zarr(tmp_path / "m.zarr", group=group, mask_and_scale=False)["mask"]
        assert stored.shape == shape
        assert (stored == 1).all()


def test_what_cannot_be_opened_or_read_is_named_in_one_line(scene):
    with pytest.raises(ValueError, match=r"^<xarray.DataArray .* is opened as a file: give a path"):
        open_scene(scene)
    for other in (scene, scene.to_dataset(name="scene"), None):
        with pytest.raises(ValueError, match=r"^.* is opened as a file: give a path or a URL$"):
            open_label(other)
    with pytest.raises(ValueError, match="grid is 'x': give a Grid"):
        open_scene("scene.tif", grid="x")
    with pytest.raises(ValueError, match=r"declares \[0, 0, 0\] as nodata: give one number"):
        predict(scene.assign_attrs(nodata=[0, 0, 0]), MODEL)
    pixels = scene.data[:, dask.array.ones(300, dtype=bool, chunks=128)]
    with pytest.raises(ValueError, match=r"does not know the array's size: .*compute_chunk_sizes"):
        predict(xr.DataArray(pixels, dims=("band", "y", "x")), MODEL)
