"""From a manifest to a model that finds clouds: runs, resumes, refusals."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
from conftest import without_own_pool
from PIL import Image

from cloudmask import (
    Recipe,
    load_model,
    open_label,
    open_scene,
    predict,
    segment,
    train,
    training,
)
from cloudmask.dataset import training_batches
from cloudmask.draw import Sampling
from cloudmask.evaluation import evaluate
from cloudmask.labelled import Reading, labelled_chunks
from cloudmask.manifest import read_examples, select_split
from cloudmask.network import build_network
from cloudmask.registry import CARD
from cloudmask.sample import write_sample
from cloudmask.weightfile import read_weights

TINY = Recipe(
    architecture="lite",
    loss="bce+dice",
    epochs=3,
    steps=8,
    learning_rate=1e-3,
    precision="float32",
    validation_patches=4,
    sampling=Sampling(size=32, batch_size=4, augment=("turn",)),
)


def write_tiles(folder: Path, splits: str, side: int = 64, seed: int = 0) -> Path:
    """Bright squares on dark ground, and a manifest of them; `splits` gives a letter a tile."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    rows = []
    for i, letter in enumerate(splits):
        pixels = rng.integers(20, 90, (side, side, 3), "uint8")
        label = np.zeros((side, side), "uint8")
        y, x = rng.integers(side // 2, size=2)
        label[y : y + side // 2, x : x + side // 2] = 1
        pixels[label == 1] += 140
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray(label).save(folder / f"{i}_label.png")
        split = {"t": "train", "v": "val"}[letter]
        rows.append({"image": f"{i}.png", "label": f"{i}_label.png", "split": split})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return write_tiles(tmp_path_factory.mktemp("tiles"), "ttttvv")


@pytest.fixture(scope="module")
def tiny_run(tiles, tmp_path_factory):
    """A run that others look at; nothing is changed in it."""
    runs = tmp_path_factory.mktemp("runs")
    train(tiles, "tiny", TINY, runs=runs)
    return runs / "tiny"


def weights_of(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


# --- what a run learns and leaves


def test_a_network_learns_clouds_and_finds_them_in_a_scene(tmp_path):
    for i, name in enumerate(["a", "b", "c", "d"]):
        write_sample(tmp_path / f"{name}.tif", size=(512, 512), seed=i)
    (tmp_path / "m.csv").write_text(
        "image,label,split\n"
        + "".join(
            f"{name}.tif,{name}_label.tif,{split}\n"
            for name, split in zip("abc", ["train", "train", "val"], strict=True)
        )
    )
    recipe = Recipe(
        architecture="lite",
        loss="bce+dice",
        epochs=4,
        steps=40,
        learning_rate=3e-3,
        validation_patches=32,
        sampling=Sampling(size=64, batch_size=16, augment=("turn",)),
    )
    model = train(tmp_path / "m.csv", "clouds", recipe, runs=tmp_path / "runs")
    mask = segment(open_scene(tmp_path / "d.tif"), load_model(tmp_path / "runs" / "clouds"))
    scores = evaluate(mask, open_label(tmp_path / "d_label.tif"))
    assert scores.iou > 0.9
    assert model.architecture == "lite"


def test_a_run_leaves_a_model_its_history_and_its_logs(tiny_run):
    model = load_model(tiny_run)
    assert (model.name, model.architecture) == ("tiny", "lite")
    assert model(np.zeros((1, 32, 32, 3))).shape == (1, 32, 32)
    kinds = {values.dtype for values in weights_of(tiny_run / "tiny.weights.h5").values()}
    assert kinds == {np.dtype("float16"), np.dtype("float32")}
    history = json.loads((tiny_run / "history.json").read_text())["epochs"]
    assert len(history) == 3
    for key in ("loss", "val_loss", "val_f1", "val_f2", "val_iou", "precision", "learning_rate"):
        assert all(np.isfinite(entry[key]) for entry in history), key
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["recipe"]["loss"] == "bce+dice"
    assert "tensorflow" in config["versions"]
    with Image.open(tiny_run / "history.png") as picture:
        assert np.ptp(np.asarray(picture)) > 100


def test_tensorboard_has_curves_and_pictures(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny_run / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"loss", "val_f1", "learning_rate", "example_0"} <= tags
    assert len(events.Tensors("val_loss")) == 3


def test_fine_tuning_starts_from_the_weights_given_and_keeps_their_statistics(
    tiny_run, tiles, tmp_path
):
    recipe = replace(TINY, weights=str(tiny_run), epochs=1, learning_rate=1e-9)
    train(tiles, "tuned", recipe, runs=tmp_path)
    before, after = (
        weights_of(folder / f"{folder.name}.weights.h5")
        for folder in (tiny_run, tmp_path / "tuned")
    )
    for name, values in before.items():  # also means and variances of batch normalisation
        np.testing.assert_allclose(after[name], values, atol=1e-3)


@pytest.mark.parametrize("of_keras", [2, 3])
def test_a_frozen_encoder_keeps_its_weights_and_is_freed_later(tiles, tmp_path, of_keras):
    import keras

    from cloudmask.models import build

    donor = build("unet_vgg16")
    convolutions = [
        layer for layer in donor.layers if layer.name.startswith("block") and layer.weights
    ]
    assert len(convolutions) == 13
    vgg16 = tmp_path / "vgg16.weights.h5"
    if of_keras == 3:
        of_vgg16 = keras.applications.VGG16(weights=None, include_top=False)
        for layer in convolutions:
            of_vgg16.get_layer(layer.name).set_weights(layer.get_weights())
        of_vgg16.save_weights(vgg16)
    else:
        with h5py.File(vgg16, "w") as file:
            for layer in convolutions:
                group = file.create_group(layer.name)
                names = [f"{layer.name}/{layer.name}_{kind}_1:0" for kind in "Wb"]
                group.attrs["weight_names"] = [name.encode() for name in names]
                for name, values in zip(names, layer.get_weights(), strict=True):
                    group[name] = values
    recipe = replace(
        TINY, architecture="unet_vgg16", encoder_weights=str(vgg16),
        sampling=replace(TINY.sampling, batch_size=1),
    )  # fmt: skip

    def kernel(runs, **changes):
        train(tiles, "two", replace(recipe, **changes), runs=tmp_path / runs)
        trained = build("unet_vgg16")
        trained.load_weights(tmp_path / runs / "two" / "checkpoint" / "best.weights.h5")
        assert len(list((tmp_path / runs / "two" / "checkpoint").iterdir())) == 1
        return trained.get_layer("block3_conv1").get_weights()[0]

    own = donor.get_layer("block3_conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel("frozen", epochs=1, freeze_epochs=1), own)
    assert np.abs(kernel("free", epochs=2, freeze_epochs=1, loss="bce") - own).max() > 0


@pytest.mark.parametrize(
    ("losses", "stops"),
    [([1, 3, 2, 1.5], False), ([1, 3, 2, 2], True), ([1, 3, 2, 1.5, 4, 5], True)],
)
def test_patience_counts_epochs_of_the_second_phase_without_gain(tmp_path, losses, stops):
    import tensorflow as tf

    from cloudmask.fitting import Phase, Schedule, _Keeper

    history = {"epochs": [{"val_loss": loss} for loss in losses]}
    (tmp_path / "history.json").write_text(json.dumps(history))
    schedule = Schedule(epochs=9, steps=8, learning_rate=1e-3, patience=1, encoder="", seed=0)
    examples = tf.data.Dataset.range(0)
    # The first epoch, of the phase before, has the lowest loss and does not count.
    keeper = _Keeper(tmp_path, Phase(1, 9, False), schedule, examples)
    assert keeper.exhausted == stops
    assert not _Keeper(tmp_path, Phase(0, 9, True), schedule, examples).exhausted


# --- stopping and going on

OPTIONS = [
    "--architecture", "lite", "--loss", "bce+dice", "--epochs", "4", "--steps", "8",
    "--batch-size", "4", "--patch", "32", "--learning-rate", "1e-3", "--precision", "float32",
    "--validation-patches", "4", "--seed", "5",
]  # fmt: skip


def command(manifest, runs, *more):
    return [
        sys.executable, "-m", "cloudmask", "train", str(manifest), "run", "--runs", str(runs),
        *OPTIONS, *more,
    ]  # fmt: skip


def test_a_killed_run_resumes_to_the_same_weights(tiles, tmp_path, start):
    whole = subprocess.run(
        command(tiles, tmp_path / "whole"), capture_output=True, text=True, check=False
    )
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.startswith(str(tmp_path / "whole" / "run"))

    checkpoints = tmp_path / "killed" / "run" / "checkpoint"
    process = start(command(tiles, tmp_path / "killed"), stderr=subprocess.DEVNULL)
    process.until((checkpoints / "epoch-0001.weights.h5").exists)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "run" / "card.json").exists()

    other = subprocess.run(
        command(tiles, tmp_path / "killed", "--resume", "--loss", "f2"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert other.returncode == 2
    assert "was begun with loss bce+dice, not f2" in other.stderr
    resumed = subprocess.run(
        command(tiles, tmp_path / "killed", "--resume"), capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    expected = weights_of(tmp_path / "whole" / "run" / "run.weights.h5")
    found = weights_of(tmp_path / "killed" / "run" / "run.weights.h5")
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    histories = [
        json.loads((tmp_path / which / "run" / "history.json").read_text())["epochs"]
        for which in ("whole", "killed")
    ]
    for ours, theirs in zip(*histories, strict=True):
        assert {k: v for k, v in ours.items() if k != "seconds"} == {
            k: v for k, v in theirs.items() if k != "seconds"
        }

    # What it began with may be gone, and names its architecture no more.
    config = tmp_path / "killed" / "run" / "config.json"
    config.write_text(config.read_text().replace('"weights": null', '"weights": "gone"'))
    again = command(tiles, tmp_path / "killed", "--resume", "--weights", "gone")
    again.remove("--architecture")
    again.remove("lite")
    assert subprocess.run(again, check=False).returncode == 0


def test_several_devices_share_a_batch(tiles, tmp_path):
    """As on several GPUs, of which a test has none: one processor, told to be two."""
    code = f"""
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cloudmask import Recipe, initial, training
from cloudmask.draw import Sampling

initial._strategy = lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
sampling = Sampling(size=32, batch_size=4, augment=("turn",))
recipe = Recipe(
    architecture="lite", loss="bce+dice", epochs=2, steps=8, learning_rate=1e-3,
    precision="float32", validation_patches=4, sampling=sampling,
)
training.train({str(tiles)!r}, "two", recipe, runs={str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    epochs = json.loads((tmp_path / "two" / "history.json").read_text())["epochs"]
    assert epochs[1]["val_loss"] < epochs[0]["val_loss"]
    assert load_model(tmp_path / "two").architecture == "lite"


def test_a_phase_that_is_begun_again_starts_where_it_did(tmp_path):
    from cloudmask.fitting import BEST, Phase, _start_of

    best = tmp_path / "checkpoint" / BEST
    best.parent.mkdir()
    best.write_text("of the first phase")
    assert _start_of(Phase(3, 9, False), tmp_path).read_text() == "of the first phase"
    best.write_text("of an epoch that was stopped before it was in the history")
    assert _start_of(Phase(3, 9, False), tmp_path).read_text() == "of the first phase"


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_best(tiles, tmp_path, monkeypatch):
    from cloudmask import training

    whole = training.make_loss

    def poisoned(name):
        loss, calls = whole(name), []

        def later(label, probability):
            import tensorflow as tf

            calls.append(tf.Variable(0.0, trainable=False) if not calls else None)
            step = calls[0].assign_add(1.0)
            return tf.where(step > 14, np.nan, 1.0) * loss(label, probability)

        return later

    monkeypatch.setattr(training, "make_loss", poisoned)
    with pytest.raises(FloatingPointError, match=r"nan in epoch 2: lower the learning rate"):
        train(tiles, "bad", TINY, runs=tmp_path)
    assert (tmp_path / "bad" / "checkpoint" / "best.weights.h5").exists()
    assert (tmp_path / "bad" / "history.png").exists()


def test_a_validation_loss_that_is_nan_stops_the_run(tiles, tmp_path, monkeypatch):
    from cloudmask import fitting

    keep = fitting._Keeper.on_test_end

    def poisoned(keeper, logs):
        keep(keeper, logs | ({"loss": np.nan} if keeper.epoch == 1 else {}))

    monkeypatch.setattr(fitting._Keeper, "on_test_end", poisoned)
    told = r"the validation loss became nan in epoch 2: lower the learning rate, and go on under an"
    with pytest.raises(FloatingPointError, match=told):
        train(tiles, "bad", TINY, runs=tmp_path)


@pytest.fixture
def stop_before_second_epoch(monkeypatch):
    """Ctrl-C then, from the call on, until the patch is undone."""

    def stop():
        from cloudmask import fitting

        begin = fitting._Keeper.on_epoch_begin

        def stopped(keeper, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt
            begin(keeper, epoch, logs)

        monkeypatch.setattr(fitting._Keeper, "on_epoch_begin", stopped)

    return stop


def test_a_run_that_has_begun_is_resumed_without_what_it_started_from(
    tiny_run, tiles, tmp_path, monkeypatch, stop_before_second_epoch
):
    shutil.copytree(tiny_run, tmp_path / "start")
    recipe = replace(TINY, weights=str(tmp_path / "start"))
    train(tiles, "whole", recipe, runs=tmp_path)
    stop_before_second_epoch()
    with pytest.raises(KeyboardInterrupt):
        train(tiles, "run", recipe, runs=tmp_path)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "start")
    train(tiles, "run", recipe, runs=tmp_path, resume=True)
    whole, resumed = (
        weights_of(tmp_path / name / f"{name}.weights.h5") for name in ("whole", "run")
    )
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_a_run_of_which_nothing_came_leaves_what_was_there(tiny_run, tiles, tmp_path, monkeypatch):
    from cloudmask import fitting
    from cloudmask.models import ARCHITECTURES
    from cloudmask.runs import check_disk

    shutil.copytree(tiny_run, tmp_path / "tiny")

    def broken(*_):
        raise FloatingPointError("at the first batch")

    monkeypatch.setattr(fitting, "fit", broken)
    for name in ("tiny", "new"):
        with pytest.raises(FloatingPointError):
            train(tiles, name, TINY, runs=tmp_path, overwrite=True)
    assert [folder.name for folder in tmp_path.iterdir()] == ["tiny"]
    assert load_model(tmp_path / "tiny").sha256 == load_model(tiny_run).sha256
    monkeypatch.undo()

    usage = shutil.disk_usage(tmp_path)._replace(free=4 * 10**7)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"has 40 MB free, a run takes 63 MB: make room, or name"):
        train(tiles, "new", TINY, runs=tmp_path / "runs")
    (tmp_path / "tiny" / "checkpoint" / "epoch-0001.weights.h5").write_bytes(bytes(20_000_000))
    check_disk(tmp_path / "tiny", ARCHITECTURES["lite"].weights, resume=True)  # half is there
    monkeypatch.undo()
    huge = replace(TINY, sampling=replace(TINY.sampling, batch_size=10**8))
    with pytest.raises(MemoryError, match=r"batches of 100000000 patches of 32 px take at least"):
        train(tiles, "new", huge, runs=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is no folder: name another for the runs"):
        train(tiles, "new", TINY, runs=tmp_path / "file")
    (tmp_path / "tiny" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged: begin the run again"):
        train(tiles, "tiny", TINY, runs=tmp_path, resume=True)


def test_a_batch_that_does_not_fit_is_told_from_other_errors(tiles, tmp_path, monkeypatch):
    import tensorflow as tf

    from cloudmask import fitting

    def too_much(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(fitting, "fit", too_much)
    with pytest.raises(MemoryError, match="a batch of 4 does not fit in memory: lower"):
        train(tiles, "big", TINY, runs=tmp_path)


@without_own_pool
def test_what_does_not_fit_is_told_by_tensorflow_and_not_by_the_kernel(tmp_path):
    manifest = write_tiles(tmp_path / "tiles", "tv", side=256)
    choices = ("--architecture", "lite", "--scratch", "--batch-size", "16", "--epochs", "1")
    own = {name: value for name, value in os.environ.items() if not name.startswith("TF_CPU")}
    done = subprocess.run(
        [sys.executable, "-m", "cloudmask", "train", manifest, "big", *choices, "--steps", "8"],
        capture_output=True, text=True, cwd=tmp_path, check=False, env=own, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_RSS, (10**9, 10**9)),
    )  # fmt: skip
    assert done.returncode == 2
    told = "cloudmask: a batch of 16 does not fit in memory: lower the batch size"
    assert done.stderr.splitlines()[-1] == told


def test_a_full_disk_leaves_the_last_checkpoint(tiles, tmp_path, monkeypatch):
    import keras

    real = keras.Model.save_weights

    def full(self, path, **options):
        if "epoch-0002" in str(path):
            Path(path).write_bytes(b"half")
            # as h5py says it, over several lines
            raise OSError(28, "Can't synchronously write data\n(file write failed: time = …)")
        real(self, path, **options)

    monkeypatch.setattr(keras.Model, "save_weights", full)
    told = r"full cannot be written, the disk is full: make room, then --resume goes on"
    with pytest.raises(OSError, match=told):
        train(tiles, "full", TINY, runs=tmp_path)
    monkeypatch.undo()
    left = sorted(path.name for path in (tmp_path / "full" / "checkpoint").iterdir())
    assert left == ["best.weights.h5", "epoch-0001.weights.h5"]
    train(tiles, "full", TINY, runs=tmp_path, resume=True)
    assert load_model(tmp_path / "full").architecture == "lite"


# --- what is refused, before any training


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"loss": "focal"}, "loss 'focal' is unknown"),
        ({"architecture": "resnet"}, "architecture is 'resnet': choose unet_vgg16"),
        ({"sampling": Sampling(size=48)}, "patch is 48: lite needs a multiple of 32"),
        ({"architecture": "cloudx_net"}, "patch is 32: cloudx_net needs a multiple of 256"),
        ({"weights": "unet-f1", "encoder_weights": "hed"}, "both given"),
        ({"freeze_epochs": 4}, "4 epochs of 3 are frozen"),
        ({"learning_rate": -1.0}, "learning rate is -1.0: give a number above 0"),
        ({"precision": "bf16"}, "precision is 'bf16': choose float32"),
        ({"patience": 0}, "patience is 0: give at least 1"),
        ({"validation_patches": 0}, "validation patches is 0: give at least 1"),
        ({"encoder_weights": "hed"}, "lite has no VGG16 encoder: leave its weights out"),
        ({"freeze_epochs": 1}, "lite has no encoder to freeze: freeze 0 epochs"),
        ({"architecture": "unet_vgg16", "freeze_epochs": 1}, "freeze random weights: give some"),
        ({"epochs": 1.5}, "epochs is 1.5: give a whole number"),
        ({"learning_rate": "1e-3"}, "learning rate is '1e-3': give a number"),
        ({"reading": {}}, "reading is {}: give a Reading"),
        ({"weights": object}, "weights is .*: give a name or a path"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"augment": ("turns",)}, "augment turns is unknown: choose turn, scale"),
        ({"mix": (("a", -1.0),)}, "mix draws a -1.0 times: give a number of at least 0"),
        ({"batch_size": 0}, "batch size is 0: give at least 1"),
        ({"batch_size": 2.5}, "batch size is 2.5: give a whole number"),
        ({"seed": -1}, "seed is -1: give at least 0"),
        ({"seed": 2**32}, "seed is 4294967296: give at most 4294967295"),
    ],
)
def test_a_sampling_that_cannot_work_is_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        Sampling(**changes)


def test_choices_in_numpy_s_types_and_as_a_dict_are_python_s():
    sampling = Sampling(seed=np.int64(3), mix={"a": np.float32(2)})
    reading = Reading(cloud=[np.int64(1)], scale=np.float32(255))
    recipe = Recipe(learning_rate=np.float64(1e-3), sampling=sampling, reading=reading)
    written = json.loads(json.dumps(asdict(recipe)))
    assert written["sampling"]["mix"] == [["a", 2.0]]
    assert written["reading"] == {"scale": 255.0, "stretch": None, "nodata": None, "cloud": [1]}
    hash(recipe)


@pytest.mark.parametrize("cloud", [1, (1.5,), (-1,), (256,)])
def test_values_that_no_label_has_are_refused(cloud):
    with pytest.raises(ValueError, match="cloud is"):
        Reading(cloud=cloud)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("ab", "run name is 'ab'"),
        ("../other", "run name"),
        ("/tmp/other", "run name"),
        ("x" * 31, "run name"),
        ("a b c", "run name"),
    ],
)
def test_a_run_name_is_checked(tiles, tmp_path, name, match):
    with pytest.raises(ValueError, match=match):
        train(tiles, name, TINY, runs=tmp_path)


def test_data_that_cannot_teach_is_refused(tmp_path):
    manifest = write_tiles(tmp_path / "data", "ttv")
    for i in range(3):
        path = tmp_path / "data" / f"{i}_label.png"
        Image.fromarray(np.zeros((64, 64), "uint8")).save(path)
    with pytest.raises(ValueError, match="no pixel of split 'train' is cloud"):
        train(manifest, "none", TINY, runs=tmp_path / "runs")
    manifest = write_tiles(tmp_path / "more", "ttv")
    big = replace(TINY, sampling=Sampling(size=96, batch_size=4))
    with pytest.raises(ValueError, match="patch is 96, every image of split 'train' is smaller"):
        train(manifest, "none", big, runs=tmp_path / "runs")
    small = write_tiles(tmp_path / "small", "ttv", side=60)
    with pytest.raises(ValueError, match=r"patch is 96, .* give at most 32"):
        train(small, "none", big, runs=tmp_path / "runs")
    tiny = write_tiles(tmp_path / "tiny", "ttv", side=20)
    with pytest.raises(ValueError, match="32 px are needed"):
        train(tiny, "none", TINY, runs=tmp_path / "runs")
    manifest = write_tiles(tmp_path / "unseen", "tv")  # all cloud of the second is nodata
    pixels, label = (
        np.array(Image.open(tmp_path / "unseen" / f"1{n}.png")) for n in ("", "_label")
    )
    with rasterio.open(
        tmp_path / "unseen" / "1.tif", "w", driver="GTiff", height=64, width=64, count=3,
        dtype="uint8", nodata=0,
    ) as scene:  # fmt: skip
        scene.write(np.moveaxis(np.where(label[..., None] == 1, 0, pixels), -1, 0))
    manifest.write_text(manifest.read_text().replace("1.png", "1.tif"))
    with pytest.raises(ValueError, match=r"no pixel of split 'val' is cloud: .* nodata of the im"):
        train(manifest, "none", TINY, runs=tmp_path / "runs")
    manifest = write_tiles(tmp_path / "rare", "tv", side=256)
    label = np.zeros((256, 256), "uint8")
    label[100, 100] = 1
    Image.fromarray(label).save(tmp_path / "rare" / "1_label.png")
    with pytest.raises(ValueError, match="no pixel of the 4 validation patches is cloud"):
        train(manifest, "none", TINY, runs=tmp_path / "runs")
    manifest = write_tiles(tmp_path / "alone", "tt")
    with pytest.raises(ValueError, match="no image is in split 'val'"):
        train(manifest, "none", TINY, runs=tmp_path / "runs")
    with pytest.raises(ValueError, match="weights unet-f1 are of unet_vgg16, not of lite"):
        train(
            write_tiles(tmp_path / "fine", "tv"), "none", replace(TINY, weights="unet-f1"),
            runs=tmp_path / "runs",
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_run_is_one_process_s_at_a_time(tmp_path):
    from cloudmask.runs import run_folder

    code = """import sys
from pathlib import Path
from cloudmask.runs import run_folder
try:
    with run_folder(Path(sys.argv[1]), {}, resume=False, overwrite=True):
        print("entered")
except FileExistsError as error:
    print(error)
"""

    def another():
        command = [sys.executable, "-c", code, tmp_path / "run"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with run_folder(tmp_path / "run", {"recipe": "mine"}, resume=False, overwrite=False):
        assert "run is being trained by another process: wait for it" in another()
        assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"recipe": "mine"}
    assert another() == "entered\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_that_do_not_fit_float16_are_no_model(tiles, tmp_path, monkeypatch):
    def diverge(network, *_):
        network.set_weights([values * 1e7 for values in network.get_weights()])

    monkeypatch.setattr(training, "_fit", diverge)
    with pytest.raises(FloatingPointError, match="do not fit float16: lower the learning rate"):
        train(tiles, "steep", TINY, runs=tmp_path)
    assert not (tmp_path / "steep" / "card.json").exists()


def test_a_name_that_was_taken_meanwhile_is_not_taken_over(tiles, tmp_path, monkeypatch):
    other = tmp_path / "run"

    def begun_meanwhile(recipe):  # noqa: ARG001
        other.mkdir()
        (other / "notes.txt").write_text("mine")

    monkeypatch.setattr(training, "check_start", begun_meanwhile)
    with pytest.raises(FileExistsError, match="run exists: resume it"):
        train(tiles, "run", TINY, runs=tmp_path)
    assert (other / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["{}", "[1]", "{", ""])
def test_damaged_notes_of_a_run_are_one_line(tiny_run, tiles, tmp_path, content):
    run = tmp_path / "tiny"
    shutil.copytree(tiny_run, run)
    (run / "card.json").write_text(content)
    with pytest.raises(ValueError, match=r"card\.json is damaged: give the weight file"):
        load_model(run)
    (run / "history.json").write_text(content)
    with pytest.raises(ValueError, match=r"history\.json is damaged: begin the run again"):
        train(tiles, "tiny", replace(TINY, epochs=3), runs=tmp_path, resume=True)
    (run / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged: begin the run again"):
        train(tiles, "tiny", TINY, runs=tmp_path, resume=True)


def test_a_run_resumes_in_the_precision_that_it_began_in(tiles, tmp_path, monkeypatch):
    """The optimiser of float16, which scales the loss, has more variables than others."""
    recipe = replace(TINY, precision=None, epochs=2)
    from cloudmask import fitting
    from cloudmask import network as networks

    end_epoch = fitting._Keeper.on_epoch_end

    def stop(keeper, epoch, logs=None):
        end_epoch(keeper, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fitting._Keeper, "on_epoch_end", stop)
        patched.setattr(networks, "choose_precision", lambda: "float16")
        with pytest.raises(KeyboardInterrupt):
            train(tiles, "half", recipe, runs=tmp_path)
    monkeypatch.setattr(networks, "choose_precision", lambda: "float32")
    config = tmp_path / "half" / "config.json"
    noted = config.read_text()
    config.write_text(noted.replace('"precision": "float16"', '"precision": null'))
    with pytest.raises(ValueError, match="resume the run with the precision that it was begun in"):
        train(tiles, "half", recipe, runs=tmp_path, resume=True)
    config.write_text(noted)
    train(tiles, "half", recipe, runs=tmp_path, resume=True)
    epochs = json.loads((tmp_path / "half" / "history.json").read_text())["epochs"]
    assert epochs[1]["learning_rate"] < epochs[0]["learning_rate"] / 10
    assert json.loads(config.read_text())["precision"] == "float16"


def test_a_finished_run_is_left_as_it_is(tiny_run, tiles, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "tiny")
    before = {path.name: path.read_bytes() for path in (tmp_path / "tiny").glob("*.*")}
    monkeypatch.chdir(tiles.parent)
    again = train(tiles.name, "tiny", TINY, runs=tmp_path, resume=True)  # the manifest's short name
    assert again.sha256 == load_model(tiny_run).sha256
    assert {path.name: path.read_bytes() for path in (tmp_path / "tiny").glob("*.*")} == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut")])
def test_a_finished_run_whose_weights_are_lost_has_them_again(tiny_run, tiles, tmp_path, damage):
    shutil.copytree(tiny_run, tmp_path / "tiny")
    (tmp_path / ".tiny.replaced").mkdir()
    damage(tmp_path / "tiny" / "tiny.weights.h5")
    again = train(tiles, "tiny", TINY, runs=tmp_path, resume=True)
    assert again.threshold == load_model(tiny_run).threshold
    (tmp_path / ".tiny.replaced").mkdir()  # as if it had ended between its model and its cleaning
    train(tiles, "tiny", TINY, runs=tmp_path, resume=True)
    assert [path.name for path in tmp_path.glob(".*.replaced")] == []


def test_a_manifest_spelled_otherwise_is_the_same(tiny_run, tiles, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "tiny")
    (tmp_path / "tiny" / CARD).unlink()
    monkeypatch.chdir(tiles.parent)
    again = train(tiles.name, "tiny", TINY, runs=tmp_path, resume=True)
    assert again.threshold == load_model(tiny_run).threshold


def test_a_run_in_use_is_neither_replaced_nor_resumed_as_another(tiny_run, tiles, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()}
    runs = tiny_run.parent
    with pytest.raises(FileExistsError, match="resume it, overwrite it, or choose another name"):
        train(tiles, "tiny", TINY, runs=runs)
    with pytest.raises(ValueError, match="was begun with architecture lite, not unet_vgg16"):
        train(tiles, "tiny", replace(TINY, architecture="unet_vgg16"), runs=runs, resume=True)
    with pytest.raises(ValueError, match="both given"):
        train(tiles, "tiny", TINY, runs=runs, resume=True, overwrite=True)
    fewer = tiles.with_name("fewer.csv")
    fewer.write_text("".join(tiles.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"other images or labels than those of .*fewer\.csv"):
        train(fewer, "tiny", TINY, runs=runs, resume=True)
    fewer.unlink()
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        train(tiles, "other", TINY, runs=runs, resume=True)
    (runs / "mine").mkdir(exist_ok=True)
    with pytest.raises(FileExistsError, match="is no run"):
        train(tiles, "mine", TINY, runs=runs, overwrite=True)
    (runs / "mine" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileExistsError, match="is no run"):
        train(tiles, "mine", TINY, runs=runs, overwrite=True)
    monkeypatch.setattr("cloudmask.runs.write_json", lambda *_: 1 / 0)  # when the folder is made
    with pytest.raises(ZeroDivisionError):
        train(tiles, "tiny", TINY, runs=runs, overwrite=True)
    assert not [path for path in runs.iterdir() if path.name.startswith(".")]
    assert {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()} == before


def test_a_replaced_run_is_there_until_the_new_one_is_finished(
    tiny_run, tiles, tmp_path, monkeypatch, stop_before_second_epoch
):
    shutil.copytree(tiny_run, tmp_path / "tiny")
    recipe = replace(TINY, weights=str(tmp_path / "tiny"))
    with pytest.raises(ValueError, match="is to start from its own weights: choose another name"):
        train(tiles, "tiny", recipe, runs=tmp_path, overwrite=True)
    recipe = replace(TINY, sampling=replace(TINY.sampling, mix=(("all", 0.0),)))
    with pytest.raises(ValueError, match="mix draws every set 0 times"):
        train(tiles, "tiny", recipe, runs=tmp_path, overwrite=True)
    recipe = replace(TINY, sampling=replace(TINY.sampling, mix=(("other", 2.0),)))
    with pytest.raises(ValueError, match="mix names sets without training images: other"):
        train(tiles, "tiny", recipe, runs=tmp_path, overwrite=True)
    assert load_model(tmp_path / "tiny").sha256 == load_model(tiny_run).sha256

    def stopped(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="before the first epoch was done: nothing was"):
        train(tiles, "tiny", TINY, runs=tmp_path, overwrite=True, batches=stopped)
    assert load_model(tmp_path / "tiny").sha256 == load_model(tiny_run).sha256
    stop_before_second_epoch()
    for _ in range(2):  # the second replaces an unfinished one
        with pytest.raises(KeyboardInterrupt, match=r"before is in .*/\.tiny\.replaced"):
            train(tiles, "tiny", TINY, runs=tmp_path, overwrite=True)
        assert load_model(tmp_path / ".tiny.replaced").sha256 == load_model(tiny_run).sha256
    monkeypatch.undo()
    train(tiles, "tiny", replace(TINY, epochs=1), runs=tmp_path, overwrite=True)
    assert load_model(tmp_path / "tiny").sha256 != load_model(tiny_run).sha256
    assert [folder.name for folder in tmp_path.iterdir()] == ["tiny"]


def test_a_damaged_image_is_named_in_one_line(tmp_path):
    manifest = write_tiles(tmp_path / "data", "tv", side=256)
    image = tmp_path / "data" / "0.png"
    Image.open(image).save(image, "TIFF")  # told by its content; PNGs are read as far as they go
    image.write_bytes(image.read_bytes()[:100_000])
    with pytest.raises(OSError, match=r"0\.png cannot be read at rows .*damaged") as error:
        train(manifest, "abc", TINY, runs=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("none.csv", "abc"), "none.csv does not exist"),
        (("manifest.csv", "abc", "--loss", "x"), "loss 'x' is unknown"),
        (("manifest.csv", "abc", "--augment", "flip"), "augment flip is unknown: choose turn"),
        (("manifest.csv", "abc", "--mix", "all"), "not a list such as mine=2"),
        (("manifest.csv", "abc", "--scratch", "--weights", "unet-f1"), "--scratch is given with"),
        (("manifest.csv", "abc", "--weights", "lite", "--patch", "48"), "patch is 48: lite needs"),
        (("manifest.csv", "abc", "--learning-rate", "0"), "learning rate is 0.0: give a number"),
        (("manifest.csv", "abc", "--mix", "all=-1"), "mix draws all -1.0 times"),
        (("0.png", "abc"), "0.png is no manifest: it is not text in UTF-8"),
        (("columns.csv", "abc"), "columns.csv has no column split: it needs image, label, split"),
        (("gone.csv", "abc"), "2 files that gone.csv names do not exist: "),
        (("values.csv", "abc"), "values.png has the values 3: a label has 0, 1 and 255; say"),
        (("shape.csv", "abc"), "shape.png is 32 × 32 pixels, "),
        (("deep.csv", "abc"), "deep.tif: the scene is uint16, not uint8: give the value"),
        (("manifest.csv", "a-c", "--scratch"), "run name is 'a-c'"),
    ],
)
def test_the_command_line_refuses_in_one_line(tiles, tmp_path, options, match):
    folder = tmp_path / "data"
    shutil.copytree(tiles.parent, folder)
    label = np.zeros((64, 64), "uint8")
    Image.fromarray(label + 3).save(folder / "values.png")
    Image.fromarray(label[:32, :32]).save(folder / "shape.png")
    with rasterio.open(
        folder / "deep.tif", "w", driver="GTiff", height=64, width=64, count=3, dtype="uint16"
    ):
        pass
    for name, row in {
        "gone": "none.png,no.png,train",
        "values": "0.png,values.png,train",
        "shape": "0.png,shape.png,train",
        "deep": "deep.tif,0_label.png,train",
    }.items():
        (folder / f"{name}.csv").write_text(f"image,label,split\n{row}\n1.png,1_label.png,val\n")
    (folder / "columns.csv").write_text("image,label\n0.png,0_label.png\n")
    done = subprocess.run(
        [sys.executable, "-m", "cloudmask", "train", *options],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert match in done.stderr.splitlines()[-1]
    assert not (folder / "runs").exists()
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert not (tiles.parent / "runs").exists()


def test_labels_of_another_shape_are_refused_before_training(tmp_path):
    manifest = write_tiles(tmp_path / "data", "tv")
    Image.fromarray(np.zeros((64, 60), "uint8")).save(tmp_path / "data" / "1_label.png")
    with pytest.raises(ValueError, match="64 × 60 pixels"):
        train(manifest, "none", TINY, runs=tmp_path / "runs")
    with rasterio.open(tmp_path / "data" / "0.png") as source:
        assert source.count == 3
    assert not (tmp_path / "runs").exists()


def test_a_student_is_given_the_mean_of_label_and_teachers(tmp_path):
    """`weights/pool.py` and `distil.py`, with two small teachers that see other views."""
    manifest = write_tiles(tmp_path / "tiles", "ttttvv", side=256)
    scripts = Path(__file__).parents[1] / "weights"
    for command in (
        ["pool.py", manifest, "pool", "--teacher=lite:doubled,unet-slim:mirrored", "--patches=16"],
        ["distil.py", manifest, "student", "pool", "--steps=8", "--epochs=1", "--batch-size=4"],
    ):
        subprocess.run(
            [sys.executable, scripts / command[0], *command[1:]], cwd=tmp_path, check=True
        )
    targets = np.load(tmp_path / "pool" / "targets.npy")
    scored = targets[targets != 255]
    assert set(np.unique(scored)) - {0, 200}  # neither of the label's own values
    pixels = np.load(tmp_path / "pool" / "pixels.npy")[:4].astype("float32")
    lite, slim = load_model("lite"), load_model("unet-slim")
    twice = [
        [
            np.asarray(Image.fromarray(band).resize((512, 512), Image.Resampling.BILINEAR))
            for band in p
        ]
        for p in np.moveaxis(pixels, -1, 1)
    ]
    doubled = lite(np.moveaxis(np.array(twice), 1, -1)).reshape(4, 256, 2, 256, 2).mean(axis=(2, 4))
    mirrored = np.mean(
        [np.flip(slim(np.flip(pixels, 1)), 1), np.flip(slim(np.flip(pixels, 2)), 2),
         slim(pixels.transpose(0, 2, 1, 3)).transpose(0, 2, 1)], axis=0,
    )  # fmt: skip
    mean = (doubled + mirrored) / 2
    learned = targets[:4, ..., 0] / np.float32(100)
    off = np.minimum(abs(learned - mean), abs(learned - 1 - mean))[targets[:4, ..., 0] != 255]
    assert np.quantile(off, 0.95) < 0.05  # they saw these pixels before they were rounded
    assert load_model(tmp_path / "runs" / "student").architecture == "lite"


def test_a_mean_of_weights_gets_statistics_of_its_own(tmp_path):
    """`weights/average.py`: of what the first convolution says of training patches."""
    manifest = write_tiles(tmp_path / "tiles", "ttv", side=256)
    script = Path(__file__).parents[1] / "weights" / "average.py"
    options = ["--like", "lite", "--statistics", manifest, "--batches", "2", "--seed", "3"]
    weights = Path(load_model("lite").path)
    command = [sys.executable, script, tmp_path / "mean", weights, weights, *options]
    subprocess.run(command, check=True)
    import keras

    network = build_network("lite", "float32")
    read_weights(network, tmp_path / "mean" / "mean.weights.h5")
    chunks = labelled_chunks(select_split(read_examples(manifest), "train"), Reading())
    batches = training_batches(chunks, Reading(), Sampling(seed=3)).take(2)
    stem = keras.Model(network.inputs, network.get_layer("stem").output)
    said = np.stack([stem(pixels).numpy() for pixels, _ in batches])
    norm = network.get_layer("stem_bn")
    np.testing.assert_allclose(norm.moving_mean, said.mean(axis=(0, 1, 2, 3)), rtol=0.01, atol=0.01)
    variance = said.var(axis=(1, 2, 3)).mean(axis=0)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=0.01, atol=0.01)


def test_a_pair_says_the_mean_of_what_two_say_of_an_image_and_of_it_enlarged(tmp_path):
    """`weights/pair.py`: but for edges, and means of logits instead of probabilities."""
    scripts = Path(__file__).parents[1] / "weights"
    weights = Path(load_model("lite").path)
    command = [sys.executable, scripts / "pair.py", tmp_path / "pair", weights, "lite"]
    subprocess.run([*command, "--like", "lite"], check=True)
    pair, lite = load_model(tmp_path / "pair", precision="float32"), load_model("lite")
    assert pair.architecture == "lite_pair"
    write_sample(tmp_path / "scene.tif", size=(256, 320))
    pixels = np.moveaxis(open_scene(tmp_path / "scene.tif").to_numpy(), 0, -1)
    bands = [Image.fromarray(band.astype("float32")) for band in np.moveaxis(pixels, -1, 0)]
    twice = [np.asarray(band.resize((640, 512), Image.Resampling.BILINEAR)) for band in bands]
    doubled = lite(np.stack(twice, axis=-1)[None]).reshape(256, 2, 320, 2).mean(axis=(1, 3))
    expected = (lite(pixels[None])[0] + doubled) / 2
    off = np.abs(pair(pixels[None])[0] - expected)[32:-32, 32:-32]
    assert expected.std() > 0.2
    assert off.mean() < 0.01
    assert np.quantile(off, 0.99) < 0.1


def test_the_default_says_the_mean_of_the_two_that_it_is_made_of(tmp_path):
    """`weights/pair.py`, and the file that it left."""
    script = Path(__file__).parents[1] / "weights" / "pair.py"
    command = [sys.executable, script, tmp_path / "pair", "unet-slim"]
    subprocess.run([*command, "lite"], check=True)
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 96, 64, 3)).astype("float32")

    def said(name):
        return load_model(name, precision="float32")(pixels)

    expected = (said("unet-slim") + said("lite")) / 2
    assert expected.std() > 0.01
    for name in (tmp_path / "pair", "slim-lite"):
        np.testing.assert_allclose(said(name), expected, atol=1e-5)
    wrong = subprocess.run(
        [*command[:2], tmp_path / "no", "lite", "unet-slim"], capture_output=True
    )
    assert wrong.returncode == 2
    assert b"unet-slim a unet_slim: give a unet_slim and a lite" in wrong.stderr
    assert not (tmp_path / "no").exists()


def test_what_nodata_makes_is_told_apart_from_clouds_beside_it(tmp_path):
    """`weights/false_cloud.py`: a scene's own clouds are not what its frame makes."""
    write_sample(tmp_path / "scene.tif", size=(512, 640))
    script = Path(__file__).parents[1] / "weights" / "false_cloud.py"
    command = [sys.executable, script, "lite", tmp_path / "scene.tif"]

    def shares(*options):
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        return [float(share.rstrip("%")) for share in done.stdout.splitlines()[-1].split()[:4]]

    cloud, at_edges, made, lost = shares()
    assert cloud > 5
    assert at_edges == 0  # it has no nodata of its own
    assert 0 < made + lost < 20
    assert shares("--threshold", "0")[0] == 100


@pytest.mark.parametrize("architecture", ["unet_slim", "lite"])
def test_a_slim_network_says_what_the_one_says_that_it_was_fitted_to(tmp_path, architecture):
    """`weights/slim.py`, with few patches: without any training."""
    write_sample(tmp_path / "scene.tif", size=(512, 768))
    scene = open_scene(tmp_path / "scene.tif")
    pixels = scene.transpose("y", "x", "band").to_numpy()
    patches = [pixels[y : y + 128, x : x + 128] for y in (0, 256) for x in (0, 128, 256)]
    (tmp_path / "pool").mkdir()
    np.save(tmp_path / "pool" / "pixels.npy", np.stack(patches))
    (tmp_path / "pool" / "pool.json").write_text('{"teacher": "unet-f1"}')
    script = Path(__file__).parents[1] / "weights" / "slim.py"
    run, pool = tmp_path / "slim", tmp_path / "pool"
    subprocess.run([sys.executable, script, run, pool, "--architecture", architecture], check=True)
    slim = load_model(run)
    assert slim.architecture == architecture
    unseen = scene[:, :, 384:]
    difference = predict(unseen, slim) - predict(unseen, load_model("unet-f1"))
    assert abs(difference).mean() < 0.1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gsd_range": 5}, "is damaged: give the weight file, or train it again"),
        ({"gsd_range": [30]}, "is damaged"),
        ({"gsd": "30"}, "is damaged"),
        ({"sha256": None}, "is damaged"),
        ({"file": 3}, "is damaged"),
        ({"file": "../x.h5"}, r"x\.h5, the weights of .*, does not exist"),
    ],
)
def test_a_card_that_was_changed_is_named(tiny_run, tmp_path, change, told):
    shutil.copytree(tiny_run, tmp_path / "run")
    card = json.loads((tmp_path / "run" / CARD).read_text())
    (tmp_path / "run" / CARD).write_text(json.dumps(card | change))
    with pytest.raises((ValueError, FileNotFoundError), match=told) as said:
        load_model(tmp_path / "run")
    assert "\n" not in str(said.value)


def test_wrong_arguments_are_one_line_before_any_training(tiles, tmp_path):
    def ends(_):
        import tensorflow as tf

        return tf.data.Dataset.range(3)

    for batches, told in (
        (3, "batches is 3: give what makes"),
        (ends, "batches ends after 3: let"),
    ):
        with pytest.raises(ValueError, match=told):
            train(tiles, "run", TINY, runs=tmp_path, batches=batches)
    with pytest.raises(ValueError, match="manifest is None: give a name or a path"):
        train(None, "run", TINY, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []
    for wrong, told in (
        ({"augment": "turn"}, "augment is 'turn': give a tuple of names"),
        ({"augment": (1,)}, "augment 1 is unknown"),
        ({"mix": "a=1"}, "mix is 'a=1': give a dict"),
    ):
        with pytest.raises(ValueError, match=told):
            replace(TINY.sampling, **wrong)
    for wrong, told in (
        ({"loss": "fbeta:1e20"}, "give fbeta above 0 up to 1e"),
        ({"encoder_weights": 3}, "encoder_weights is 3: give a name or a path"),
        ({"architecture": ["lite"]}, "architecture is .*: choose"),
    ):
        with pytest.raises(ValueError, match=told):
            replace(TINY, **wrong)
    assert Recipe(encoder_weights="none") == Recipe()


def test_equal_weights_are_equal_files_whatever_was_built_before(tmp_path):
    from cloudmask.models import build
    from cloudmask.weightfile import write_weights

    first, second = build("lite"), build("lite")
    second.set_weights(first.get_weights())
    for network, name in ((first, "a.weights.h5"), (second, "b.weights.h5")):
        write_weights(network, tmp_path / name, half=True)
    assert (tmp_path / "a.weights.h5").read_bytes() == (tmp_path / "b.weights.h5").read_bytes()
