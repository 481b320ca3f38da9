import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudmask.augment import AUGMENTATIONS, Source, patches, retexture
from cloudmask.pasting import matte

SIZE = 64
SEEDS = st.integers(0, 10_000)


def source(seed=0, height=150, width=120, *, cloud=True, bright=0.6):
    """Dim ground with a bright cloud, some of it not scored; the red band tells the label."""
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), "uint8")
    if cloud:
        label[height // 3 : height // 2, width // 4 : width // 2] = 1
    label[:9, :9] = 255
    pixels = rng.uniform(0.1, 0.3, (height, width, 3)).astype("float32")
    pixels[label == 1] += bright
    pixels[..., 0] = np.where(label == 255, 0, 0.1 + 0.5 * (label == 1))
    return Source(pixels, label)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(20, 300), st.integers(20, 300), st.booleans())
def test_patches_are_what_a_network_is_fed(seed, height, width, towards_cloud):
    rng = np.random.default_rng(seed)
    made, labels = patches(source(seed, height, width), 3, SIZE, rng, towards_cloud=towards_cloud)
    assert made.shape == (3, SIZE, SIZE, 3)
    assert made.dtype == np.float32
    assert labels.shape == (3, SIZE, SIZE)
    assert np.isfinite(made).all()
    assert 0 <= made.min() <= made.max() <= 255
    assert set(np.unique(labels)) <= {0, 1, 255}


def test_a_generator_repeats_its_patches_and_another_does_not():
    one, again, other = (
        patches(source(), 4, SIZE, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert (one[0] != other[0]).any()


@settings(deadline=None)
@given(SEEDS, st.integers(20, 200), st.integers(20, 200))
def test_turned_and_mirrored_labels_stay_on_their_pixels(seed, height, width):
    made, labels = patches(
        source(seed, height, width), 4, SIZE, np.random.default_rng(seed), augment=("turn",)
    )
    red = made[..., 0] / 255
    np.testing.assert_array_equal(labels, np.select([red < 0.05, red > 0.5], [255, 1], 0))


@settings(deadline=None)
@given(SEEDS)
def test_scaled_labels_stay_on_their_pixels_but_for_edges(seed):
    made, labels = patches(source(seed), 4, SIZE, np.random.default_rng(seed), augment=("scale",))
    red = made[..., 0] / 255
    assert (labels[np.abs(red - 0.1) < 1e-3] == 0).all()
    assert (labels[np.abs(red - 0.6) < 1e-3] == 1).all()


def test_patches_can_be_drawn_to_cloud():
    big = source(height=900, width=900)
    big.label[:] = 0
    big.label[700:703, 100:150] = 1
    _, labels = patches(big, 20, SIZE, np.random.default_rng(0), towards_cloud=True, augment=())
    assert all((label == 1).any() for label in labels)
    _, labels = patches(big, 20, SIZE, np.random.default_rng(0), augment=())
    assert not all((label == 1).any() for label in labels)


def test_pasted_clouds_are_labelled_where_they_brighten():
    clear, rng = source(cloud=False), np.random.default_rng(0)
    plain, before = patches(clear, 60, SIZE, np.random.default_rng(0), augment=())
    made, labels = patches(clear, 60, SIZE, rng, augment=("paste",))
    cloudy = [label for label in labels if (label == 1).any()]
    assert 10 < len(cloudy) < 50
    assert made[labels == 1].mean() > plain[before == 0].mean() + 50
    assert made[labels == 0].mean() < plain[before == 0].mean() + 5


def test_real_clouds_are_pasted_as_they_were():
    opacity = np.zeros((SIZE, SIZE), "float32")
    opacity[10:20, 30:50] = 0.9
    _, labels = patches(
        source(cloud=False, height=SIZE, width=SIZE), 200, SIZE, np.random.default_rng(0),
        augment=("paste",), mattes=[opacity],
    )  # fmt: skip
    assert any((label == 1).sum() == 200 and (label[10:20, 30:50] == 1).all() for label in labels)
    # and some from twice as far, mirrored to fill the patch
    found = [label == 1 for label in labels]
    mirrored = [cloud for cloud in found if (cloud == cloud[::-1, ::-1]).all()]
    assert any(cloud.sum() == 200 and cloud[:32, :32].sum() == 50 for cloud in mirrored)


def test_a_matte_is_the_cloud_over_dark_ground():
    whole = source(height=SIZE, width=SIZE)
    found = matte(whole.pixels, whole.label)
    assert found is not None
    inner = np.zeros_like(whole.label, bool)
    inner[24:30, 20:28] = True
    assert found[inner].min() > 0.5
    assert found[45:].max() < 0.2
    assert matte(whole.pixels, np.zeros_like(whole.label)) is None


def test_tinted_clouds_are_as_bright_as_before_but_not_white():
    white = Source(np.full((SIZE, SIZE, 3), 0.5, "float32"), np.ones((SIZE, SIZE), "uint8"))
    made, labels = patches(white, 100, SIZE, np.random.default_rng(0), augment=("tint",))
    colours = made.mean(axis=(1, 2), dtype="float64")
    np.testing.assert_allclose(colours.mean(axis=1), 127.5, rtol=1e-5)
    ratio = colours[:, 0] / colours[:, 2]
    assert ratio.min() < 0.8
    assert ratio.max() > 1.25
    assert (labels == 1).all()


def test_patches_are_as_smooth_as_enlarged_scenes_and_as_rough_as_noisy_ones():
    sharp, rng = source().pixels[:SIZE, :SIZE], np.random.default_rng(0)

    def roughness(image):
        return np.abs(np.diff(image, axis=0)).mean()

    made = [retexture(sharp, rng) for _ in range(500)]
    assert 150 < sum(image is sharp for image in made) < 250
    assert all(abs(image.mean() - sharp.mean()) < 0.02 for image in made)
    shares = [roughness(image) / roughness(sharp) for image in made]
    assert min(shares) < 0.2
    assert max(shares) > 1.5
    assert 100 < sum(share < 0.9 for share in shares) < 200


def test_an_edge_of_nodata_is_filled_and_not_scored():
    made, labels = patches(
        source(bright=0), 60, SIZE, np.random.default_rng(0), augment=("nodata",)
    )
    plain, before = patches(source(bright=0), 60, SIZE, np.random.default_rng(0), augment=())
    edged = [(labels[i] == 255).mean() > (before == 255).mean(axis=(1, 2)).max() for i in range(60)]
    assert 1 <= sum(edged) < 30
    assert made.max() <= plain.max()


@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS if n not in ("turn", "scale")])
def test_each_augmentation_alone_changes_pictures(name):
    plain, _ = patches(source(cloud=False), 40, SIZE, np.random.default_rng(0), augment=())
    made, _ = patches(source(cloud=False), 40, SIZE, np.random.default_rng(0), augment=(name,))
    assert (made != plain).any()


def test_sea_covers_no_cloud_that_is_labelled():
    """A small cloud under it would teach that sea is cloud."""
    pixels = np.full((SIZE * 4, SIZE * 4, 3), 0.2, "float32")
    label = np.zeros(pixels.shape[:2], "uint8")
    label[120:128, 120:128] = 1
    pixels[label == 1] = 0.9
    made, labels = patches(
        Source(pixels, label), 100, SIZE * 4, np.random.default_rng(0), augment=("sea",)
    )
    assert made[labels == 1].min() > 0.85 * 255
