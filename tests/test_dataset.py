"""Labelled images to batches: what is read, how often, and what a batch depends on."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from cloudmask import read_examples
from cloudmask.dataset import ROUND, training_batches, validation_patches
from cloudmask.draw import Sampling
from cloudmask.labelled import Reading, labelled_chunks, longest_short_side, read
from cloudmask.manifest import Example

SMALL = Sampling(size=32, batch_size=4, seed=3)


def write(path: Path, values, *, crs="EPSG:32633", west=500_000, **profile) -> None:
    values = values if values.ndim == 3 else values[None]
    with rasterio.open(
        path, "w", driver="GTiff", count=values.shape[0], height=values.shape[1],
        width=values.shape[2], dtype=values.dtype, crs=crs,
        transform=from_origin(west, 5_000_000, 10, 10), **profile,
    ) as dataset:  # fmt: skip
        dataset.write(values)


def example(folder, name="a", *, size=(80, 96), group="all", seed=0, cloud=0.3, **profile):
    """An image whose brightness tells its label."""
    rng = np.random.default_rng(seed)
    label = (rng.random(size) < cloud).astype("uint8")
    pixels = np.where(label, 200, 50).astype("uint8")[None].repeat(3, axis=0)
    write(folder / f"{name}.tif", pixels, **profile)
    write(folder / f"{name}_label.tif", label)
    return Example(
        str(folder / f"{name}.tif"), str(folder / f"{name}_label.tif"), "train", name, group
    )


def take(found, count, sampling=SMALL, **options):
    batches = training_batches(found, Reading(), sampling, **options).take(count)
    return [(pixels.numpy(), labels.numpy()) for pixels, labels in batches]


def test_index_counts_classes_and_leaves_out_what_is_not_scored(tmp_path):
    one = example(tmp_path)
    label = rasterio.open(one.label).read(1)
    label[:10] = 255
    write(Path(one.label), label)
    (chunk,) = labelled_chunks([one], Reading())
    assert (chunk.clear, chunk.cloud) == ((label == 0).sum(), (label == 1).sum())
    assert longest_short_side([chunk]) == 80
    write(Path(one.label), np.full_like(label, 255))
    assert labelled_chunks([one], Reading()) == []


def test_nodata_of_the_image_is_filled_and_not_scored(tmp_path):
    one = example(tmp_path, nodata=50)
    (chunk,) = labelled_chunks([one], Reading())
    source = read(chunk, Reading())
    truth = rasterio.open(one.label).read(1)
    np.testing.assert_array_equal(source.label, np.where(truth == 1, 1, 255))
    assert source.pixels.min() > 0.7  # filled with the colour around


def test_a_large_scene_is_cut_into_chunks_that_are_read_one_at_a_time(tmp_path, monkeypatch):
    one = example(tmp_path, size=(3000, 2500), tiled=True)
    from cloudmask.readers import raster

    sizes = []
    real = raster.RasterReader.read

    def spy(self, grid, rows, columns):
        sizes.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return real(self, grid, rows, columns)

    monkeypatch.setattr(raster.RasterReader, "read", spy)
    found = labelled_chunks([one], Reading())
    assert len(found) >= 6
    assert sum(chunk.clear + chunk.cloud for chunk in found) == 3000 * 2500
    assert sizes == []  # labels tell enough
    take(found, ROUND, Sampling(size=32, batch_size=4, augment=("turn",)))
    assert max(sizes) <= 1100**2
    visits = SMALL.batch_size * ROUND // 4
    assert len(sizes) <= 4 * visits  # read ahead by some visits, not by patches


def test_batches_depend_on_the_seed_and_their_number_only(tmp_path):
    found = labelled_chunks([example(tmp_path, n, seed=i) for i, n in enumerate("abc")], Reading())
    whole = take(found, 3 * ROUND)
    assert whole[0][0].shape == (4, 32, 32, 3)
    assert whole[0][0].dtype == np.float32
    assert whole[0][1].shape == (4, 32, 32, 1)
    for (pixels, labels), (again, others) in zip(whole, take(found, 3 * ROUND), strict=True):
        np.testing.assert_array_equal(pixels, again)
        np.testing.assert_array_equal(labels, others)
    resumed = take(found, ROUND, first_round=2)
    for (pixels, _), (again, _) in zip(whole[2 * ROUND :], resumed, strict=True):
        np.testing.assert_array_equal(pixels, again)
    other = take(found, 1, Sampling(size=32, batch_size=4, seed=4))
    assert (other[0][0] != whole[0][0]).any()


def test_sets_are_drawn_alike_or_as_the_mix_says(tmp_path):
    sets = {"one": 0.1, "two": 0.5, "three": 0.9}
    examples = [example(tmp_path, "a", group="one", cloud=0)]
    examples += [example(tmp_path, f"b{i}", group="two", cloud=0) for i in range(9)]
    for i, one in enumerate(examples):  # brightness tells the set
        values = np.full((3, 80, 96), 40 if i == 0 else 120, "uint8")
        write(Path(one.image), values)
    found = labelled_chunks(examples, Reading())

    def share(mix):
        sampling = Sampling(size=32, batch_size=16, augment=(), mix=mix)
        pixels = np.concatenate([p for p, _ in take(found, 2 * ROUND, sampling)])
        return (pixels.mean(axis=(1, 2, 3)) < 80).mean()

    assert 0.35 < share(()) < 0.65
    assert share((("one", 9.0),)) > 0.75
    with pytest.raises(ValueError, match="mix names sets without training images: three"):
        take(found, 1, Sampling(size=32, batch_size=4, mix=(("three", sets["three"]),)))


def test_cloud_is_drawn_more_often_than_it_covers(tmp_path):
    one = example(tmp_path, size=(800, 800), cloud=0)
    label = np.zeros((800, 800), "uint8")
    label[100:120, 100:120] = 1
    write(Path(one.label), label)
    sampling = Sampling(size=32, batch_size=16, augment=())
    batches = take(labelled_chunks([one], Reading()), ROUND, sampling)
    labels = np.concatenate([label for _, label in batches])
    assert (labels == 1).any(axis=(1, 2, 3)).mean() > 0.3


def test_validation_patches_are_fixed_and_shared_between_sets(tmp_path):
    examples = [example(tmp_path, f"a{i}", group="many", seed=i) for i in range(8)]
    examples += [example(tmp_path, "b", group="few", size=(40, 20))]
    found = labelled_chunks(examples, Reading())
    pixels, labels = validation_patches(found, Reading(), SMALL, limit=12)
    again, _ = validation_patches(found, Reading(), SMALL, limit=12)
    np.testing.assert_array_equal(pixels, again)
    assert pixels.shape[1:] == (32, 32, 3)
    assert 7 <= len(pixels) <= 12
    scored = (labels != 255).mean(axis=(1, 2, 3))
    assert Counter(scored.round(2).tolist()) == {1.0: len(pixels) - 2, 0.62: 2}
    np.testing.assert_array_equal(pixels[0, ..., 0] > 100, labels[0, ..., 0] == 1)


def test_validation_looks_at_all_of_an_image(tmp_path):
    one = example(tmp_path, size=(40, 48), cloud=0)
    last = np.zeros((40, 48), "uint8")
    last[-1, -1] = 1
    write(Path(one.label), last)
    found = labelled_chunks([one], Reading())
    _, labels = validation_patches(found, Reading(), SMALL, limit=12)
    assert labels.shape[0] == 4
    assert sorted(int((label == 1).sum()) for label in labels) == [0, 0, 0, 1]


def test_validation_batches_mix_scenes(tmp_path):
    """A loss that is a ratio of its batch says little of false cloud on one that is all clear."""
    cloudy = example(tmp_path, "cloudy", size=(512, 512))
    write(Path(cloudy.label), np.ones((512, 512), "uint8"))
    clear = example(tmp_path, "clear", size=(512, 512), cloud=0)
    write(Path(clear.label), np.zeros((512, 512), "uint8"))
    found = labelled_chunks([cloudy, clear], Reading())
    _, labels = validation_patches(found, Reading(), SMALL, limit=128)
    shares = (labels == 1).mean(axis=(1, 2, 3)).reshape(8, 16).mean(axis=1)
    assert (shares > 0.1).all()
    assert (shares < 0.9).all()


@pytest.mark.parametrize("reading", [Reading(), Reading(nodata=0)])
def test_a_frame_of_nodata_that_is_labelled_clear_teaches_nothing(tmp_path, reading):
    one = example(tmp_path, size=(64, 4096), cloud=0)
    pixels = np.full((3, 64, 4096), 80, "uint8")
    pixels[..., 1040:] = 0
    declared = {"nodata": 0} if reading.nodata is None else {}
    write(Path(one.image), pixels, **declared)
    write(Path(one.label), np.zeros((64, 4096), "uint8"))
    found = labelled_chunks([one], reading)
    assert [(chunk.columns, chunk.clear) for chunk in found] == [
        ((0, 1024), 64 * 1024),
        ((1024, 2048), 64 * 16),
    ]
    _, labels = validation_patches(found, reading, SMALL, limit=200)
    assert (labels != 255).any(axis=(1, 2, 3)).all()
    assert len(labels) == 66


def test_a_label_on_another_grid_is_refused(tmp_path):
    one = example(tmp_path)
    label = rasterio.open(one.label).read(1)
    for change, match in [
        (lambda: write(Path(one.label), label[:, :-1]), "80 × 95 pixels, .*80 × 96"),
        (lambda: write(Path(one.label), label, west=500_010), "lies elsewhere"),
        (lambda: write(Path(one.label), label, crs="EPSG:32634"), "lies elsewhere"),
        (lambda: write(Path(one.label), label.astype("float32")), "is float32: a label is uint8"),
        (
            lambda: write(Path(one.label), label * 4 + 1),
            "has the values 5: .*--cloud 5 ",
        ),
    ]:
        change()
        with pytest.raises(ValueError, match=match) as caught:
            labelled_chunks([one], Reading())
        assert "\n" not in str(caught.value)
    (chunk,) = labelled_chunks([one], Reading(cloud=(5,)))
    assert chunk.cloud == (label == 1).sum()


def test_a_manifest_of_pictures_feeds_batches(tmp_path):
    from PIL import Image

    rows = []
    for i in range(3):
        Image.fromarray(np.full((50, 60, 3), 80 * i, "uint8")).save(tmp_path / f"{i}.png")
        Image.fromarray(np.full((50, 60), int(i == 2), "uint8")).save(tmp_path / f"l{i}.png")
        rows.append({"image": f"{i}.png", "label": f"l{i}.png", "split": "train"})
    with (tmp_path / "m.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = labelled_chunks(read_examples(tmp_path / "m.csv"), Reading())
    sampling = Sampling(size=32, batch_size=8, augment=("turn",))
    for pixels, labels in take(found, ROUND, sampling):
        bright = pixels.mean(axis=(1, 2, 3)) > 120
        np.testing.assert_array_equal(bright, (labels == 1).all(axis=(1, 2, 3)))
