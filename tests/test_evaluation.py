import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rioxarray
from affine import Affine
from conftest import FakeModel, plane
from PIL import Image
from rasterio.crs import CRS

from cloudmask import (
    evaluate,
    evaluate_model,
    open_label,
    predict,
    read_examples,
    write_cog,
    write_zarr,
)
from cloudmask.constants import CLOUD, NODATA
from cloudmask.evaluation import evaluate_mask
from cloudmask.grid import Grid
from cloudmask.labelled import Reading
from cloudmask.pages import write_evaluation
from cloudmask.scene import open_scene

UTM = CRS.from_epsg(32633)


def test_evaluate_counts_only_pixels_valid_in_both():
    #                  hits    false   missed  right   not counted
    mask = plane([[1, 1, 1, 1, 0, 0, 0, 0, 1, 255, 255, 0]])
    label = plane([[1, 1, 1, 0, 1, 1, 0, 0, 255, 1, 0, 255]])
    scores = evaluate(mask.chunk({"x": 5}), label)
    assert scores.precision == pytest.approx(3 / 4)
    assert scores.recall == pytest.approx(3 / 5)
    assert scores.f1 == pytest.approx(6 / 9)


@pytest.mark.parametrize(
    ("mask", "label", "expected"),
    [
        ([[1, 0]], [[1, 0]], (1, 1, 1)),
        ([[1, 0]], [[0, 1]], (0, 0, 0)),
        ([[0, 0]], [[1, 0]], (math.nan, 0, 0)),
        ([[1, 0]], [[0, 0]], (0, math.nan, 0)),
        ([[0, 0]], [[0, 0]], (math.nan, math.nan, math.nan)),
        ([[255, 255]], [[1, 0]], (math.nan, math.nan, math.nan)),
    ],
)
def test_evaluate_at_the_edges(mask, label, expected):
    scores = evaluate(plane(mask), plane(label))
    np.testing.assert_equal((scores.precision, scores.recall, scores.f1), expected)


def test_evaluate_refuses_other_shapes_and_labels_that_are_none():
    mask = plane([[0, 1]])
    with pytest.raises(ValueError, match=r"\(1, 2\), the label \(2, 1\)"):
        evaluate(mask, plane([[0], [1]]))
    with pytest.raises(ValueError, match="the label is float32"):
        evaluate(mask, mask.astype("float32"))
    with pytest.raises(ValueError, match="the label has the values 7"):
        evaluate(mask, plane([[0, 7]]))


def test_evaluate_cuts_a_probability_and_leaves_its_nodata_out():
    probability = plane([[0, 0, 0, 0]]) + np.array([[0.2, 0.6, 0.6, np.nan]], "float32")
    label = plane([[0, 1, 0, 1]])
    assert evaluate(probability, label).precision == pytest.approx(1 / 2)
    assert evaluate(probability, label).recall == 1
    assert evaluate(probability, label, threshold=0.7).recall == 0
    squares = (0.2**2 + 0.4**2 + 0.6**2) / 3
    assert evaluate(probability, label).brier == pytest.approx(squares, rel=1e-6)


@pytest.fixture
def labelled(tmp_path, rng):
    """Two sets; in the second a large image, whose label disagrees, and one without cloud."""
    sizes = {"a0": (70, 90), "a1": (64, 64), "b0": (300, 200), "b1": (64, 64)}
    rows = []
    for name, (height, width) in sizes.items():
        pixels = rng.integers(0, 256, (height, width, 1), "uint8").repeat(3, axis=2)
        pixels[: height // 2] //= 4
        label = (pixels[..., 0] > 100).astype("uint8")
        if name == "b0":
            label = 1 - label
        if name == "b1":
            label[:] = 0
        label[:, :5] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray(label).save(tmp_path / f"{name}_label.png")
        rows.append({"image": f"{name}.png", "label": f"{name}_label.png", "split": "test"})
        rows[-1] |= {"set": name[0], "scene": name}
    with (tmp_path / "m.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "m.csv"


def test_a_model_is_scored_by_set_as_by_hand(labelled):
    examples, model = read_examples(labelled), FakeModel(threshold=0.3)
    facts = evaluate_model(model, examples).facts()
    assert list(facts["sets"]) == ["a", "b"]
    assert facts["threshold"] == model.threshold
    hits = false = missed = 0
    for example in examples[:2]:
        found = predict(open_scene(example.image), model).to_numpy() >= model.threshold
        label = np.asarray(Image.open(example.label))
        hits += int((found & (label == 1)).sum())
        false += int((found & (label == 0)).sum())
        missed += int((~found & (label == 1)).sum())
    assert hits > 0
    assert false > 0
    assert facts["sets"]["a"]["precision"] == pytest.approx(hits / (hits + false))
    assert facts["sets"]["a"]["recall"] == pytest.approx(hits / (hits + missed))
    assert facts["sets"]["b"]["f1"] < facts["sets"]["a"]["f1"]
    low, high = facts["sets"]["a"]["intervals"]["f1"]
    assert low <= facts["sets"]["a"]["f1"] <= high


def test_false_cloud_is_counted_on_images_without_cloud_only(labelled):
    examples, model = read_examples(labelled), FakeModel()
    facts = evaluate_model(model, examples).facts()
    found = predict(open_scene(examples[3].image), model).to_numpy()[:, 5:] >= model.threshold
    assert found.any()
    assert facts["sets"]["b"]["false_cloud"] == pytest.approx(found.mean())
    assert math.isnan(facts["sets"]["a"]["false_cloud"])


def test_the_folder_of_an_evaluation(labelled, tmp_path):
    model = FakeModel()
    evaluation = evaluate_model(model, read_examples(labelled), threshold=0.4)
    assert evaluation.worst[0].example.scene == "b0"
    out = tmp_path / "out"
    write_evaluation(evaluation, out)
    facts = json.loads((out / "scores.json").read_text())
    assert (facts["model"], facts["threshold"]) == ("fake", 0.4)
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["recall"] == ""  # of a scene without cloud: as in JSON, no number
    assert [(row["set"], row["scene"]) for row in rows] == [
        ("overall", ""), ("a", ""), ("b", ""), ("a", "a0"), ("a", "a1"), ("b", "b0"), ("b", "b1"),
    ]  # fmt: skip
    total = sum(int(row["clear"]) + int(row["cloud"]) for row in rows[3:])
    assert int(rows[0]["clear"]) + int(rows[0]["cloud"]) == total
    for name in ("precision_recall.png", "reliability.png", "worst.png"):
        with Image.open(out / name) as picture:
            assert np.ptp(np.asarray(picture)) > 100
    with pytest.raises(FileExistsError, match="overwrite"):
        write_evaluation(evaluation, out)
    sure = evaluate_model(model, read_examples(labelled), threshold=1.0)
    write_evaluation(sure, out, overwrite=True)
    (out / "scores.json").write_text('{"score": 3}')  # of another program
    with pytest.raises(FileExistsError, match="no evaluation"):
        write_evaluation(evaluation, out, overwrite=True)
    (out / "scores.json").unlink()
    with pytest.raises(FileExistsError, match="no evaluation"):
        write_evaluation(evaluation, out, overwrite=True)


def test_tables_name_a_scene_without_what_signs_its_url(labelled):
    found = evaluate_model(FakeModel(), read_examples(labelled), threshold=0.4)
    signed = [replace(e, scene=f"https://h.org/{e.scene}?sig=secret") for e in found.examples]
    told = json.dumps(
        [replace(found, examples=signed).facts(), *replace(found, examples=signed).rows()]
    )
    assert "https://h.org/a0" in told
    assert "secret" not in told


def test_tables_hold_intervals_and_scenes(labelled, tmp_path):
    evaluation = evaluate_model(FakeModel(), read_examples(labelled), threshold=0.4)
    write_evaluation(evaluation, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "scores.json").read_text())
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [scene["scene"] for scene in facts["scenes"]] == ["a0", "a1", "b0", "b1"]
    assert float(rows[3]["f1"]) == pytest.approx(facts["scenes"][0]["f1"])
    low, high = facts["overall"]["intervals"]["f1"]
    assert [float(rows[0][key]) for key in ("f1_low", "f1_high")] == pytest.approx([low, high])
    assert rows[3]["f1_low"] == ""  # a single scene has none


def test_each_set_has_a_best_threshold_of_its_own(labelled):
    examples = read_examples(labelled)
    facts = evaluate_model(FakeModel(), examples).facts()
    for name, found in facts["sets"].items():
        members = [example for example in examples if example.set == name]
        alone = evaluate_model(FakeModel(), members).facts()["sweep"]
        for key, at in found["best_threshold"].items():
            highest = max(scores[key] for scores in alone if scores[key] > 0)
            assert found["best"][key] == highest
            assert highest in [scores[key] for scores in alone if scores["threshold"] == at]


def test_images_without_cloud_have_tables_and_pictures(labelled, tmp_path, recwarn):
    clear = [example for example in read_examples(labelled) if example.scene == "b1"]
    write_evaluation(evaluate_model(FakeModel(), clear), tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert facts["overall"]["recall"] is None
    assert facts["overall"]["best"]["f1"] == 0  # of what was found nothing is cloud
    assert facts["overall"]["false_cloud"] > 0
    assert not [warning for warning in recwarn if "legend" in str(warning.message)]


def test_labels_are_checked_before_the_network_runs(labelled):
    examples = read_examples(labelled)
    last = np.asarray(Image.open(examples[-1].label)).copy()
    last[10, 10] = 9
    Image.fromarray(last).save(examples[-1].label)
    ran = []
    with pytest.raises(ValueError, match=r"b1_label.png has the values 9"):
        evaluate_model(FakeModel(), examples, done=lambda: ran.append(1))
    assert not ran


@pytest.mark.parametrize(
    ("mask", "value"),
    [(plane([[0, 1, 3]]), "3"), (plane([[0, 0, 0]]) + np.float32(200), "200")],
)
def test_what_is_neither_mask_nor_probability_is_refused(mask, value):
    with pytest.raises(ValueError, match=f"the array holds {value}: a "):
        evaluate(mask, plane([[0, 1, 1]]))


def test_nothing_scored_is_said(caplog):
    assert math.isnan(evaluate(plane([[255, 255]]), plane([[0, 1]])).f1)
    assert "no pixel is scored" in caplog.text


def test_a_page_shows_every_so_many_pixels_of_what_was_found_once(labelled, rng, monkeypatch):
    class Counting(FakeModel):
        calls = 0

        def __call__(self, pixels):
            Counting.calls += 1
            return super().__call__(pixels)

    monkeypatch.setattr("cloudmask.evaluation.FLOAT_CHUNK", 256)
    example, model = read_examples(labelled)[0], Counting()
    Image.fromarray(rng.integers(0, 256, (700, 1300, 3), "uint8")).save(example.image)
    Image.fromarray(rng.integers(0, 2, (700, 1300), "uint8")).save(example.label)
    evaluation = evaluate_model(model, [example])
    calls = Counting.calls
    write_evaluation(evaluation, labelled.parent / "out")
    assert Counting.calls == calls > 4
    whole = predict(open_scene(example.image), model)
    np.testing.assert_allclose(evaluation.worst[0].found, whole[::3, ::3], atol=1e-6)
    assert evaluation.worst[0].label.shape == evaluation.worst[0].found.shape
    assert evaluation.worst[0].share == pytest.approx(1 - evaluation.facts()["overall"]["accuracy"])


def test_foreign_labels_are_read_by_value(labelled):
    example = read_examples(labelled)[0]
    label = np.asarray(Image.open(example.label)).copy()
    Image.fromarray(np.where(label == 1, 3, np.where(label == 0, 7, 255)).astype("uint8")).save(
        example.label
    )
    with pytest.raises(ValueError, match=r"a0_label.png has the values 3, 7.*--cloud"):
        evaluate_model(FakeModel(), [example])
    scores = evaluate_model(FakeModel(), [example], Reading(cloud=(3,))).facts()["overall"]
    assert 0 < scores["f1"] < 1


@pytest.mark.parametrize("cloud", [None, (1,), (1, 9)])
@pytest.mark.parametrize("nodata", [9, 0])
def test_a_label_s_declared_nodata_is_not_scored_unless_it_is_0(tmp_path, cloud, nodata):
    values = np.array([[0, 0, 1, 1, nodata]], "uint8")
    profile = {"driver": "GTiff", "height": 1, "width": 5, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "label.tif", "w", **profile, nodata=nodata) as label:
        label.write(values, 1)
    overall = evaluate(plane([[0, 1, 1, 0, 1]]), open_label(tmp_path / "label.tif"), cloud=cloud)
    false = 1 + (nodata == 0)  # clear, since a raster of clouds' outlines declares 0
    hits = 1 + (nodata == 9 and cloud == (1, 9))
    assert overall.precision == hits / (hits + false)


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 9), ("int16", -1), ("float32", -9999), ("float32", 255)]
)
def test_a_mask_s_declared_nodata_is_not_scored(tmp_path, dtype, nodata):
    profile = {"driver": "GTiff", "height": 1, "width": 4, "count": 1, "dtype": dtype}
    with rasterio.open(tmp_path / "mask.tif", "w", **profile, nodata=nodata) as mask:
        mask.write(np.array([[0, 1, 1, nodata]], dtype), 1)
    with rasterio.open(tmp_path / "label.tif", "w", **profile | {"dtype": "uint8"}) as label:
        label.write(np.array([[0, 0, 1, 1]], "uint8"), 1)
    paths = [str(tmp_path / name) for name in ("mask.tif", "label.tif")]
    overall = evaluate_mask(*paths).facts()["overall"]
    assert (overall["pixels"], overall["precision"], overall["recall"]) == (3, 0.5, 1)
    assert evaluate(*map(open_label, paths)).precision == 0.5


def test_a_mask_with_255_for_cloud_is_warned_of(tmp_path, caplog):
    Image.fromarray(np.array([[0, 255, 255]], "uint8")).save(tmp_path / "mask.png")
    Image.fromarray(np.array([[0, 1, 1]], "uint8")).save(tmp_path / "label.png")
    evaluate_mask(str(tmp_path / "mask.png"), str(tmp_path / "label.png"))
    assert "mask.png has 255, which is nodata, and no 1, which is cloud" in caplog.text


def test_255_may_mean_cloud(labelled):
    example = read_examples(labelled)[0]
    label = np.asarray(Image.open(example.label))
    before = evaluate_model(FakeModel(), [example]).facts()["overall"]
    assert before["pixels"] == (label != 255).sum()
    Image.fromarray(np.where(label == 1, 255, 0).astype("uint8")).save(example.label)
    scores = evaluate_model(FakeModel(), [example], Reading(cloud=(255,))).facts()["overall"]
    assert scores["pixels"] == label.size  # of the label that is there now
    assert scores["f1"] > 0
    with pytest.raises(ValueError, match="cloud is 256: values of a label are 0 to 255"):
        Reading(cloud=(1, 256))


def test_a_mask_elsewhere_is_refused():
    one = Grid(1, 4, Affine(10, 0, 500_000, 0, -10, 4_000_000), UTM)
    other = replace(one, transform=one.transform @ Affine.translation(1, 0))
    with pytest.raises(ValueError, match="the mask lies elsewhere than the label"):
        evaluate(one.attach(plane([[0, 1, 0, 1]])), other.attach(plane([[0, 1, 0, 1]])))


def test_a_mask_elsewhere_is_refused_without_a_crs():
    one = Grid(1, 4, Affine(10, 0, 500_000, 0, -10, 4_000_000), None)
    other = Grid(1, 4, Affine(10, 0, 500_010, 0, -10, 4_000_000), UTM)
    mask = plane([[0, 1, 0, 1]])
    for theirs in (other, replace(other, crs=None)):
        with pytest.raises(ValueError, match="the mask lies elsewhere than the label"):
            evaluate(one.attach(mask), theirs.attach(mask))


@pytest.mark.parametrize(
    "counted",
    [
        Affine.identity(),  # a PNG's
        Affine(1, 0, 0, 0, -1, 0),
        Affine(1, 0, 0, 0, -1, 4),
        Affine(1, 0, -0.5, 0, 1, -0.5),  # of coordinates 0, 1, 2 …
        Affine(10, 0, 500_005, 0, -10, 3_999_995),  # a world file that tells the corner
    ],
)
def test_a_label_that_counts_its_pixels_or_is_half_a_pixel_off_is_taken(counted):
    one = Grid(1, 4, Affine(10, 0, 500_000, 0, -10, 4_000_000), UTM)
    mask = plane([[0, 1, 0, 1]])
    assert evaluate(one.attach(mask), Grid(1, 4, counted, None).attach(mask)).f1 == 1


def test_a_probability_is_cut_where_it_says(tmp_path):
    grid = Grid(1, 4, Affine(10, 0, 500_000, 0, -10, 4_000_000), UTM)
    values = np.array([[0.1, 0.52, 0.58, 0.9]], "float32")
    probability = grid.attach(plane([[0, 0, 0, 0]]) + values).assign_attrs(threshold=0.55)
    label = grid.attach(plane([[0, 0, 1, 1]]))
    assert evaluate(probability, label).f1 == 1
    assert evaluate(probability, label, threshold=0.5).precision == pytest.approx(2 / 3)
    write_cog(label, tmp_path / "label.tif")
    for write, name in ((write_cog, "p.tif"), (write_zarr, "p.zarr")):
        write(probability, tmp_path / name)
        found = evaluate_mask(str(tmp_path / name), str(tmp_path / "label.tif"))
        assert found.threshold == 0.55
        assert found.facts()["overall"]["f1"] == 1
    with rioxarray.open_rasterio(tmp_path / "p.tif") as read:
        assert evaluate(read.squeeze("band", drop=True), label).f1 == 1
        write_cog(read.squeeze("band", drop=True), tmp_path / "m.tif", like=label)
    np.testing.assert_array_equal(open_label(tmp_path / "m.tif"), label)


def test_a_mean_of_probabilities_may_be_rounded_to_more_than_1():
    mean = sum([(plane([[0, 1]]) * np.float32(1)) * np.float32(0.1)] * 10)
    assert mean.max() > 1
    assert evaluate(mean, plane([[0, 1]])).f1 == 1


@pytest.mark.parametrize("noted", ["0.5 (Otsu)", [0.5], 7])
def test_a_threshold_that_others_noted_otherwise_is_not_taken(noted, tmp_path):
    values = np.array([[0.1, 0.6, 0.3, 0.9]], "float32")
    probability = (plane([[0, 0, 0, 0]]) + values).assign_attrs(threshold=noted)
    assert evaluate(probability, plane([[0, 1, 0, 1]])).f1 == 1
    with rasterio.open(
        tmp_path / "p.tif", "w", driver="GTiff", height=1, width=4, count=1, dtype="float32"
    ) as file:
        file.write(values, 1)
        file.update_tags(CLOUDMASK_THRESHOLD=str(noted))
    Image.fromarray(np.array([[0, 1, 0, 1]], "uint8")).save(tmp_path / "label.png")
    found = evaluate_mask(str(tmp_path / "p.tif"), str(tmp_path / "label.png"))
    assert found.facts()["overall"]["f1"] == 1


def test_values_of_a_mask_s_label_may_mean_cloud():
    scores = evaluate(plane([[0, 1, 0, 1]]), plane([[7, 2, 7, 3]]), cloud=(2, 3))
    assert scores.f1 == 1
    only = evaluate(plane([[0, 1, 0]]), plane([[0, 1, 2]]), cloud=(1,))
    assert only.f1 == 1  # 2 is clear, although 1 is what means cloud anyway


def test_uint16_needs_its_scale_before_any_pixel_is_read(make_scene, rng):
    scene = make_scene(rng.integers(0, 10_000, (3, 64, 64), "uint16"))
    label = scene.with_name("l.tif")
    with rasterio.open(scene) as source, rasterio.open(
        label, "w", driver="GTiff", height=64, width=64, count=1, dtype="uint8",
        crs=source.crs, transform=source.transform,
    ) as target:  # fmt: skip
        target.write(np.ones((1, 64, 64), "uint8"))
    manifest = scene.with_name("n.csv")
    manifest.write_text(f"image,label,split,scale\n{scene.name},{label.name},test,\n")
    with pytest.raises(ValueError, match="uint16, not uint8"):
        evaluate_model(FakeModel(), read_examples(manifest))
    whole = evaluate_model(FakeModel(), read_examples(manifest), Reading(scale=10_000))
    manifest.write_text(f"image,label,split,scale\n{scene.name},{label.name},test,10000\n")
    from_manifest = evaluate_model(FakeModel(), read_examples(manifest), Reading(scale=65_535))
    stretched = evaluate_model(FakeModel(), read_examples(manifest), Reading(stretch=5))
    for each in (from_manifest, stretched):  # the manifest knows its images best
        assert whole.tallies[0].squared_error == each.tallies[0].squared_error
    with pytest.raises(ValueError, match="scale and stretch are both given"):
        Reading(scale=10_000, stretch=5)


@pytest.mark.parametrize("threshold", [-0.1, 5, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold is .*: give a probability from 0 to 1"):
        evaluate(plane([[0, 1]]), plane([[0, 1]]), threshold=threshold)
    with pytest.raises(ValueError, match=r"threshold is .*: give a probability from 0 to 1"):
        evaluate_model(FakeModel(), [], threshold=threshold)


def test_what_a_labels_mask_band_hides_is_not_scored(make_scene):
    label = np.array([[[0, 1, 0, 1]]], "uint8")
    path = make_scene(label, mask=np.array([[0, 0, 255, 255]], "uint8"))
    np.testing.assert_array_equal(open_label(path), [[255, 255, 0, 1]])
    assert evaluate(plane([[1, 0, 0, 1]]), open_label(path)).f1 == 1


def test_labels_with_255_for_cloud_are_told_of(labelled, caplog):
    (example, *_) = [e for e in read_examples(labelled) if e.scene == "a0"]
    label = np.asarray(Image.open(example.label))
    Image.fromarray(np.where(label == CLOUD, NODATA, label)).save(example.label)
    evaluate_model(FakeModel(), [example])
    assert f"no label has 1, which is cloud, but {example.label} has 255" in caplog.text
    caplog.clear()
    evaluate_model(FakeModel(), [example], Reading(cloud=(255,)))
    assert not caplog.text


def test_an_image_of_one_band_is_told_what_it_lacks(labelled):
    example = read_examples(labelled)[0]
    Image.open(example.image).convert("L").save(example.image)
    with pytest.raises(ValueError, match="has 1 of the three bands that an image has here"):
        evaluate_model(FakeModel(), [example])


def test_examples_may_come_one_by_one(labelled):
    examples = read_examples(labelled)
    one_by_one = evaluate_model(FakeModel(), iter(examples))
    assert one_by_one.examples == tuple(examples)
    assert one_by_one.facts()["overall"] == evaluate_model(FakeModel(), examples).facts()["overall"]


def test_of_no_examples_nothing_is_told():
    with pytest.raises(ValueError, match="there are no examples"):
        evaluate_model(FakeModel(), [])


def test_evaluate_names_what_is_no_plane():
    mask = plane([[0, 1]])
    with pytest.raises(ValueError, match="ndarray has no dimensions by name: give a DataArray"):
        evaluate(mask.to_numpy(), mask)
    with pytest.raises(ValueError, match=r"dimensions lat, x: give one of \(y, x\)"):
        evaluate(mask.rename(y="lat"), mask)
