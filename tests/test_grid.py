import math

import numpy as np
import pytest
import rasterio.transform
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from cloudmask.grid import Grid, grid_of

UTM = CRS.from_epsg(32633)
WGS84 = CRS.from_epsg(4326)


def bounds(grid):
    return rasterio.transform.array_bounds(grid.height, grid.width, grid.transform)


def test_gsd_of_a_projected_scene_is_its_pixel():
    grid = Grid(10, 20, Affine(10, 0, 500_000, 0, -20, 5_000_000), UTM)
    assert grid.gsd == (20, 10)


def test_gsd_in_feet_is_told_in_metres():
    grid = Grid(10, 20, Affine(3, 0, 0, 0, -3, 0), CRS.from_epsg(2263))  # US survey feet
    assert grid.gsd == pytest.approx((3 * 1200 / 3937,) * 2)


def test_gsd_of_a_rotated_scene_is_the_length_of_its_pixels():
    turned = Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(4, -7)
    assert Grid(10, 20, turned, UTM).gsd == pytest.approx((7, 4))


@pytest.mark.parametrize(
    ("latitude", "metres"),
    # Length of a degree of latitude and of longitude on WGS 84 (published tables).
    [(0, (110_574, 111_320)), (45, (111_132, 78_847)), (60, (111_412, 55_800))],
)
def test_gsd_of_a_geographic_scene_is_reckoned_at_its_centre_each_axis_by_itself(latitude, metres):
    step = 1e-3
    centred = Affine(step, 0, 10, 0, -step, latitude + 50 * step)
    gsd = Grid(100, 40, centred, WGS84).gsd
    assert gsd == pytest.approx([m * step for m in metres], rel=1e-4)


def test_gsd_of_a_geographic_scene_turned_by_a_right_angle():
    """Columns that run north are as long as degrees of latitude are."""
    north_up = Grid(100, 100, Affine(1e-3, 0, 10, 0, -1e-3, 60.05), WGS84)
    turned = Grid(100, 100, Affine(0, 1e-3, 10, 1e-3, 0, 59.95), WGS84)
    assert turned.gsd == pytest.approx(north_up.gsd[::-1], rel=1e-4)


def test_gsd_of_a_crs_in_grads():
    grads = CRS.from_epsg(4807)  # 45° N are 50 grads
    in_degrees = Grid(100, 100, Affine(9e-5, 0, 2, 0, -9e-5, 45), CRS.from_epsg(4326))
    in_grads = Grid(100, 100, Affine(1e-4, 0, 2, 0, -1e-4, 50), grads)
    assert in_grads.gsd == pytest.approx(in_degrees.gsd, rel=1e-6)


def test_gsd_in_web_mercator_is_that_of_the_ground():
    northing = 8_399_737.889818  # 60 degrees: there the map is twice as large
    grid = Grid(2, 2, Affine(10, 0, 0, 0, -10, northing + 10), CRS.from_epsg(3857))
    assert grid.gsd == pytest.approx((5.0, 5.0), rel=1e-6)


def test_without_a_crs_pixels_are_the_unit():
    assert Grid(10, 20, Affine.scale(30), None).gsd == (1, 1)


@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    factor=st.floats(1, 900),
    angle=st.sampled_from([0, 30]),
)
def test_a_coarser_grid_spans_the_same_corners(height, width, factor, angle):
    transform = Affine.translation(5e5, 5e6) @ Affine.rotation(angle) @ Affine.scale(10, -10)
    grid = Grid(height, width, transform, UTM)
    coarse = grid.coarser(factor, factor)
    assert coarse.height == math.ceil(height / factor - 1e-9)
    assert coarse.width == math.ceil(width / factor - 1e-9)
    for corner_y, corner_x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        ours = coarse.transform @ (corner_x * coarse.width, corner_y * coarse.height)
        theirs = transform @ (corner_x * width, corner_y * height)
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert coarse.same_bounds(grid)
    assert grid.same_bounds(coarse)


def test_a_factor_that_divides_but_for_rounding_adds_no_pixel():
    grid = Grid(300, 300, Affine.identity(), None)
    assert grid.coarser(0.3 / 0.003, 0.1 / 0.001).height == 3


@pytest.mark.parametrize(
    "other",
    [
        Grid(100, 100, Affine(10, 0, 500_010, 0, -10, 5_000_000), UTM),  # one pixel east
        Grid(100, 99, Affine(10, 0, 500_000, 0, -10, 5_000_000), UTM),
        Grid(100, 100, Affine(10, 0, 500_000, 0, -10, 5_000_000), CRS.from_epsg(32634)),
        Grid(100, 100, Affine(10, 0, 500_000, 0, -10, 5_000_000), None),
    ],
)
def test_other_ground_is_told_apart(other):
    grid = Grid(100, 100, Affine(10, 0, 500_000, 0, -10, 5_000_000), UTM)
    assert not grid.same_bounds(other)
    assert not other.same_bounds(grid)


def test_attached_coordinates_are_pixel_centres_and_the_grid_comes_back():
    grid = Grid(2, 3, Affine(10, 0, 500_000, 0, -20, 5_000_000), UTM)
    array = grid.attach(xr.DataArray(np.zeros((2, 3)), dims=("y", "x")))
    np.testing.assert_array_equal(array.x, [500_005, 500_015, 500_025])
    np.testing.assert_array_equal(array.y, [4_999_990, 4_999_970])
    assert array.rio.crs == UTM
    assert array.rio.bounds() == bounds(grid)
    assert grid_of(array) == grid


def test_coordinates_that_are_rounded_move_no_pixel():
    transform = Affine(9e-5, 0, 120, 0, -9e-5, 30)
    exact = Grid(1000, 1000, transform, WGS84).attach(
        xr.DataArray(np.zeros((1000, 1000), "uint8"), dims=("y", "x"))
    )
    rounded = exact.assign_coords(y=exact.y.astype("float32"), x=exact.x.astype("float32"))
    assert grid_of(rounded).transform.almost_equals(transform, precision=1e-5)
    assert grid_of(rounded).transform.a == 9e-5
    bare = rounded.drop_vars("spatial_ref").rio.write_crs(WGS84)
    assert grid_of(bare).transform.a == pytest.approx(9e-5, rel=1e-3)
    assert grid_of(bare).transform @ (1000, 1000) == pytest.approx((120.09, 29.91), abs=1e-5)


@pytest.mark.parametrize("step", [slice(None, None, 2), slice(None, None, -1)])
def test_rows_that_were_thinned_out_or_turned_lie_where_they_did(step):
    grid = Grid(8, 6, Affine(10, 0, 500_000, 0, -10, 4_000_000), CRS.from_epsg(32633))
    array = grid.attach(xr.DataArray(np.zeros((8, 6)), dims=("y", "x"))).isel(y=step)
    found = grid_of(array)
    centres = [(found.transform @ (0, row + 0.5))[1] for row in range(found.height)]
    np.testing.assert_allclose(centres, array["y"])


def test_a_rotated_grid_comes_back_without_coordinates_per_axis():
    grid = Grid(4, 5, Affine.rotation(20) @ Affine.scale(3, -3), UTM)
    array = grid.attach(xr.DataArray(np.zeros((4, 5)), dims=("y", "x")))
    assert grid_of(array).transform.almost_equals(grid.transform)
    assert not {"x", "y"} & set(array.coords)


@pytest.mark.parametrize(
    "turned",
    [
        Affine(0, -10, 4e5, -15, 0, 1.3e6),
        Affine(0, 10, 4e5, -10, 0, 1.3e6),
        Affine(0, -10, 4e5, -10, 0, 1.3e6),
        Affine(0, 12, 4e5, 10, 0, 1.3e6),
    ],
)
def test_a_quarter_turn_comes_back_and_is_compared(turned):
    grid = Grid(20, 30, turned, UTM)
    array = grid.attach(xr.DataArray(np.zeros((20, 30)), dims=("y", "x")))
    assert grid_of(array) == grid
    assert not grid.lies_elsewhere(grid)
    assert grid.lies_elsewhere(Grid(20, 30, turned @ Affine.translation(1, 0), UTM))


def test_pixels_of_another_length_end_elsewhere():
    ours, theirs = (
        Grid(300, 400, Affine(size, 0, 4e5, 0, -size, 1.3e6), UTM) for size in (10, 9.92)
    )
    assert ours.lies_elsewhere(theirs)


@pytest.mark.parametrize("crs", ['LOCAL_CS["unnamed",UNIT["metre",1]]', "EPSG:4978"])
def test_of_a_crs_without_a_known_unit_metres_are_taken(crs):
    grid = Grid(10, 10, Affine(7, 0, 0, 0, -5, 0), CRS.from_user_input(crs))
    assert grid.gsd == (5, 7)


@pytest.mark.parametrize("code", ["ESRI:102100", "EPSG:3785", "EPSG:3395", "EPSG:3857+5773"])
def test_mercator_by_another_code_is_mercator(code):
    northing = 8_399_738  # of 60° N on the sphere, where a metre of the map is half of one
    grid = Grid(2, 2, Affine(10, 0, 0, 0, -10, northing + 10), CRS.from_user_input(code))
    assert grid.gsd == pytest.approx((5, 5), rel=0.01)


@pytest.mark.parametrize(
    "code",
    ["EPSG:5641", "EPSG:3994", "+proj=merc +lat_ts=60 +ellps=WGS84", "+proj=merc +units=us-ft"],
)
def test_mercator_that_begins_elsewhere_is_as_long_as_its_pixels(code):
    crs = CRS.from_user_input(code)
    grid = Grid(2, 2, Affine(10, 0, 0, 0, -10, 8_399_748), crs)
    assert grid.gsd == pytest.approx((10 * crs.linear_units_factor[1],) * 2)
