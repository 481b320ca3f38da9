import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudmask.fill import CELL, fill_nodata


def test_valid_pixels_are_returned_as_they_are(rng):
    pixels = rng.uniform(0, 255, (50, 70, 3)).astype("float32")
    assert fill_nodata(pixels, np.ones((50, 70), bool)) is pixels


def test_nodata_takes_the_mean_colour_of_its_own_cell(rng):
    pixels = rng.uniform(0, 255, (CELL, CELL, 3)).astype("float32")
    valid = rng.random((CELL, CELL)) < 0.3
    filled = fill_nodata(np.where(valid[..., None], pixels, np.nan), valid)
    np.testing.assert_array_equal(filled[valid], pixels[valid])
    np.testing.assert_allclose(
        filled[~valid], np.broadcast_to(pixels[valid].mean(axis=0), filled[~valid].shape), rtol=1e-5
    )


def test_an_empty_cell_takes_its_neighbours_colour_and_no_farther():
    pixels = np.full((4 * CELL, 4 * CELL, 3), np.nan, "float32")
    pixels[:5, :5] = 200
    valid = np.isfinite(pixels).all(axis=-1)
    filled = fill_nodata(pixels, valid)
    assert np.isfinite(filled).all()
    assert (filled[: 2 * CELL, : 2 * CELL] == 200).all()
    far = filled[2 * CELL :, :]
    assert (far == far[0, 0]).all()
    assert (far != 200).all()


def test_whatever_stands_at_invalid_pixels_does_not_matter(rng):
    pixels = rng.uniform(0, 255, (100, 90, 3)).astype("float32")
    valid = rng.random((100, 90)) < 0.5
    valid[40:, :60] = False
    with_nan, with_huge = pixels.copy(), pixels.copy()
    with_nan[~valid], with_huge[~valid] = np.nan, 1e30
    np.testing.assert_array_equal(fill_nodata(with_nan, valid), fill_nodata(with_huge, valid))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    row=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_a_block_on_the_cell_grid_is_filled_as_the_whole_is(height, width, row, seed):
    """All but the outermost cell, whose neighbours the block does not have."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 255, (height, width, 3)).astype("float32")
    valid = rng.random((height, width)) < rng.choice([0.001, 0.1, 0.9])
    start = row * CELL
    if start >= height:
        return
    whole = fill_nodata(pixels, valid)
    part = fill_nodata(pixels[start:], valid[start:])
    known = CELL if row else 0
    np.testing.assert_allclose(part[known:], whole[start + known :], rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 65), (33, 1)])
def test_no_valid_pixel_at_all_still_gives_finite_values(shape):
    pixels = np.full((*shape, 3), np.nan, "float32")
    filled = fill_nodata(pixels, np.zeros(shape, bool))
    assert filled.shape == (*shape, 3)
    assert np.isfinite(filled).all()
    assert filled.dtype == np.float32
