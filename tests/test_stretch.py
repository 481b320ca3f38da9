import math

import numpy as np
import pytest

from cloudmask import stretch


def test_scale_maps_its_value_to_255_and_clips_both_ends():
    values = np.array([[[-50, 0, 5000, 10_000, 20_000]]] * 3, "int16")
    scaled = stretch.from_scale(10_000, 3)(values)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[1, 0], [0, 0, 127.5, 255, 255])


def test_nan_stays_nan():
    values = np.array([[[np.nan, 1]]], "float32")
    np.testing.assert_array_equal(stretch.from_scale(1, 1)(values), [[[np.nan, 255]]])


def test_the_callers_array_is_left_alone():
    values = np.array([[[1.0, 2.0]]], "float32")
    stretch.from_scale(4, 1)(values)
    np.testing.assert_array_equal(values, [[[1, 2]]])


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale is .*positive"):
        stretch.from_scale(scale, 3)


@pytest.mark.parametrize("percent", [-1, 49.5, 50, math.nan])
def test_a_percentile_outside_0_to_49_is_refused(percent):
    with pytest.raises(ValueError, match=r"stretch is .*0 to 49"):
        stretch.from_percentiles(np.ones((3, 2, 2), "float32"), percent)


def test_percentiles_clip_both_tails_of_each_band():
    ramp = np.arange(101, dtype="float32")
    sample = np.stack([ramp, 10 * ramp + 7])[:, None]
    limits = stretch.from_percentiles(sample, 10)
    assert limits.low == pytest.approx((10, 107))
    assert limits.high == pytest.approx((90, 907))
    out = limits(sample)
    for band in out:
        assert (band[0, :11] == 0).all()
        assert (band[0, 90:] == 255).all()
        assert 0 < band[0, 11] < band[0, 89] < 255


def test_zero_percent_spans_the_whole_range_and_nodata_does_not_count():
    sample = np.array([[[np.nan, 100, 200, np.inf]]], "float32")
    limits = stretch.from_percentiles(sample, 0)
    assert (limits.low, limits.high) == ((100,), (200,))


def test_a_constant_or_empty_band_becomes_0_without_a_warning():
    sample = np.stack([np.full((2, 2), 70_000.0), np.full((2, 2), np.nan), np.full((2, 2), 1e20)])
    sample = sample.astype("float32")
    out = stretch.from_percentiles(sample, 2)(sample)
    assert (out[[0, 2]] == 0).all()
    assert np.isnan(out[1]).all()


def test_ends_that_float32_does_not_tell_apart_are_one():
    values = np.full((1, 1, 100), 1e9, "float32")
    values[0, 0, :2] = np.nextafter(np.float32(1e9), np.float32(np.inf))
    out = stretch.from_percentiles(values, 2.0000000000000013)(values)
    assert np.isfinite(out).all()
