"""The networks and their weight files; the only tests that import TensorFlow."""

import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import cloudmask
from cloudmask import list_models, load_model, predict, registry
from cloudmask.models import ARCHITECTURES

LEGACY = {"unet_vgg16": "UNet", "cloudx_net": "CloudXNet"}
both = pytest.mark.parametrize("architecture", list(LEGACY))


@pytest.fixture(scope="session")
def legacy(shared, tmp_path_factory):
    """Keras 2 weight files as the older scripts wrote them, by architecture."""
    folder = tmp_path_factory.mktemp("legacy")
    paths = {name: folder / f"{old}.hdf5" for name, old in LEGACY.items()}
    for name, old in LEGACY.items():
        script = shared / "models" / "make_legacy_weights.py"
        subprocess.run([sys.executable, script, old, "1", paths[name]], check=True)
    return paths


@pytest.fixture(scope="session")
def expected(shared):
    with np.load(shared / "models" / "expected_seed1.npz") as arrays:
        return dict(arrays)


@both
def test_legacy_weights_give_the_known_outputs(legacy, expected, architecture):
    model = load_model(legacy[architecture], precision="float32")
    assert model.architecture == architecture
    probability = model(expected["pixels"])
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected[LEGACY[architecture]], atol=1e-4)


def test_lite_is_light():
    """At most 4 GFLOP for 256 × 256 px, as TensorFlow counts them."""
    import tensorflow as tf

    from cloudmask.models import build

    network = build("lite")
    graph = tf.function(network).get_concrete_function(tf.TensorSpec((1, 256, 256, 3))).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation() | {"output": "none"}
    assert 1e9 < tf.compat.v1.profiler.profile(graph, options=options).total_float_ops < 4e9


@both
def test_bfloat16_is_close(legacy, expected, architecture):
    model = load_model(legacy[architecture], precision="bfloat16")
    probability = model(expected["pixels"][:1])
    assert probability.dtype == np.float32
    difference = np.abs(probability - expected[LEGACY[architecture]][:1])
    assert 0 < difference.max() < 0.05
    assert difference.mean() < 0.01


@both
def test_the_order_of_the_bands_matters(legacy, expected, architecture):
    model = load_model(legacy[architecture], precision="float32")
    swapped = model(expected["pixels"][:1, ..., ::-1])
    assert np.abs(swapped - expected[LEGACY[architecture]][:1]).max() > 5e-4


@both
def test_keras_3_weights_come_back(legacy, expected, tmp_path, architecture):
    """Also as float16, which is how weights are shipped."""
    from cloudmask.models import build
    from cloudmask.weightfile import read_weights

    network = build(architecture)
    read_weights(network, legacy[architecture])
    path = tmp_path / "saved.weights.h5"
    network.save_weights(path)
    model = load_model(path, precision="float32")
    assert model.architecture == architecture
    probability = model(expected["pixels"][:1])
    np.testing.assert_allclose(probability, expected[LEGACY[architecture]][:1], atol=1e-4)

    _halve(path)
    probability = load_model(path, precision="float32")(expected["pixels"][:1])
    np.testing.assert_allclose(probability, expected[LEGACY[architecture]][:1], atol=0.02)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_weights_are_drawn_that_a_file_replaces(architecture):
    """An initializer that is not among those known would make every start slower, unseen."""
    from cloudmask.network import build_network

    drawn, bare = (
        build_network(architecture, "float32", is_drawn=drawn) for drawn in (True, False)
    )
    kernels = [weights for weights in bare.trainable_weights if weights.path.endswith("kernel")]
    assert len(kernels) > 10
    assert not any(np.any(kernel.numpy()) for kernel in kernels)
    assert [w.shape for w in bare.weights] == [w.shape for w in drawn.weights]
    assert any(np.any(w.numpy()) for w in drawn.trainable_weights if w.path.endswith("kernel"))


def _halve(path):
    """Store every weight as float16."""
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        for name in names:
            values = file[name][()]
            if values.dtype == np.float32:
                del file[name]
                file[name] = values.astype("float16")


def test_a_whole_keras_2_model_keeps_its_weights_in_a_group(legacy, expected, tmp_path):
    path = tmp_path / "model.h5"
    with h5py.File(legacy["cloudx_net"]) as source, h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        for name in source:
            source.copy(name, group)
        group.attrs.update(source.attrs)
        file["optimizer_weights/momentum"] = np.zeros(1000)
    model = load_model(path, precision="float32")
    probability = model(expected["pixels"][:1])
    np.testing.assert_allclose(probability, expected["CloudXNet"][:1], atol=1e-4)


@both
def test_the_result_does_not_depend_on_the_chunks(legacy, expected, architecture):
    """At the model's own overlap, in float32."""
    model = load_model(legacy[architecture], precision="float32")
    tiles = expected["pixels"].transpose(3, 0, 1, 2)
    pixels = np.concatenate([tiles[:, 0], tiles[:, 1]], axis=2).astype("float32")
    pixels[:, :70, :90] = np.nan
    pixels[0, 200:, 300:] = np.nan
    scene = xr.DataArray(pixels, dims=("band", "y", "x"))
    whole = predict(scene, model).compute(scheduler="sync")
    parts = predict(scene.chunk(y=256, x=256), model)
    assert len(parts.chunks[1]) > 1
    # These weights make CloudX-Net nearly flat, but its windows are the same ones: less tolerance.
    atol = 1e-4 if model.window is None else 1e-5
    np.testing.assert_allclose(parts.compute(scheduler="sync"), whole, atol=atol)


def test_too_small_an_overlap_shows_at_the_chunks_edges(legacy, expected):
    """So that the test above can fail."""
    model = load_model(legacy["unet_vgg16"], precision="float32")
    scene = xr.DataArray(expected["pixels"][0], dims=("y", "x", "band"))
    whole = predict(scene, model).compute(scheduler="sync")
    parts = predict(scene.chunk(x=128), model, overlap=0).compute(scheduler="sync")
    assert np.abs(parts - whole).max() > 1e-2


def test_windows_off_the_scenes_grid_would_show(legacy, expected):
    """CloudX-Net sees its window: so that the test above can fail."""
    model = load_model(legacy["cloudx_net"], precision="float32")
    scene = xr.DataArray(expected["pixels"][0], dims=("y", "x", "band"))
    whole = predict(scene, model).compute(scheduler="sync")
    shifted = predict(scene[:, 64:], model).compute(scheduler="sync")
    assert np.abs(shifted[:, 64:-64].values - whole[:, 128:-64].values).max() > 1e-4


# The card


@pytest.fixture
def card(legacy):
    return load_model(legacy["unet_vgg16"])


def test_a_card_is_small_frozen_and_hashable(card):
    pickled = pickle.dumps(card)
    assert len(pickled) < 1024
    assert pickle.loads(pickled) == card
    assert hash(pickle.loads(pickled)) == hash(card)
    with pytest.raises(FrozenInstanceError):
        card.threshold = 0.9


def test_a_card_that_was_used_is_still_small(legacy, expected):
    model = load_model(legacy["cloudx_net"], precision="float32")
    model(expected["pixels"][:1])
    assert len(pickle.dumps(model)) < 1024


def test_a_network_is_loaded_once(legacy, expected, monkeypatch):
    from cloudmask import network

    model = load_model(legacy["cloudx_net"], precision="float32")
    model(expected["pixels"][:1])

    def never(*_):
        raise AssertionError("loaded again")

    monkeypatch.setattr(network, "read_weights", never)
    pickle.loads(pickle.dumps(model))(expected["pixels"][:1])


@pytest.mark.parametrize(
    ("name", "precision", "side", "most", "whole"),
    [
        ("unet-f1", "bfloat16", 64, 2, True),
        ("unet-f1", "bfloat16", 1024, 2, True),
        ("unet-f1", "bfloat16", 1280, 1, True),
        ("unet-f1", "bfloat16", 1792, 2, False),
        ("unet-f1", "float32", 64, 1, True),
        ("unet-slim", "float32", 64, 1, True),
        ("lite", "float32", 64, 2, True),
        ("lite", "float32", 2560, 1, True),
        ("lite", "float32", 3072, 2, False),
        ("slim-lite", "bfloat16", 2048, 1, True),
    ],
)
def test_so_many_forward_passes_run_at_the_same_time(
    monkeypatch, name, precision, side, most, whole
):
    """A block whose pass fits the memory of all is one strip, if need be alone, and waits."""
    from cloudmask.strips import Strips

    lock, running, seen, strips = threading.Lock(), [], [], set()

    def pass_slowly(_, pixels, rows):
        with lock:
            running.append(rows)
            seen.append(len(running))
            strips.add(rows)
        time.sleep(0.2)
        with lock:
            running.pop()
        return np.zeros(pixels.shape[:3], "float32")

    monkeypatch.setattr(Strips, "__call__", pass_slowly)
    model = load_model(name, precision=precision)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(model, [np.zeros((1, side, side, 3), "uint8")] * 4))
    assert max(seen) == most
    assert {rows >= side for rows in strips} == {whole}


def test_passes_that_run_alone_and_side_by_side_take_turns(monkeypatch):
    """Neither waits for ever, and what wants to be alone is."""
    from cloudmask.strips import Strips

    lock, running, seen = threading.Lock(), [], []

    def pass_slowly(_, pixels, __):
        with lock:
            running.append(pixels.shape[1])
            seen.append(sorted(running))
        time.sleep(0.05)
        with lock:
            running.remove(pixels.shape[1])
        return np.zeros(pixels.shape[:3], "float32")

    monkeypatch.setattr(Strips, "__call__", pass_slowly)
    model = load_model("unet-f1", precision="bfloat16")
    blocks = [np.zeros((1, side, side, 3), "uint8") for side in [64, 1280, 64, 64] * 4]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(model, blocks))
    assert [64, 64] in seen
    assert all(sides == [1024] for sides in seen if 1024 in sides)


def test_a_file_that_changed_since_is_refused(legacy):
    changed = replace(load_model(legacy["cloudx_net"]), sha256="0" * 64)
    with pytest.raises(ValueError, match="has changed since"):
        changed(np.zeros((1, 256, 256, 3), "uint8"))


@pytest.mark.parametrize(
    "shape", [(256, 256, 3), (1, 256, 256, 4), (1, 250, 256, 3), (1, 32, 9, 3)]
)
def test_pixels_of_another_shape_are_refused(card, shape):
    with pytest.raises(ValueError, match=r"give \(n, y, x, 3\).*multiples of 32"):
        card(np.zeros(shape, "uint8"))


# Files and names that are refused


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(legacy, tmp_path, share):
    content = legacy["cloudx_net"].read_bytes()
    path = tmp_path / "cut.hdf5"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"cut.hdf5 is (truncated|not an HDF5)") as error:
        load_model(path)
    assert one_line(error)


def test_weights_of_keras_3_by_another_name_are_refused_before_they_are_needed(tmp_path):
    """Keras takes them for those of Keras 2, and finds nothing."""
    shutil.copy(load_model("lite").path, tmp_path / "mine.hdf5")
    with pytest.raises(
        ValueError, match=r"mine\.hdf5 .*: let its name end in \.weights\.h5"
    ) as error:
        load_model(tmp_path / "mine.hdf5")
    assert one_line(error)


def test_a_file_of_another_architecture_is_refused(legacy):
    with pytest.raises(ValueError, match="holds a cloudx_net, not a unet_vgg16") as error:
        load_model(legacy["cloudx_net"], architecture="unet_vgg16")
    assert one_line(error)


def test_a_file_of_no_known_architecture_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kernel"] = np.zeros(12)
    with pytest.raises(ValueError, match=r"holds 12 weights.*unet_vgg16 has 23,770,769") as error:
        load_model(tmp_path / "other.h5")
    assert one_line(error)


def test_as_many_weights_in_other_layers_are_refused(tmp_path):
    """The count alone passes; the names must still fit when the network is loaded."""
    path = tmp_path / "other.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kernel", (ARCHITECTURES["cloudx_net"].weights,), "f2", compression=9)
    model = load_model(path, precision="float32")
    with pytest.raises(ValueError, match="does not hold the weights of cloudx_net") as error:
        model(np.zeros((1, 256, 256, 3), "uint8"))
    assert one_line(error)


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "evil.h5"
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(ValueError, match="not an HDF5 weight file"):
        load_model(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.weights.h5 does not exist"):
        load_model(tmp_path / "none.weights.h5")


def test_an_unknown_name_lists_the_known(weights_folder):
    weights_folder({})
    with pytest.raises(ValueError, match=r"no model is called 'cloudy': choose first, second"):
        load_model("cloudy")


@pytest.mark.parametrize("wrong", [{"precision": "float64"}, {"architecture": "resnet"}])
def test_unknown_precisions_and_architectures_are_refused_by_name(wrong):
    (value,) = wrong.values()
    with pytest.raises(ValueError, match=f"'{value}': choose"):
        load_model(**wrong)


# The registry


@pytest.fixture
def weights_folder(legacy, tmp_path, monkeypatch):
    """Make a registry of two models around one file; keywords change the second's entry."""
    from cloudmask.weightfile import file_sha256

    def make(change):
        path = tmp_path / "first.h5"
        path.write_bytes(legacy["cloudx_net"].read_bytes())
        entry = {
            "architecture": "cloudx_net",
            "file": path.name,
            "sha256": file_sha256(path),
            "threshold": 0.4,
            "gsd": 30,
            "gsd_range": [10, 100],
        }
        models = {"first": entry, "second": {**entry, **change}}
        (tmp_path / "registry.json").write_text(json.dumps({"default": "first", "models": models}))
        monkeypatch.setattr(registry, "weights_folder", lambda: tmp_path)
        registry._registry.cache_clear()

    yield make
    registry._registry.cache_clear()


def test_the_default_and_a_name_come_from_the_registry(weights_folder):
    weights_folder({"threshold": 0.6})
    assert load_model() == load_model("first")
    second = load_model("second")
    assert (second.name, second.threshold) == ("second", 0.6)
    assert (second.gsd, second.gsd_range) == (30, (10, 100))
    listed = list_models()
    assert [card["default"] for card in listed.values()] == [True, False]


def test_a_wrong_sha256_in_the_registry_is_refused(weights_folder):
    weights_folder({"sha256": "ab" * 32})
    load_model("first")
    with pytest.raises(ValueError, match=r"has sha256 .*its card says abab") as error:
        load_model("second")
    assert one_line(error)


def test_a_wrong_architecture_in_the_registry_is_refused(weights_folder):
    weights_folder({"architecture": "unet_vgg16"})
    with pytest.raises(ValueError, match="holds a cloudx_net, not a unet_vgg16"):
        load_model("second")


def test_the_shipped_registry_is_sound():
    assert list_models(), "a model is shipped"
    for name in list_models():
        model = load_model(name)
        assert 0 < model.threshold < 1
        assert model.gsd_range[0] <= model.gsd <= model.gsd_range[1]
    assert load_model().name in list_models()


def test_an_installed_package_has_every_model():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {f"weights/{card['file']}" for card in list_models().values()} < packed.keys()


def test_a_network_that_does_not_fit_in_memory_is_told_of(monkeypatch):
    import tensorflow as tf

    from cloudmask import network

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(network, "_loaded", lambda *_: (full, "float32"))
    with pytest.raises(MemoryError, match="32 × 64 px do not fit in memory: choose a smaller chun"):
        load_model("lite")(np.zeros((1, 32, 64, 3), "uint8"))


# Imports


def test_what_is_imported_later_is_there_for_who_asks_meanwhile():
    code = (
        "import sys; from cloudmask.network import _imported_when_used as later\n"
        "with later('matplotlib.pyplot'):\n"
        "    import matplotlib.pyplot as plt, inspect\n"
        "    assert not hasattr(plt, '__file__')\n"
        "    assert callable(plt.figure)\n"
        "import matplotlib.pyplot\n"
        "assert matplotlib.pyplot.__file__"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "code",
    [
        "import cloudmask; [getattr(cloudmask, name) for name in cloudmask.__all__]",
        "import cloudmask; cloudmask.list_models(); cloudmask.load_model()",
        "import cloudmask.cli",
    ],
)
def test_tensorflow_is_not_imported_before_a_network_runs(code):
    check = (
        "import sys; heavy = {'tensorflow', 'keras'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", f"{code}; {check}"], check=True, timeout=60)


def test_no_name_of_the_api_is_hidden_by_a_module():
    """Importing a submodule sets it as an attribute of the package, over a function of its name."""
    package = Path(cloudmask.__file__).parent
    modules = {path.stem for path in package.iterdir()}
    assert not modules & set(cloudmask.__all__)


def test_a_copy_of_a_registered_file_has_its_card(tmp_path):
    registered = load_model()
    copy = tmp_path / "copy.weights.h5"
    copy.write_bytes(Path(registered.path).read_bytes())
    found = load_model(copy)
    assert (found.name, found.gsd, found.threshold) == (
        registered.name,
        registered.gsd,
        registered.threshold,
    )


@pytest.mark.parametrize("architecture", ["lite", "slim_lite", "lite_pair"])
def test_lite_takes_any_multiple_of_its_stride_and_sees_no_further_than_its_overlap(
    tmp_path, architecture
):
    import keras

    from cloudmask.models import build

    keras.utils.set_random_seed(3)
    build(architecture).save_weights(tmp_path / "own.weights.h5")
    model = load_model(tmp_path / "own.weights.h5", precision="float32")
    assert model.architecture == architecture
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 64, 832, 3)).astype("float32")
    assert model(pixels).shape == (1, 64, 832)
    other = pixels.copy()
    other[:, :, :416] = 255 - other[:, :, :416]
    change = np.abs(model(pixels) - model(other))[0].max(axis=0)
    assert change[416 + model.overlap - model.stride] > 0
    assert (change[416 + model.overlap :] == 0).all()
    with pytest.raises(ValueError, match="multiples of 32"):
        model(pixels[:, :, :100])
