"""The command line as a user meets it: a process, its two streams, its exit code, its files."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import xarray as xr
from affine import Affine
from conftest import listing
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rio_cogeo.cogeo import cog_validate

from cloudmask import cloud_cover, list_models, load_model, open_label, open_scene, predict
from cloudmask.grid import Grid
from cloudmask.plan import default_gsd, plan_scene
from cloudmask.sample import write_sample
from cloudmask.scene import model_grid


def run(*arguments, cwd=None, timeout=120, **environment):
    return subprocess.run(
        [sys.executable, "-m", "cloudmask", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=os.environ | environment,
        check=False,
    )


def test_what_commands_print_names_urls_without_their_signature(make_scene, rng, server):
    scene, mask, label = (
        f"{server.url(make_scene(pixels, name=name))}?se=1&sig=secret"
        for name, pixels in (
            ("scene.tif", rng.integers(0, 255, (3, 64, 64), "uint8")),
            ("mask.tif", rng.integers(0, 2, (1, 64, 64), "uint8")),
            ("label.tif", rng.integers(0, 2, (1, 64, 64), "uint8")),
        )
    )
    said = [
        run("info", scene),
        run("info", scene, "--json"),
        run("evaluate", mask, label, "--json"),
        run("evaluate", "lite", scene, label),
        run("evaluate", "lite", scene, label, "--json"),
    ]
    assert not [line.stderr for line in said if line.returncode]
    assert all("/scene.tif" in line.stdout for line in (said[0], *said[3:]))
    assert not [line for line in said if "secret" in line.stdout + line.stderr]


def test_undeclared_nodata_is_not_scored(make_scene, rng):
    pixels = rng.integers(30, 60, (3, 64, 96), "uint8")
    pixels[:, :, :32] = 0
    scene, label = make_scene(pixels), make_scene(np.zeros((1, 64, 96), "uint8"), "label.tif")
    scored = [
        json.loads(run("evaluate", "lite", scene, label, "--json", *options).stdout)["overall"]
        for options in ((), ("--nodata", 0))
    ]
    assert [round(scores["pixels"]) for scores in scored] == [64 * 96, 64 * 64]


def test_a_label_without_cloud_is_scored_by_what_it_can_tell(make_scene):
    label = make_scene(np.zeros((1, 64, 96), "uint8"))
    assert run("evaluate", label, label).stdout == "accuracy 1.000, false cloud 0.000\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small sample scene that the runs of this module share."""
    folder = tmp_path_factory.mktemp("cli")
    write_sample(folder / "scene.tif", size=(600, 700))
    return folder


@pytest.fixture(scope="module")
def default_run(folder):
    done = run("segment", "scene.tif", "mask.tif", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


# --- what works


def test_one_machine_does_not_wait_for_a_cluster_to_be_imported(folder):
    code = (
        "import sys, cloudmask as cm; "
        "scene = cm.open_scene('scene.tif', resize_factor=3); "
        "cm.write_cog(cm.segment(scene, cm.load_model()), 'alone.tif'); "
        "assert 'distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)


def test_two_paths_give_a_mask_on_the_very_grid(folder, default_run):
    with (
        rasterio.open(folder / "mask.tif") as mask,
        rasterio.open(folder / "scene.tif") as scene,
    ):
        assert mask.shape == scene.shape
        assert mask.transform == scene.transform
        assert mask.crs == scene.crs
        assert set(np.unique(mask.read(1))) == {0, 1}
        tags = mask.tags()
    card = load_model()
    assert tags["CLOUDMASK_MODEL"] == card.name
    assert tags["CLOUDMASK_MODEL_SHA256"] == card.sha256
    assert float(tags["CLOUDMASK_THRESHOLD"]) == card.threshold
    assert tags["CLOUDMASK_VERSION"] == version("cloudmask")
    assert cog_validate(folder / "mask.tif", strict=True)[0]
    # One line, whose numbers are those of the file.
    cover = cloud_cover(open_label(folder / "mask.tif"))
    assert default_run.stdout.count("\n") == 1
    assert default_run.stdout.startswith(f"mask.tif: cloud {cover.cloud_percent:.1f} %, nodata 0.0")
    assert "600 × 700 px" in default_run.stdout
    assert default_run.stdout.rstrip().endswith("Mpx/s")
    assert "Traceback" not in default_run.stderr
    assert all(line.startswith("cloudmask: ") for line in default_run.stderr.splitlines())


@pytest.mark.usefixtures("default_run")
def test_evaluate_compares_with_the_label(folder):
    done = run("evaluate", "mask.tif", "scene_label.tif", "--json", cwd=folder)
    assert done.returncode == 0
    assert not done.stderr
    scores = json.loads(done.stdout)["overall"]
    with (
        rasterio.open(folder / "mask.tif") as mask,
        rasterio.open(folder / "scene_label.tif") as label,
    ):
        found, true = mask.read(1) == 1, label.read(1) == 1
    assert scores["precision"] == pytest.approx((found & true).sum() / found.sum())
    assert scores["recall"] == pytest.approx((found & true).sum() / true.sum())
    text = run("evaluate", "mask.tif", "scene_label.tif", cwd=folder).stdout
    assert text.startswith(f"F1 {scores['f1']:.3f}, precision")
    rasterio.shutil.copy(folder / "mask.tif", folder / "mask.vrt", driver="VRT")
    perfect = run("evaluate", "mask.vrt", "mask.tif", "--json", cwd=folder)
    scores = json.loads(perfect.stdout)["overall"]
    assert [scores[name] for name in ("f1", "precision", "recall", "iou")] == [1, 1, 1, 1]
    (folder / "unet-f1").touch()  # a model's name is the model
    other = run("evaluate", "unet-f1", "none.csv", cwd=folder)
    (folder / "unet-f1").unlink()
    assert "none.csv does not exist: give a manifest" in other.stderr
    foreign = run("evaluate", "mask.tif", "scene_label.tif", "--scale", "9", cwd=folder)
    assert foreign.returncode != 0
    assert "--scale: only for a MODEL" in foreign.stderr
    several = run("evaluate", "mask.tif", "scene.tif", "scene_label.tif", cwd=folder)
    assert (several.returncode, several.stdout) == (2, "")
    assert "give MASK LABEL, MODEL MANIFEST, or MODEL IMAGE LABEL" in several.stderr
    assert scores["brier"] == 0
    assert scores["false_cloud"] is None  # there is cloud in it


@pytest.mark.usefixtures("default_run")
def test_evaluate_writes_pages_of_a_mask_and_of_a_model_on_one_image(folder):
    mask = run("evaluate", "mask.tif", "scene_label.tif", "--out", "of_mask", cwd=folder)
    assert (mask.returncode, mask.stderr) == (0, "")
    # A model sees images at their own pixels: at 30 m, which it was trained for.
    for name, how in (("scene", Resampling.average), ("scene_label", Resampling.nearest)):
        with rasterio.open(folder / f"{name}.tif") as source:
            pixels = source.read(out_shape=(source.count, 200, 234), resampling=how)
            profile = source.profile | {"height": 200, "width": 234}
        with rasterio.open(folder / f"{name}_30m.tif", "w", **profile) as dataset:
            dataset.write(pixels)
    pair = "lite", "scene_30m.tif", "scene_label_30m.tif"
    model = run("evaluate", *pair, "--out", "of_model", cwd=folder)
    assert model.returncode == 0, model.stderr
    assert model.stdout.startswith("lite on scene_30m.tif, threshold 0.5")
    assert model.stdout.splitlines()[1].endswith("best f1     best f2")
    for out in ("of_mask", "of_model"):
        facts = json.loads((folder / out / "scores.json").read_text())
        assert facts["overall"]["f1"] > 0.8
        of = {"of_mask": ("mask.tif", "scene_label.tif"), "of_model": pair[1:]}[out]
        assert (facts.get("mask") or facts["image"], facts["label"]) == of
        with Image.open(folder / out / "worst.png") as picture:
            assert np.ptp(np.asarray(picture)) > 100
    foreign = run("evaluate", *pair, "--split", "val", cwd=folder)
    assert "--split: only for a MANIFEST" in foreign.stderr


def test_the_size_told_is_that_of_the_output(folder):
    done = run(
        "segment", "scene.tif", "small.tif", "--resize-factor", "4", "--grid", "model", cwd=folder
    )
    assert "150 × 175 px" in done.stdout
    assert "cloudmask: slim-lite in" in done.stderr
    with rasterio.open(folder / "small.tif") as dataset:
        assert dataset.shape == (150, 175)


def test_zarr_with_json_and_a_quicklook(folder):
    done = run(
        "segment", "scene.tif", "mask.zarr", "--json", "--quicklook", "look.png",
        "--resize-factor", "2", "--threshold", "0.4", "--precision", "float32", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    mask = xr.open_zarr(folder / "mask.zarr", consolidated=False, mask_and_scale=False)["mask"]
    assert mask.shape == (600, 700)
    cover = cloud_cover(mask)
    assert facts["cloud_percent"] == pytest.approx(cover.cloud_percent)
    assert facts["threshold"] == 0.4
    assert facts["model_grid"] == [300, 350]
    assert facts["model"] == load_model().name
    assert facts["seconds"] > 0
    with rasterio.open(folder / "scene.tif") as scene:
        assert mask.rio.crs == scene.crs
        assert mask.rio.transform() == scene.transform
    with Image.open(folder / "look.png") as picture:
        assert picture.size == (700 + 8 + 700, 600)


@pytest.mark.parametrize("more", [("m.png",), ("m.tif", "--grid", "model", "--resize-factor", "7")])
def test_a_quicklook_of_what_lies_nowhere_or_is_coarse(folder, tmp_path, more):
    """A picture has no place of its own, and a coarse mask's pixels lie between the scene's."""
    out, *more = more
    done = run(
        "segment", "scene.tif", tmp_path / out, "--quicklook", tmp_path / "q.png", *more, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "q.png") as picture:
        assert picture.size == (700 + 8 + 700, 600)


def test_quiet_prints_nothing_and_a_picture_shows_the_model_s_grid(folder):
    done = run(
        "segment", "scene.tif", "mask.png", "--quiet", "--grid", "model", "--resize-factor", "3",
        cwd=folder,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with Image.open(folder / "mask.png") as picture:
        assert picture.size == (234, 200)
        assert set(np.unique(np.asarray(picture))) <= {0, 1}


def test_probability_is_on_the_model_s_grid(folder):
    done = run("segment", "scene.tif", "p.tif", "--probability", "--gsd", "40", cwd=folder)
    assert done.returncode == 0, done.stderr
    with rasterio.open(folder / "p.tif") as dataset:
        assert dataset.dtypes == ("float32",)
        assert dataset.shape == (150, 175)
        assert dataset.res == (40, 40)
        values = dataset.read(1)
    assert 0 <= values.min() < values.max() <= 1
    share = 100 * (values >= load_model().threshold).mean()
    assert f"cloud {share:.1f} %" in done.stdout


def test_all_nodata_gives_a_mask_of_nodata_and_a_warning(tmp_path, make_scene):
    make_scene(np.zeros((3, 70, 90), "uint8"), nodata=0)
    done = run("segment", "scene.tif", "mask.tif", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert "no valid pixel" in done.stderr
    facts = json.loads(done.stdout)
    assert facts["cloud_percent"] is None
    assert facts["nodata_percent"] == 100
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        assert dataset.shape == (70, 90)
        assert (dataset.read(1) == 255).all()


def test_models_lists_what_the_registry_holds():
    done = run("models", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(json.dumps(list_models()))
    text = run("models")
    assert text.returncode == 0
    for name in list_models():
        assert name in text.stdout
    assert text.stdout.count("(default)") == 1


def test_info_tells_the_grid_and_the_plan(folder):
    done = run("info", "scene.tif", "--resize-factor", "2", "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert (facts["height"], facts["width"], facts["bands"]) == (600, 700, 3)
    assert facts["crs"] == "EPSG:32637"
    assert facts["gsd"] == [10, 10]
    assert facts["dtype"] == "uint8"
    assert facts["nodata"] is None
    assert facts["overviews"] == []
    assert facts["model_grid"] == [300, 350]
    assert facts["blocks"] == [1, 1]
    assert facts["overlap"] > 0
    assert facts["memory"] > 2**29
    text = run("info", "scene.tif", "--resize-factor", "2", cwd=folder)
    assert text.returncode == 0
    for words in ("600 × 700 px", "EPSG:32637", "10 × 10 m", "300 × 350 px", "1 × 1 chunks"):
        assert words in text.stdout


@pytest.mark.parametrize("chunk", [None, 64, 300])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_plan_is_what_predict_does(make_scene, chunk, dtype):
    path = str(make_scene(np.ones((3, 900, 2000), dtype)))
    model, scale = load_model("unet-f1"), None if dtype == "uint8" else 1.0
    plan = plan_scene(path, model, gsd="native", scale=scale, chunk=chunk)
    scene = open_scene(path, grid=plan.grid, chunk=plan.chunks, scale=scale)
    assert predict(scene, model).chunks == plan.chunks


@pytest.mark.parametrize(
    ("shape", "parts", "blocks"),
    [
        ((4000, 4000), 1, (1, 1)),
        ((4000, 4000), 2, (2, 1)),  # halves: of quarters halos are twice as much
        ((4000, 4000), 4, (2, 2)),
        ((1100, 4500), 4, (1, 4)),
        ((2000, 2000), 2, (1, 1)),  # halves would be too small
        ((9000, 2000), 4, (4, 1)),
        ((9000, 9000), 2, (2, 2)),  # cut anyway, for memory
    ],
)
def test_a_scene_is_cut_for_workers_where_the_halo_is_least(make_scene, shape, parts, blocks):
    path = make_scene(np.ones((3, 1, 1), "uint8"))
    with rasterio.open(path) as scene:
        profile = scene.profile | {"height": shape[0], "width": shape[1]}
    with rasterio.open(path, "w", **profile, sparse_ok=True):
        pass
    model = load_model()
    assert plan_scene(str(path), model, gsd="native", parts=parts).blocks == blocks


def test_info_refuses_what_segment_refuses(folder):
    done = run("info", "scene.tif", "--gsd", "native", "--resize-factor", "2", cwd=folder)
    assert done.returncode != 0
    assert "--gsd and --resize-factor are both given" in done.stderr
    for options, words in [
        (("--scale", "-5"), "scale is -5.0: give the positive value"),
        (("--stretch", "80"), "stretch is 80.0: give the percentile"),
    ]:
        done = run("info", "scene.tif", *options, cwd=folder)
        assert done.returncode == 2
        assert words in done.stderr


def test_info_tells_what_segment_would_ask_for(tmp_path, make_scene):
    make_scene(np.ones((3, 20, 30), "uint16"))
    done = run("info", "scene.tif", cwd=tmp_path)
    assert done.returncode == 0
    assert "the scene is uint16, not uint8: give the value that maps to 255" in done.stderr
    assert "20 × 30 px, 3 bands of uint16" in done.stdout


def test_info_is_json_for_a_nan_nodata_too(tmp_path, make_scene):
    make_scene(np.ones((3, 20, 30), "float32"), nodata=np.nan)
    done = run("info", "scene.tif", "--json", cwd=tmp_path)
    assert json.loads(done.stdout, parse_constant=pytest.fail)["nodata"] == "nan"


@pytest.mark.parametrize(
    ("height", "width", "y", "x", "seen"),
    [
        (3000, 3000, 10, 10, (1000, 1000)),
        (300, 300, 10, 10, (256, 256)),
        (900, 900, 10, 30, (300, 900)),  # as of degrees at 70° N
        (900, 300, 30, 100, (270, 300)),
        (300, 300, 33, 36, (300, 300)),  # a little oblong: as it is
        (500, 700, 0.01, 0.01, (6, 8)),  # whatever model it is for, something is left
    ],
)
def test_a_scene_is_read_in_square_pixels_of_the_model(height, width, y, x, seen):
    native = Grid(height, width, Affine(x, 0, 500_000, 0, -y, 5_000_000), CRS.from_epsg(32633))
    grid = model_grid(native, default_gsd(native, load_model()), None)
    assert (grid.height, grid.width) == seen


@pytest.mark.parametrize("command", [("info",), ("segment", "mask.tif")])
def test_scales_that_are_not_applied_are_told_of(tmp_path, make_scene, command):
    path = make_scene(np.ones((3, 20, 30), "uint16"))
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (1e-4,) * 3
    name, *out = command
    done = run(name, "scene.tif", *out, "--scale", "10000", cwd=tmp_path)
    assert "has scales 0.0001, 0.0001, 0.0001, by which its values are not" in done.stderr


def test_sample_writes_a_scene_and_its_label(tmp_path):
    done = run("sample", "s.tif", "--size", "40", "50", "--seed", "3", "--striped", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "40 × 50 px" in done.stdout
    assert set(listing(tmp_path)) == {"s.tif", "s_label.tif"}
    before = listing(tmp_path)
    again = run("sample", "s.tif", "--size", "30", "50", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert listing(tmp_path) == before


def test_version_and_help():
    assert version("cloudmask") in run("--version").stdout
    for arguments in ((), ("--help",), ("segment", "-h")):
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage:")


# --- what is refused


@pytest.fixture(scope="module")
def pantry(tmp_path_factory):
    """Bad input of every kind; refused runs write nothing, so one folder will do for all."""
    folder = tmp_path_factory.mktemp("bad")
    write_sample(folder / "scene.tif", size=(64, 80))
    (folder / "text.tif").write_text("this is no picture\n" * 40)
    (folder / "empty.tif").touch()
    whole = (folder / "scene.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[:100])
    (folder / "a_folder").mkdir()
    for name in ("loop.tif", "loop.png"):
        (folder / name).symlink_to(name)
    with zipfile.ZipFile(folder / "scene.zip", "w") as archive:
        archive.write(folder / "scene.tif", "scene.tif")
    rasterio.shutil.copy(folder / "scene.tif", folder / "scene.vrt", driver="VRT")
    (folder / "old.tif").write_bytes(b"precious")
    (folder / "old.png").write_bytes(b"precious")
    (folder / "old.zarr").mkdir()
    (folder / "old.zarr" / "zarr.json").write_text("{}")
    (folder / "model.weights.h5").write_bytes(b"no weights")
    with rasterio.open(folder / "scene.tif") as scene:
        profile = scene.profile | {"photometric": None}
    for name, changes in {
        "grey.tif": {"count": 1},
        "deep.tif": {"dtype": "uint16"},
    }.items():
        with rasterio.open(folder / name, "w", **(profile | changes)):
            pass
    return folder


SCENE_OUT = ("segment", "scene.tif", "out.tif")
REFUSED = {
    "missing file": (("segment", "none.tif", "out.tif"), "none.tif does not exist"),
    "directory": (("segment", "a_folder", "out.tif"), "a_folder is a directory"),
    "text": (("segment", "text.tif", "out.tif"), "text.tif cannot be opened: not recognized as"),
    "empty file": (("segment", "empty.tif", "out.tif"), "empty.tif cannot be opened"),
    "cut": (("segment", "cut.tif", "out.tif"), "cut.tif cannot be opened"),
    "few bands": (("segment", "grey.tif", "out.tif"), "pass --bands within 1 to 1, such as 1,1,1"),
    "band 0": ((*SCENE_OUT, "--bands", "0,1,2"), "they count from 1"),
    "band 9": ((*SCENE_OUT, "--bands", "1,2,9"), "within 1 to 3"),
    "two bands": ((*SCENE_OUT, "--bands", "1,2"), "three band numbers"),
    "threshold 1.2": ((*SCENE_OUT, "--threshold", "1.2"), "threshold is 1.2"),
    "threshold -0.1": ((*SCENE_OUT, "--threshold", "-0.1"), "threshold is -0.1"),
    "threshold nan": ((*SCENE_OUT, "--threshold", "nan"), "threshold is nan"),
    "gsd 0": ((*SCENE_OUT, "--gsd", "0"), "gsd is 0"),
    "gsd -5": ((*SCENE_OUT, "--gsd", "-5"), "gsd is -5"),
    "fine gsd": ((*SCENE_OUT, "--gsd", "9"), "finer than the scene's own 10"),
    "gsd in words": ((*SCENE_OUT, "--gsd", "fine"), "'fine' is neither metres nor"),
    "factor 0.5": ((*SCENE_OUT, "--resize-factor", "0.5"), "it must be 1 or more"),
    "factor too large": (
        (*SCENE_OUT, "--resize-factor", "99"),
        "1 × 1 pixels would be left of 64 × 80: give a --resize-factor of at most 10, or a finer",
    ),
    "gsd too coarse": ((*SCENE_OUT, "--gsd", "500"), "2 × 2 pixels would be left of 64 × 80"),
    "gsd and factor": ((*SCENE_OUT, "--gsd", "30", "--resize-factor", "3"), "choose one"),
    "chunk 0": ((*SCENE_OUT, "--chunk", "0"), "--chunk"),
    "odd overlap": ((*SCENE_OUT, "--overlap", "5"), "multiple of the model's stride"),
    "out is scene": (("segment", "scene.tif", "scene.tif", "--overwrite"), "is the scene itself"),
    "out is scene by detour": (
        ("segment", "scene.tif", "a_folder/../scene.tif", "--overwrite"),
        "is the scene itself",
    ),
    "look is scene": (
        (*SCENE_OUT, "--quicklook", "scene.tif", "--overwrite"),
        "let it end in .png",
    ),
    "look is out": (("segment", "scene.tif", "o.png", "--quicklook", "o.png"), "named twice"),
    "look is out by detour": (
        ("segment", "scene.tif", "o.png", "--quicklook", "a_folder/../o.png"),
        "named twice",
    ),
    "out is a part of the scene": (
        ("segment", "scene.vrt", "scene.tif", "--overwrite"),
        "is the scene itself",
    ),
    "out is the scene's URL": (
        ("segment", "file://{folder}/scene.tif", "scene.tif", "--overwrite"),
        "is the scene itself",
    ),
    "a URL of out is the scene": (
        ("segment", "scene.tif", "FILE://{folder}/scene.tif", "--overwrite"),
        "is the scene itself",
    ),
    "a URL of the look is out": (
        ("segment", "scene.tif", "o.png", "--quicklook", "file://{folder}/o.png"),
        "named twice",
    ),
    "out is what the scene is made of": (
        ("segment", "vrt://scene.tif?bands=1,2,3", "scene.tif", "--overwrite"),
        "is the scene itself",
    ),
    "out holds the scene": (
        ("segment", "GTIFF_DIR:1:scene.tif", "scene.tif", "--overwrite"),
        "is the scene itself",
    ),
    "nodata": ((*SCENE_OUT, "--nodata", "300"), "no pixel of uint8 is: give a whole number"),
    "look is no look": (
        ("segment", "scene.tif", "new.zarr", "--resume", "--quicklook", "old.png"),
        "old.png exists",
    ),
    "look exists": ((*SCENE_OUT, "--quicklook", "old.png"), "old.png exists"),
    "out exists": (("segment", "scene.tif", "old.tif"), "old.tif exists: pass --overwrite"),
    "store exists": (("segment", "scene.tif", "old.zarr"), "old.zarr exists: pass --overwrite"),
    "out is a folder": (
        ("segment", "scene.tif", "a_folder/", "--overwrite"),
        "a_folder is a folder: name a file in it, or give it as --out-dir",
    ),
    "no name": (("segment", "", "out.tif"), "the scene has no name: name a file"),
    "no name of out": (("segment", "scene.tif", ""), "the output has no name: let it end in"),
    "a link to itself": (
        ("segment", "scene.tif", "loop.tif"),
        "is a link that leads back to",
    ),
    "look is a link to itself": (
        (*SCENE_OUT, "--quicklook", "loop.png"),
        "loop.png is a link that leads back to itself: remove it",
    ),
    "a bucket's folder": (
        ("segment", "scene.tif", "s3://nobucket/folder"),
        "s3://nobucket/folder ends in '': let it end in .tif, .zarr or .png",
    ),
    "a zip": (("segment", "scene.zip", "out.tif"), "name a file in it, /vsizip/"),
    "no folder": (("segment", "scene.tif", "none/out.tif"), "folder none does not exist"),
    "unknown model": ((*SCENE_OUT, "--model", "resnet"), "no model is called 'resnet': choose"),
    "damaged model": ((*SCENE_OUT, "--model", "model.weights.h5"), "not an HDF5 weight file"),
    "missing model": ((*SCENE_OUT, "--model", "none.weights.h5"), "does not exist"),
    "uint16": (("segment", "deep.tif", "out.tif"), "(--scale 10000 for reflectance"),
    "uint16 for workers": (
        ("segment", "deep.tif", "out.tif", "--workers", "1"),
        "uint16, not uint8: give the value",
    ),
    "scale 0": (("segment", "deep.tif", "out.tif", "--scale", "0"), "scale is 0"),
    "stretch 50": (("segment", "deep.tif", "out.tif", "--stretch", "50"), "0 to 49"),
    "both": (("segment", "deep.tif", "out.tif", "--scale", "9", "--stretch", "2"), "choose one"),
    "extension": (("segment", "scene.tif", "out.jpg"), "let it end in .tif, .zarr or .png"),
    "picture of p": (("segment", "scene.tif", "p.png", "--probability"), "a picture holds a mask"),
    "p on scene": ((*SCENE_OUT, "--probability", "--grid", "scene"), "leave out --grid scene"),
    "no out": (("segment", "scene.tif"), "give SCENE and OUT, or scenes and --out-dir"),
    "no such option": ((*SCENE_OUT, "--resise", "3"), "--resise"),
    "no such command": (("segmnt", "scene.tif", "out.tif"), "segmnt"),
    "info": (("info", "none.tif"), "none.tif does not exist"),
    "evaluate": (("evaluate", "scene_label.tif", "none.tif"), "none.tif"),
    "evaluate text": (("evaluate", "scene_label.tif", "text.tif"), "text.tif"),
    "evaluate a scene": (("evaluate", "scene_label.tif", "scene.tif"), "scene.tif has 3 bands"),
    "size 0": (("sample", "s.tif", "--size", "0", "5"), "above 0"),
    "no tif": (("sample", "s.jpg", "--size", "5", "5"), "let it end in .tif or .tiff"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_exit_2_and_nothing_written(pantry, case):
    arguments, words = REFUSED[case]
    before = listing(pantry)
    done = run(*(word.replace("{folder}", str(pantry)) for word in arguments), cwd=pantry)
    assert words in done.stderr
    assert done.stderr.startswith("cloudmask: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert done.returncode == 2
    assert listing(pantry) == before


def test_unknown_model_lists_the_known(pantry):
    done = run(*SCENE_OUT, "--model", "resnet", cwd=pantry)
    for name in list_models():
        assert name in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(folder, tmp_path):
    tmp_path.chmod(0o500)
    done = run("segment", folder / "scene.tif", tmp_path / "mask.tif")
    tmp_path.chmod(0o700)
    assert done.returncode == 2
    assert "is not writable" in done.stderr
    assert not listing(tmp_path)


def test_a_truncated_png_is_no_picture(tmp_path, rng):
    """GDAL 3.10 reads noise from it, and no error, where it takes it as a whole."""
    path = tmp_path / "scene.png"
    Image.fromarray(rng.integers(0, 255, (300, 300, 3), "uint8")).save(path)
    path.write_bytes(path.read_bytes()[:-9000])
    done = run("segment", "scene.png", "mask.tif", "--model", "lite", cwd=tmp_path)
    assert done.returncode == 2
    assert "truncated or damaged" in done.stderr
    assert set(listing(tmp_path)) == {"scene.png"}


@pytest.mark.parametrize("out", ["old.tif", "old.zarr", "old.png"])
def test_a_late_damaged_block_fails_the_run_and_keeps_the_old_output(tmp_path, out):
    """Nodata but for the last block: the network is not needed to reach the damage."""
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", height=600, width=700, count=3,
        dtype="uint8", nodata=0, tiled=True, blockxsize=128, blockysize=128,
        compress="deflate", crs="EPSG:32633", transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
    ) as scene:  # fmt: skip
        scene.write(np.zeros((3, 600, 700), "uint8"))
    whole = (tmp_path / "scene.tif").read_bytes()
    (tmp_path / "scene.tif").write_bytes(whole[:-40])
    if out.endswith(".zarr"):
        (tmp_path / out).mkdir()
        (tmp_path / out / "zarr.json").write_text("{}")
    else:
        (tmp_path / out).write_bytes(b"precious")
    before = listing(tmp_path)
    done = run(
        "segment", "scene.tif", out, "--overwrite", "--gsd", "native", "--chunk", "256",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "truncated or damaged" in done.stderr
    assert [line for line in done.stderr.splitlines() if "cloudmask: " not in line] == []
    assert "Traceback" not in done.stderr
    assert listing(tmp_path) == before


def test_a_full_disk_is_one_line_and_keeps_the_old_output(tmp_path, make_scene):
    resource = pytest.importorskip("resource")
    make_scene(np.zeros((3, 900, 900), "uint8"), nodata=0)
    (tmp_path / "mask.tif").write_bytes(b"precious")
    before = listing(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "cloudmask", "segment", "scene.tif", "mask.tif", "--overwrite"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert done.returncode == 2
    assert "disk" in done.stderr
    assert "full" in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("out", "stop"), [("o.tif", "SIGINT"), ("o.zarr", "SIGTERM"), ("o.tif", "SIGHUP")]
)
def test_ctrl_c_leaves_no_output_and_no_temporary_folder(tmp_path, start, out, stop):
    write_sample(tmp_path / "scene.tif", size=(1500, 1500))
    before = listing(tmp_path)
    # A shell lets what it runs in the background ignore Ctrl-C, nohup the end of a session; and
    # children inherit that.
    inherited = signal.signal(signal.Signals[stop], signal.SIG_DFL)
    process = start(
        [sys.executable, "-m", "cloudmask", "segment", "scene.tif", out, "--gsd", "native",
         "--chunk", "256", "--precision", "float32"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.Signals[stop], inherited)
    assert any(" in float32" in line for line in process.stderr)  # the first chunks wait for it
    assert list(tmp_path.glob(f".{out}.*/*"))
    time.sleep(1)
    assert process.poll() is None, "the run was over before it could be interrupted"
    process.send_signal(signal.Signals[stop])
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("cloudmask: interrupted")
    assert listing(tmp_path) == before


def test_a_scene_of_one_chunk_is_cut_for_workers(own_weights, tmp_path):
    write_sample(tmp_path / "s.tif", size=(300, 2200))
    native = ("--model", own_weights, "--precision", "float32", "--gsd", "native", "--json")
    blocks = {}
    for name, where in {"here": (), "workers": ("--workers", 2)}.items():
        done = run("segment", "s.tif", f"{name}.tif", *native, *where, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        blocks[name] = json.loads(done.stdout)["blocks"]
    assert blocks == {"here": [1, 1], "workers": [1, 2]}
    with rasterio.open(tmp_path / "here.tif") as a, rasterio.open(tmp_path / "workers.tif") as b:
        assert (a.read() == b.read()).all()


def test_a_store_that_was_begun_without_workers_is_resumed_with_them(own_weights, tmp_path):
    write_sample(tmp_path / "s.tif", size=(300, 2200))
    native = ("--model", own_weights, "--precision", "float32", "--gsd", "native", "--resume")
    for where in ((), ("--workers", 2)):
        done = run("segment", "s.tif", "m.zarr", *native, *where, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("said", "line"),
    [("", "cloudmask: interrupted"), ("epoch 3 is kept", "cloudmask: epoch 3 is kept")],
)
def test_what_an_interrupted_command_says_is_shown(said, line):
    code = (
        "import click, cloudmask.cli as c\n"
        "@c.cli.command()\n"
        f"def stop(): raise KeyboardInterrupt(*filter(None, [{said!r}]))\n"
        "import sys; sys.argv = ['cloudmask', 'stop']; c.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.strip() == line  # click ends the line of "^C"


def test_a_pipe_is_no_scene(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    done = run("segment", "pipe.tif", "out.tif", cwd=tmp_path)
    assert done.returncode == 2
    assert "pipe.tif is a pipe or a device: name a file" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_may_be_closed(folder, tmp_path, closed):
    command = f"{sys.executable} -m cloudmask segment scene.tif {tmp_path}/m.tif {closed}"
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert set(listing(tmp_path)) == {"m.tif", "m.tif.aux.xml"}


def test_an_interrupt_is_heard_while_a_server_hangs(folder, tmp_path, server):
    """While it opens a file GDAL keeps Python's lock, but for what it logs between two tries."""
    rasterio.shutil.copy(folder / "scene.tif", tmp_path / "silent.tif")
    url = server.url(tmp_path / "silent.tif")
    command = [sys.executable, "-m", "cloudmask", "segment", url, tmp_path / "m.tif"]
    environment = os.environ | {"GDAL_HTTP_TIMEOUT": "2", "GDAL_HTTP_MAX_RETRY": "30"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        server.process.stdout.readline()  # that it was asked
        time.sleep(1)
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.strip() == "cloudmask: interrupted: only what --resume goes on with was kept"


def test_results_are_told_in_an_encoding_without_their_signs(folder, tmp_path):
    for command in (
        ("info", "scene.tif"),
        ("models",),
        ("segment", "scene.tif", tmp_path / "m.tif"),
    ):
        done = run(*command, cwd=folder, PYTHONIOENCODING="ascii")
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_json_keeps_names_in_any_encoding_and_has_no_infinity(make_scene, tmp_path):
    scene = make_scene(np.zeros((3, 64, 64), "float32"), "日.tif", nodata=-np.inf)
    strict = {"parse_constant": pytest.fail}
    told = run("info", scene, "--json", cwd=tmp_path, PYTHONIOENCODING="ascii").stdout
    assert json.loads(told, **strict)["nodata"] == "-inf"
    options = ("--scale", "1", "--nodata", "nan", "--json")
    done = run("segment", scene, "m.zarr", *options, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout, **strict)["scene"] == str(scene)
    for file in (tmp_path / "m.zarr").rglob("zarr.json"):
        json.loads(file.read_text(), **strict)


def test_a_picture_that_fails_says_that_the_mask_is_there(tmp_path):
    """A limit that the mask keeps, and the picture does not."""
    write_sample(tmp_path / "noise.tif", size=(512, 512))
    command = "ulimit -f 300; exec {python} -m cloudmask segment noise.tif m.tif --quicklook q.png"
    done = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; {command.format(python=sys.executable)}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "m.tif is complete, its picture is missing: " in done.stderr
    assert set(listing(tmp_path)) >= {"m.tif", "m.tif.aux.xml"}
    assert "q.png" not in listing(tmp_path)
