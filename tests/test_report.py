import numpy as np
import pytest
import xarray as xr
from conftest import plane
from PIL import Image

from cloudmask import cloud_cover, quicklook
from cloudmask.report import is_quicklook, quicklook_factor, thin_out


def test_cloud_cover_counts_each_kind():
    cover = cloud_cover(plane([[0, 1, 1, 255], [0, 0, 1, 255]]).chunk(2))
    assert (cover.clear, cover.cloud, cover.nodata) == (3, 3, 2)
    assert cover.cloud_percent == 50
    assert cover.nodata_percent == 25


def test_cloud_cover_of_nothing_valid_is_unknown_not_zero():
    cover = cloud_cover(plane([[255, 255]]))
    assert cover.cloud_percent is None
    assert cover.nodata_percent == 100


@pytest.fixture
def picture(tmp_path):
    """A grey scene of 60 × 90 px with a square of cloud and a strip of nodata, drawn."""
    pixels = np.full((3, 60, 90), 100, "float32")
    pixels[:, 0, 0] = 255
    mask = np.zeros((60, 90), "uint8")
    mask[10:30, 20:50] = 1
    mask[:, 80:] = 255
    pixels[:, :, 80:] = np.nan
    scene = xr.DataArray(pixels, dims=("band", "y", "x")).chunk(30)
    quicklook(scene, plane(mask).chunk(40), tmp_path / "q.png")
    with Image.open(tmp_path / "q.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.mode == "RGB"
        yield np.asarray(drawn).astype(int)


def test_quicklook_shows_the_scene_beside_the_painted_scene(picture):
    assert picture.shape == (60, 90 + 8 + 90, 3)
    assert (picture[:, 90:98] == 255).all()
    left, right = picture[:, :90], picture[:, 98:]
    clear = np.s_[40:, :70]
    assert np.ptp(left[clear]) == 0
    np.testing.assert_array_equal(left[clear], right[clear])


def test_quicklook_of_a_wide_scene_has_the_painted_one_below(tmp_path):
    scene = xr.DataArray(np.full((3, 7, 90), 100, "float32"), dims=("band", "y", "x"))
    quicklook(scene, plane(np.zeros((7, 90), "uint8")), tmp_path / "q.png")
    with Image.open(tmp_path / "q.png") as drawn:
        assert drawn.size == (90, 7 + 8 + 7)


def test_quicklook_paints_clouds_red_and_nodata_grey(picture):
    left, right = picture[:, :90], picture[:, 98:]
    red, green, blue = right[15:25, 25:45].reshape(-1, 3).T
    assert (red > green + 50).all()
    assert (red > blue + 50).all()
    assert (right[10, 20:50] == (255, 0, 0)).all()  # the outline
    assert (right[:, 80:] == 128).all()
    assert (left[10:30, 20:50] == left[40, 0]).all()  # no paint on the left


def test_quicklook_brightens_a_dark_scene_alike_in_all_bands(tmp_path):
    pixels = np.zeros((3, 40, 40), "float32")
    pixels[0], pixels[1], pixels[2] = 6, 12, 24
    scene = xr.DataArray(pixels, dims=("band", "y", "x"))
    quicklook(scene, plane(np.zeros((40, 40))), tmp_path / "q.png")
    with Image.open(tmp_path / "q.png") as drawn:
        red, green, blue = np.asarray(drawn)[20, 20].astype(int)
    assert blue == 255
    assert green == pytest.approx(2 * red, abs=1)
    assert blue == pytest.approx(4 * red, abs=3)


def test_quicklook_of_nothing_valid_is_grey(tmp_path):
    scene = xr.DataArray(np.full((3, 5, 7), np.nan, "float32"), dims=("band", "y", "x"))
    quicklook(scene, plane(np.full((5, 7), 255)), tmp_path / "q.png")
    with Image.open(tmp_path / "q.png") as drawn:
        assert (np.asarray(drawn)[:, 15:] == 128).all()


def test_a_failed_quicklook_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "q.png").write_bytes(b"old")
    scene = xr.DataArray(np.zeros((3, 5, 7), "float32"), dims=("band", "y", "x"))
    monkeypatch.setattr(Image.Image, "save", fail_as_a_full_disk)
    with pytest.raises(OSError, match="disk is full"):
        quicklook(scene, plane(np.zeros((5, 7))), tmp_path / "q.png")
    assert [file.name for file in tmp_path.iterdir()] == ["q.png"]
    assert (tmp_path / "q.png").read_bytes() == b"old"


def fail_as_a_full_disk(_, path, **__):
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("shape", [(1, 1), (300, 1200), (5000, 17), (2401, 1201)])
def test_quicklook_fits_a_screen(shape):
    factor = quicklook_factor(*shape)
    assert factor >= 1
    assert max(shape) / factor <= 1200 + 1e-9


def test_thin_out_keeps_the_ends_and_spreads_evenly():
    rows = xr.DataArray(np.arange(10)[:, None] * np.ones(7, int), dims=("y", "x"))
    thinned = thin_out(rows, 5, 7)
    np.testing.assert_array_equal(thinned[:, 0], [1, 3, 5, 7, 9])
    assert thinned.sizes["x"] == 7
    np.testing.assert_array_equal(thin_out(rows, 10, 7), rows)


def test_a_probability_has_no_cloud_cover_before_it_is_cut():
    with pytest.raises(ValueError, match="cut it with threshold"):
        cloud_cover(xr.DataArray(np.zeros((4, 4), "float32"), dims=("y", "x"), name="probability"))


def test_a_quicklook_of_another_shape_is_refused(tmp_path):
    scene = xr.DataArray(np.zeros((3, 8, 8), "uint8"), dims=("band", "y", "x"))
    mask = xr.DataArray(np.zeros((8, 9), "uint8"), dims=("y", "x"))
    with pytest.raises(ValueError, match="one grid"):
        quicklook(scene, mask, tmp_path / "q.png")


def test_a_mask_of_other_values_is_not_counted():
    with pytest.raises(ValueError, match="the array holds 7: a mask is 0 clear"):
        cloud_cover(plane([[0, 7, 1, 255]]))


def test_a_quicklook_into_no_folder_is_refused_before_it_is_computed(tmp_path):
    def never(block):  # noqa: ARG001
        raise AssertionError

    scene = xr.DataArray(np.zeros((3, 2, 2), "uint8"), dims=("band", "y", "x")).chunk()
    scene = scene.copy(data=scene.data.map_blocks(never, dtype="uint8", meta=scene.data._meta))
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist: make it first"):
        quicklook(scene, plane([[0, 1], [0, 1]]), tmp_path / "none" / "q.png")


@pytest.mark.usefixtures("picture")
def test_a_quicklook_is_known_again_and_other_files_are_none(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    (tmp_path / "text.png").write_text("no picture")
    assert is_quicklook(tmp_path / "q.png")
    for other in ("photo.png", "text.png", "none.png"):
        assert not is_quicklook(tmp_path / other)
