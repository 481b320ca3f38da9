from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudmask import chunks

strides = st.sampled_from([1, 8, 32, 128])


@given(size=st.integers(1, 10_000), multiple=st.integers(1, 500))
def test_round_up_is_the_smallest_multiple_not_below(size, multiple):
    result = chunks.round_up(size, multiple)
    assert result % multiple == 0
    assert result - multiple < size <= result


@given(
    size=st.integers(1, 5000),
    chunk=st.integers(1, 2500),
    stride=strides,
    halo=st.integers(0, 6),
)
def test_layout_covers_the_axis_on_the_stride_and_leaves_room_for_the_halo(
    size, chunk, stride, halo
):
    overlap = halo * stride
    lengths = chunks.layout(size, chunk, stride=stride, overlap=overlap)
    assert sum(lengths) == size
    starts = [0, *accumulate(lengths)][:-1]
    assert all(start % stride == 0 for start in starts)
    if len(lengths) > 1:
        assert min(lengths) >= overlap, "a halo is taken from one neighbour only"
        assert len(set(lengths[:-1])) == 1
    assert chunks.is_layout(lengths, stride=stride, overlap=overlap)


@given(size=st.integers(1, 5000), chunk=st.integers(1, 2500), stride=strides)
def test_layout_stays_at_or_below_the_chunk_asked_for(size, chunk, stride):
    longest = max(chunks.layout(size, chunk, stride=stride))
    assert longest <= chunks.round_up(chunk, stride)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, (1,)), (1024, (1024,)), (1025, (544, 481)), (2048, (1024, 1024)), (1100, (576, 524))],
)
def test_layout_balances_chunks(size, expected):
    """A sliver at the end would pay the whole halo for a few pixels."""
    assert chunks.layout(size, 1024, stride=32, overlap=128) == expected


@pytest.mark.parametrize(
    "lengths",
    [
        (512, 512, 76),  # the last is shorter than the halo
        (512, 460, 128),  # what dask made of it: uneven, off the stride
        (100, 100, 100),  # off the stride
        (96, 96, 200),  # shorter than the halo
        (1, 1, 1),
    ],
)
def test_awkward_chunks_are_no_layout(lengths):
    assert not chunks.is_layout(lengths, stride=32, overlap=128)


def test_a_single_chunk_may_be_shorter_than_the_halo():
    assert chunks.is_layout((5,), stride=32, overlap=128)


def test_mirror_pad_repeats_the_edge_pixel_and_works_from_one_pixel():
    block = np.arange(6.0).reshape(2, 3, 1)
    padded = chunks.mirror_pad(block, (1, 3), (0, 4))[..., 0]
    np.testing.assert_array_equal(padded[:, 0], [0, 0, 3, 3, 0, 0])
    np.testing.assert_array_equal(padded[1], [0, 1, 2, 2, 1, 0, 0])
    assert (chunks.mirror_pad(np.full((1, 1, 3), 7.0), (32, 63), (32, 63)) == 7).all()
