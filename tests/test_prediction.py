import threading
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from conftest import FakeModel
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from cloudmask import enlarge, open_scene, predict, segment, threshold
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.readers.raster import RasterReader

WINDOWED = FakeModel(window=16, stride=8, overlap=8)


@dataclass(frozen=True)
class Counting(FakeModel):
    """Remembers what it was shown."""

    shown: list[Any] = field(default_factory=list, hash=False)

    @property
    def calls(self):
        """The shape of every call."""
        return [pixels.shape for pixels in self.shown]

    def __call__(self, pixels):
        self.shown.append(pixels)
        return super().__call__(pixels)


@dataclass(frozen=True)
class Brightness(FakeModel):
    """Without context: the probability tells which pixels the model was shown."""

    def __call__(self, pixels):
        assert np.isfinite(pixels).all()
        return pixels.mean(axis=-1) / np.float32(255)


def random_scene(height, width, *, nodata="none", seed=0, dtype="float32"):
    """A NumPy-backed scene; `nodata` names the shape of its holes."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 255, (3, height, width)).astype(dtype)
    invalid = np.zeros((3, height, width), bool)
    if nodata == "frame":
        edge_y, edge_x = height // 5, width // 5
        invalid[:] = True
        invalid[:, edge_y : height - edge_y, edge_x : width - edge_x] = False
    elif nodata == "half":
        invalid[:, :, width // 2 :] = True
    elif nodata == "speckle":
        invalid[1] = rng.random((height, width)) < 0.3
    elif nodata == "islands":
        invalid[:] = rng.random((height, width)) < 0.999
    elif nodata == "all":
        invalid[:] = True
    if invalid.any():
        pixels[invalid] = np.nan
    return xr.DataArray(pixels, dims=("band", "y", "x"))


def run(scene, model=None, **how):
    return predict(scene, model or FakeModel(), **how).compute(scheduler="sync")


sizes = st.integers(1, 700)
holes = st.sampled_from(["none", "frame", "half", "speckle", "islands", "all"])


def any_chunks(data, size):
    """Chunks as a user may come by: even, with a sliver at the end, or at random."""
    if data.draw(st.booleans()):
        return data.draw(st.integers(max(1, size // 20), size + 50))
    cuts = data.draw(st.lists(st.integers(1, max(1, size - 1)), max_size=5, unique=True))
    edges = [0, *sorted(cut for cut in cuts if cut < size), size]
    return tuple(np.diff(edges).tolist())


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, nodata=holes, steps=st.integers(2, 9), data=st.data())
def test_whole_equals_chunked_and_nodata_stays_exactly_nodata(height, width, nodata, steps, data):
    scene = random_scene(height, width, nodata=nodata)
    chunks = {"y": any_chunks(data, height), "x": any_chunks(data, width)}
    whole = run(scene)
    parts = predict(scene.chunk(chunks), FakeModel(), overlap=8 * steps)
    assert parts.shape == (height, width)
    parts = parts.compute(scheduler="sync")
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    invalid = np.isnan(scene.values).any(axis=0)
    np.testing.assert_array_equal(np.isnan(whole), invalid)
    np.testing.assert_array_equal(np.isnan(parts), invalid)


@settings(max_examples=30, deadline=None)
@given(height=sizes, width=sizes, nodata=holes, data=st.data())
def test_a_windowed_model_does_not_depend_on_the_chunks(height, width, nodata, data):
    height, width = -(-height // 3), -(-width // 3)  # windows overlap fourfold: slow
    scene = random_scene(height, width, nodata=nodata)
    chunks = {"y": any_chunks(data, height), "x": any_chunks(data, width)}
    whole = run(scene, WINDOWED)
    parts = run(scene.chunk(chunks), WINDOWED)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(parts), np.isnan(scene.values).any(axis=0))


@settings(max_examples=25, deadline=None)
@given(height=sizes, width=sizes, data=st.data())
def test_uint8_scenes_give_what_floats_give(height, width, data):
    scene = random_scene(height, width, dtype="uint8")
    chunks = {"y": any_chunks(data, height), "x": any_chunks(data, width)}
    parts = run(scene.chunk(chunks))
    np.testing.assert_allclose(parts, run(scene.astype("float32")), atol=1e-6)


@pytest.mark.parametrize("model", [FakeModel(), WINDOWED])
def test_every_pixel_is_the_models_own_output(model):
    """Against the bare network on the padded scene: not merely equal to itself."""
    scene = random_scene(48, 64)
    # Mirrored one stride outwards at every edge.
    padded = np.pad(scene.values, [(0, 0), (8, 8), (8, 8)], mode="symmetric").transpose(1, 2, 0)
    if model.window is None:
        expected = model(padded[None])[0, 8:-8, 8:-8]
    else:
        total, weight = np.zeros((2, 64, 80))
        ramp = np.minimum(np.arange(16) + 0.5, 15.5 - np.arange(16))
        for y in range(0, 49, 8):
            for x in range(0, 65, 8):
                here = np.s_[y : y + 16, x : x + 16]
                total[here] += model(padded[None, *here])[0] * np.outer(ramp, ramp)
                weight[here] += np.outer(ramp, ramp)
        expected = (total / weight)[8:-8, 8:-8]
    np.testing.assert_allclose(run(scene.chunk(y=16, x=32), model), expected, atol=1e-6)


@pytest.mark.parametrize(
    "chunks",
    [
        {"y": (512, 512, 76), "x": (512, 88)},
        {"y": (1,) * 3 + (1097,), "x": (599, 1)},
        {"y": (1099, 1), "x": (1,) * 40 + (560,)},
        {"y": (7,) * 157 + (1,), "x": -1},
    ],
)
@pytest.mark.parametrize("nodata", ["none", "frame"])
def test_awkward_chunks_give_the_right_result(chunks, nodata):
    scene = random_scene(1100, 600, nodata=nodata)
    np.testing.assert_allclose(run(scene.chunk(chunks)), run(scene), atol=1e-6)


def test_bands_in_chunks_of_their_own_and_last():
    scene = random_scene(100, 120, nodata="speckle")
    expected = run(scene)
    np.testing.assert_array_equal(run(scene.chunk(band=1, y=64, x=64)), expected)
    np.testing.assert_array_equal(run(scene.transpose("y", "x", "band").chunk(y=50)), expected)


def test_infinite_pixels_are_nodata():
    scene = random_scene(40, 40)
    scene[0, 3, 5] = np.inf
    assert np.isnan(run(scene)[3, 5])
    assert int(np.isnan(run(scene)).sum()) == 1


def test_a_nodata_frame_raises_no_false_cloud():
    """Dark ground in a black or white void: what the network sees beside the edge is ground."""
    scene = random_scene(200, 200, nodata="frame")
    scene = scene.where(scene.isnull(), 60.0)
    probability = run(scene.chunk(y=64, x=64))
    np.testing.assert_allclose(probability.values[~np.isnan(probability)], 60 / 255, atol=1e-6)


# What reaches the model


def test_blocks_without_a_valid_pixel_never_reach_the_model():
    model = Counting()
    scene = random_scene(256, 256)
    scene[:, :, :192] = np.nan
    run(scene.chunk(y=64, x=64), model)
    # The right column of chunks only, though the one beside it has valid pixels in its halo.
    assert len(model.calls) == 4
    model.shown.clear()
    assert np.isnan(run(random_scene(200, 300, nodata="all").chunk(y=64, x=64), model)).all()
    assert model.calls == []


def test_every_block_reaches_the_model_once_and_no_larger_than_chunk_and_halo():
    model = Counting()
    run(random_scene(256, 256).chunk(y=64, x=64), model)
    assert len(model.calls) == 16
    assert max(shape[1] for shape in model.calls) == 64 + 2 * 16


def test_windows_come_in_batches_of_their_own_size():
    model = Counting(window=16, stride=8, overlap=8)
    run(random_scene(64, 64), model)
    assert {shape[1:] for shape in model.calls} == {(16, 16, 3)}
    assert sum(shape[0] for shape in model.calls) == 9 * 9


def test_pixels_reach_the_model_unchanged_in_rgb_order():
    scene, model = random_scene(16, 16), Counting()
    run(scene, model)
    np.testing.assert_array_equal(model.shown[0][0, 8:-8, 8:-8], scene.values.transpose(1, 2, 0))


def test_a_smaller_overlap_costs_less_and_is_obeyed():
    model = Counting()
    run(random_scene(256, 256).chunk(y=64, x=64), model, overlap=0)
    # Only the scene's own edges are mirrored, by a stride.
    assert max(shape[1] for shape in model.calls) == 64 + 8
    scene = random_scene(256, 256, nodata="frame")
    np.testing.assert_allclose(
        run(scene.chunk(y=64, x=64), Brightness(), overlap=0), run(scene, Brightness()), atol=1e-6
    )


# Coordinates and laziness


def georeferenced(**names):
    scene = random_scene(100, 130, nodata="frame").assign_coords(band=[1, 2, 3])
    return scene.rio.write_crs("EPSG:32633", **names).rio.write_transform(
        from_origin(500_000, 5_000_000, 10, 10), **names
    )


@pytest.mark.parametrize("names", [{}, {"grid_mapping_name": "crs"}])
def test_crs_and_transform_are_kept(names):
    scene = georeferenced(**names)
    for result in (predict(scene, FakeModel()), segment(scene, FakeModel())):
        assert result.rio.crs == scene.rio.crs
        assert result.rio.transform() == from_origin(500_000, 5_000_000, 10, 10)
        assert "band" not in result.coords


def test_coordinates_of_an_opened_scene_are_kept(make_scene, rng):
    pixels = rng.integers(1, 255, (3, 60, 50)).astype("uint8")
    scene = open_scene(make_scene(pixels), resize_factor=1.7)
    for result in (predict(scene, FakeModel()), segment(scene, FakeModel())):
        xr.testing.assert_equal(result.x, scene.x)
        xr.testing.assert_equal(result.y, scene.y)
        assert result.rio.bounds() == scene.rio.bounds()


def test_a_time_dimension_passes_through():
    scenes = [random_scene(90, 70, nodata="half", seed=seed) for seed in range(3)]
    stack = xr.concat(scenes, dim=xr.Variable("time", [10, 20, 30])).chunk(time=2, y=40, x=40)
    result = predict(stack, FakeModel())
    assert result.dims == ("time", "y", "x")
    assert result.time.values.tolist() == [10, 20, 30]
    result = result.compute(scheduler="sync")
    for one, scene in zip(result, scenes, strict=True):
        np.testing.assert_allclose(one, run(scene), atol=1e-6)
    mask = segment(stack.transpose("band", "y", "x", "time"), FakeModel())
    assert mask.dims == ("time", "y", "x")


def test_attributes_say_where_the_result_comes_from():
    probability = predict(random_scene(16, 16), FakeModel(threshold=0.25))
    assert probability.name == "probability"
    assert probability.dtype == np.float32
    assert probability.attrs["model"] == "fake"
    assert probability.attrs["threshold"] == 0.25


def test_nothing_runs_before_it_is_asked_for():
    def never(_):
        raise AssertionError("read too early")

    lazy = da.zeros((3, 300, 300), chunks=(3, 64, 64), dtype="float32").map_blocks(
        never, dtype="float32", meta=np.empty((0, 0, 0), "float32")
    )
    model = Counting()
    mask = segment(xr.DataArray(lazy, dims=("band", "y", "x")), model)
    assert dask.is_dask_collection(mask.data)
    assert mask.dtype == mask.data.dtype == np.uint8
    assert model.calls == []


def test_a_window_of_the_result_runs_its_own_chunks_only():
    model = Counting()
    predict(random_scene(640, 640).chunk(y=64, x=64), model)[:64, :64].compute(scheduler="sync")
    assert len(model.calls) == 1


# Schedulers


def scene_for_schedulers():
    return random_scene(300, 260, nodata="speckle").chunk(y=64, x=64)


@pytest.mark.parametrize("model", [FakeModel(), WINDOWED])
def test_threads_agree_with_one(model):
    scene = scene_for_schedulers()
    with dask.config.set(scheduler="threads", num_workers=8):
        threads = predict(scene, model).compute()
    np.testing.assert_array_equal(threads, run(scene, model))


def test_threads_are_used():
    """At least two blocks at a time, or the second core would idle."""
    meeting = threading.Barrier(2, timeout=20)

    @dataclass(frozen=True)
    class Meeting(FakeModel):
        def __call__(self, pixels):
            meeting.wait()
            return super().__call__(pixels)

    with dask.config.set(scheduler="threads", num_workers=2):
        predict(random_scene(64, 128).chunk(y=64, x=64), Meeting()).compute()


@pytest.mark.parametrize("processes", [False, True])
def test_a_cluster_agrees_with_one(make_scene, processes):
    pixels = random_scene(200, 180, dtype="uint8").values
    pixels[:, :50, :70] = 0
    scene = open_scene(make_scene(pixels, nodata=0), chunk=64)
    expected = segment(scene, FakeModel()).compute(scheduler="sync")
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=processes, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
    ):
        np.testing.assert_array_equal(segment(scene, FakeModel()).compute(), expected)


# Masks


def test_threshold_cuts_at_or_above_and_keeps_nodata():
    probability = xr.DataArray(
        np.array([[0.0, 0.49, 0.5, 1.0, np.nan]], "float32"), dims=("y", "x"), attrs={"model": "m"}
    )
    mask = threshold(probability, 0.5)
    assert mask.dtype == np.uint8
    assert mask.values.tolist() == [[CLEAR, CLEAR, CLOUD, CLOUD, NODATA]]
    assert mask.attrs["model"] == "m"
    assert mask.attrs["threshold"] == 0.5
    assert mask.attrs["flag_values"] == [0, 1, 255]
    assert mask.attrs["flag_meanings"] == "clear cloud nodata"


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_a_threshold_outside_0_to_1_is_refused(value):
    with pytest.raises(ValueError, match=r"threshold is .*0 to 1"):
        threshold(xr.DataArray(np.zeros((2, 2))), value)


def test_segment_cuts_at_the_models_threshold():
    scene = random_scene(64, 64, nodata="half")
    model = FakeModel(threshold=0.45)
    mask = segment(scene, model).compute(scheduler="sync")
    probability = run(scene, model).values
    expected = np.where(np.isnan(probability), NODATA, probability >= np.float32(0.45))
    np.testing.assert_array_equal(mask, expected)
    assert {CLEAR, CLOUD, NODATA} == set(np.unique(mask).tolist())


# Refusals


@pytest.mark.parametrize(
    ("scene", "how", "message"),
    [
        (xr.DataArray(np.zeros((3, 8, 8), "uint8")), {}, r"dim_0, dim_1, dim_2: name them"),
        (random_scene(8, 8).rename(x="lon"), {}, r"band, y, lon: name them"),
        (random_scene(8, 8)[:2], {}, r"has 2 bands: select"),
        (random_scene(8, 8).astype("uint16"), {}, r"the scene is uint16: bring it to 0–255"),
        (random_scene(8, 8) > 0, {}, r"the scene is bool"),
        (random_scene(8, 8), {"overlap": -8}, r"overlap is -8: .*such as 0"),
        (random_scene(8, 8), {"overlap": 12}, r"overlap is 12: .*stride 8, such as 16"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_with_the_cure(scene, how, message):
    with pytest.raises(ValueError, match=message) as error:
        predict(scene, FakeModel(), **how)
    assert "\n" not in str(error.value)


def test_a_windowed_model_needs_its_overlap():
    with pytest.raises(ValueError, match=r"overlap is 0: fake blends windows of 16 pixels.*8"):
        predict(random_scene(8, 8), WINDOWED, overlap=0)


def test_a_persisted_scene_is_not_read_again(make_scene, rng, monkeypatch):
    path = make_scene(rng.integers(0, 255, (3, 160, 200), "uint8"))
    expected = predict(open_scene(path, chunk=64), FakeModel()).compute()
    scene = open_scene(path, chunk=64).persist()
    monkeypatch.setattr(RasterReader, "read", None)
    xr.testing.assert_equal(predict(scene, FakeModel()).compute(), expected)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_nodata_that_the_scene_declares_is_nodata(dtype):
    scene = random_scene(40, 56, dtype="float32")
    scene = scene.round().astype(dtype)
    scene = scene.rio.write_nodata(255).chunk({"y": 16, "x": 16})
    declared = scene.values == 255
    assert declared.any()
    mask = segment(scene, FakeModel())
    np.testing.assert_array_equal(mask.values == NODATA, declared.any(axis=0))
    enlarged = enlarge(mask, scene)
    np.testing.assert_array_equal(enlarged.values == NODATA, declared.any(axis=0))


def test_a_place_that_is_told_in_attributes_is_kept():
    pixels = np.zeros((3, 16, 24), "uint8")
    transform = from_origin(500_000, 5_000_000, 10, 10)
    attributes = {"crs": "EPSG:32633", "transform": transform}
    scene = xr.DataArray(pixels, dims=("band", "y", "x"), attrs=attributes)
    mask = segment(scene, FakeModel())
    assert mask.rio.crs == "EPSG:32633"
    assert mask.rio.transform() == transform


def test_the_scene_to_enlarge_to_may_have_its_dimensions_in_any_order():
    scene = random_scene(16, 16, nodata="half")
    mask = segment(scene, FakeModel())
    for dims in (("band", "x", "y"), ("y", "x", "band")):
        xr.testing.assert_identical(enlarge(mask, scene.transpose(*dims)), enlarge(mask, scene))


@pytest.mark.parametrize("value", [65535, -9999, np.nan])
def test_nodata_of_the_type_that_a_scene_had_before_hides_nothing(value):
    scene = random_scene(16, 16, dtype="uint8").assign_attrs(_FillValue=value)
    assert not (segment(scene, FakeModel()) == NODATA).any()


@pytest.mark.parametrize("attributes", [{"crs": "local"}, {"transform": "none"}, {"crs": 7}])
def test_attributes_that_are_no_place_are_left_alone(attributes):
    mask = segment(random_scene(16, 16, dtype="uint8").assign_attrs(attributes), FakeModel())
    assert mask.rio.crs is None
