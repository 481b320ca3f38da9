"""What is done with arrays in a notebook: kept on a cluster, sliced, joined, pickled, written."""

import asyncio
import multiprocessing
import os
import pickle

import dask
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
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
    (tmp_path / "folder").mkdir()
    for write in (write_cog, write_png):
        with pytest.raises(IsADirectoryError, match="is a directory: name a file"):
            write(mask, tmp_path / "m.zarr", overwrite=True)
    with pytest.raises(IsADirectoryError, match="is a directory: name a file"):
        quicklook(scene, mask, tmp_path / "folder")
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
