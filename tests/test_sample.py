import numpy as np
import pytest
import rasterio

from cloudmask import write_sample
from cloudmask.sample import sample_window


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


@pytest.mark.parametrize("striped", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (700, 3), (513, 1030), (1100, 1300)])
def test_any_size_with_the_label_on_the_same_grid(tmp_path, size, striped):
    label = write_sample(tmp_path / "s.tif", size=size, striped=striped)
    assert label == tmp_path / "s_label.tif"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.tif", "s_label.tif"]
    with rasterio.open(tmp_path / "s.tif") as scene, rasterio.open(label) as mask:
        assert scene.shape == mask.shape == size
        assert (scene.count, mask.count) == (3, 1)
        assert scene.transform == mask.transform
        assert scene.crs == mask.crs
        assert scene.res == (10, 10)
        assert scene.crs.is_projected
        assert scene.dtypes == ("uint8",) * 3
        assert set(np.unique(mask.read(1))) <= {0, 1}


def test_the_window_does_not_matter():
    whole = sample_window(np.arange(300), np.arange(400), 3)
    part = sample_window(np.arange(120, 180), np.arange(333, 334), 3)
    for all_pixels, pixels in zip(whole, part, strict=True):
        np.testing.assert_array_equal(all_pixels[..., 120:180, 333:334], pixels)


def test_stripes_and_tiles_hold_the_same_and_the_size_only_cuts(tmp_path):
    write_sample(tmp_path / "tiled.tif", size=(1100, 1050), seed=5)
    write_sample(tmp_path / "striped.tif", size=(1100, 1050), seed=5, striped=True)
    write_sample(tmp_path / "small.tif", size=(130, 90), seed=5)
    for suffix in ("", "_label"):
        tiled = read(tmp_path / f"tiled{suffix}.tif")
        np.testing.assert_array_equal(read(tmp_path / f"striped{suffix}.tif"), tiled)
        np.testing.assert_array_equal(read(tmp_path / f"small{suffix}.tif"), tiled[:, :130, :90])
    with (
        rasterio.open(tmp_path / "tiled.tif") as tiled,
        rasterio.open(tmp_path / "striped.tif") as striped,
    ):
        assert tiled.block_shapes[0] == (512, 512)
        assert striped.block_shapes[0] == (16, 1050)


def test_the_label_is_where_the_clouds_are(tmp_path):
    write_sample(tmp_path / "s.tif", size=(900, 1100), seed=0)
    pixels, label = read(tmp_path / "s.tif"), read(tmp_path / "s_label.tif")[0]
    assert 0.1 < label.mean() < 0.9
    darkest = pixels.min(axis=0)
    assert np.median(darkest[label == 1]) > np.median(darkest[label == 0]) + 80
    # Half of the ground hidden: no cloud is darker than half of the darkest cloud white.
    assert darkest[label == 1].min() >= 205 // 2


def test_seeds_differ_and_repeat(tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        write_sample(tmp_path / f"{name}.tif", size=(200, 300), seed=seed)
    a, b, c = (read(tmp_path / f"{name}.tif") for name in "abc")
    np.testing.assert_array_equal(a, c)
    assert (a != b).mean() > 0.9


def test_what_cannot_be_made_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ValueError, match=r"let it end in \.tif or \.tiff"):
        write_sample(tmp_path / "s.jpg", size=(10, 10))
    for size in ((0, 5), (5, 0), (-1, 5)):
        with pytest.raises(ValueError, match="height and a width above 0"):
            write_sample(tmp_path / "s.tif", size=size)
    for seed in (0.5, "1", None):
        with pytest.raises(ValueError, match=r"seed is .*: give a whole number"):
            write_sample(tmp_path / "s.tif", size=(10, 10), seed=seed)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_sample(tmp_path / "none" / "s.tif", size=(10, 10))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", ["s.tif", "s_label.tif"])
def test_existing_files_are_replaced_only_on_request(tmp_path, existing):
    (tmp_path / existing).write_bytes(b"old")
    (tmp_path / f"{existing}.ovr").write_bytes(b"of the old one")
    with pytest.raises(FileExistsError, match="overwrite"):
        write_sample(tmp_path / "s.tif", size=(10, 12))
    assert (tmp_path / existing).read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    write_sample(tmp_path / "s.tif", size=(10, 12), overwrite=True)
    assert read(tmp_path / existing).shape[1:] == (10, 12)
    assert {file.name for file in tmp_path.iterdir()} == {"s.tif", "s_label.tif"}


def test_a_failure_in_the_middle_leaves_the_old_files(tmp_path, monkeypatch):
    write_sample(tmp_path / "s.tif", size=(10, 12))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    calls = []

    def fail_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample_window(*args)

    monkeypatch.setattr("cloudmask.sample.sample_window", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "s.tif", size=(1030, 1030), overwrite=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
