"""The geobox of a scene: size, transform and CRS, and how long its pixels are on the ground."""

import math
from dataclasses import dataclass, replace

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

# WGS 84 (NIMA TR8350.2): semi-major axis in metres, first eccentricity squared.
_SEMI_MAJOR, _ECCENTRICITY2 = 6378137.0, 0.00669437999014
_ROUNDED = 0.1
"""Pixels by which coordinates may be off: they are rounded, in float32 or as text."""
_PLACES = {"y": "scene_row", "x": "scene_column"}
"""Coordinates that tell what part of a rotated scene a slice is: of the scene that had the
GeoTransform among their attributes."""
_MERCATORS = ("Popular Visualisation Pseudo Mercator", "Mercator (variant A)")


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a scene lie."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    transform: Affine
    """Pixel corner (column, row) to CRS coordinates."""
    crs: CRS | None
    """None: pixels are the unit."""

    @property
    def gsd(self) -> tuple[float, float]:
        """Ground sample distance (y, x): metres at the scene's centre, pixels if not placed."""
        if self.crs is None or not self.is_placed:
            return 1.0, 1.0
        t = self.transform
        if self.crs.is_geographic:
            _, latitude = t @ (self.width / 2, self.height / 2)
            unit = self.crs.units_factor[1]  # radians: of degrees, or of grads
            metres_y, metres_x = (
                metres * math.degrees(unit)
                for metres in _metres_per_degree(latitude * math.degrees(unit))
            )
        else:
            metres_y = _metres_per_unit(self.crs)
            if _is_mercator(self.crs):  # Snyder 1987, eq. 7-2: metres at the equator
                _, northing = t @ (self.width / 2, self.height / 2)
                metres_y /= math.cosh(northing / _SEMI_MAJOR)
            metres_x = metres_y
        return (
            math.hypot(t.b * metres_x, t.e * metres_y),
            math.hypot(t.a * metres_x, t.d * metres_y),
        )

    def resized(self, height: int, width: int) -> "Grid":
        """A grid of other pixels that spans exactly the same bounds."""
        scale = Affine.scale(self.width / width, self.height / height)
        return replace(self, height=height, width=width, transform=self.transform @ scale)

    def coarser(self, factor_y: float, factor_x: float) -> "Grid":
        """The grid whose pixels are at most `factor` times as long; the same bounds."""
        # 1e-9: 300 px at a factor of 0.1 / 0.001 are 3 px, not 4.
        return self.resized(
            max(1, math.ceil(self.height / factor_y - 1e-9)),
            max(1, math.ceil(self.width / factor_x - 1e-9)),
        )

    @property
    def flipped(self) -> "Grid":
        """The grid of the same pixels, the last row first."""
        upside_down = Affine.translation(0, self.height) @ Affine.scale(1, -1)
        return replace(self, transform=self.transform @ upside_down)

    @property
    def is_placed(self) -> bool:
        """Whether its pixels lie somewhere on the ground: files may have a CRS and no transform."""
        t = self.transform
        counts_pixels = (t.b, t.c, t.d, t.f) == (0, 0, 0, 0) and t.a > 0 and t.e > 0
        return self.crs is not None and not counts_pixels

    def same_bounds(self, other: "Grid", *, within: float = 0.01) -> bool:
        """Whether both grids span the same ground, to such a part of the finer pixel."""
        if self.crs != other.crs:
            return False
        fine, coarse = sorted((self, other), key=lambda grid: -grid.height * grid.width)
        to_fine = ~fine.transform @ coarse.transform
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            x, y = to_fine @ (column * coarse.width, row * coarse.height)
            if math.hypot(x - column * fine.width, y - row * fine.height) > within:
                return False
        return True

    def is_finer(self, other: "Grid") -> bool:
        """Whether a grid of the same bounds has more pixels than another, on either axis."""
        return self.height > other.height or self.width > other.width

    def lies_elsewhere(self, other: "Grid") -> bool:
        """Whether a grid of as many pixels is another one; not told where one counts its pixels.

        Where one has no CRS, its place may be that of corners or be rounded, as in world files.
        """
        if self.crs is not None and other.crs is not None:
            return not self.same_bounds(other)
        if self._counts_pixels or other._counts_pixels:
            return False
        return not replace(self, crs=None).same_bounds(replace(other, crs=None), within=0.9)

    @property
    def _counts_pixels(self) -> bool:
        t = self.transform
        return self.crs is None and (abs(t.a), t.b, t.d, abs(t.e)) == (1, 0, 0, 1)

    def attach(self, array: xr.DataArray) -> xr.DataArray:
        """Give `array`, whose last dimensions are y and x, this grid's coordinates and CRS."""
        t = self.transform
        rows, columns = np.arange(self.height) + 0.5, np.arange(self.width) + 0.5
        is_rotated = bool(t.b or t.d)
        if not is_rotated:  # coordinates of pixel centres; a rotated grid has none per axis
            array = array.assign_coords(y=t.f + t.e * rows, x=t.c + t.a * columns)
        if self.crs is not None:
            array = array.rio.write_crs(self.crs)
        array = array.rio.write_transform(t)
        if is_rotated:
            place = {"units": "pixel", "GeoTransform": _geo_transform(array)}
            array = array.assign_coords(
                {_PLACES["y"]: ("y", rows, place), _PLACES["x"]: ("x", columns, place)}
            )
        return array


def grid_of(array: xr.DataArray) -> Grid:
    """The grid of a DataArray with dims y and x, as rioxarray reads it."""
    transform = array.rio.transform()
    if text := _geo_transform(array):
        stored = Affine.from_gdal(*map(float, text.split()))
        if stored.b or stored.d:  # rioxarray gives back most rotations, but not a quarter turn
            transform = stored @ _within(array)
            return Grid(array.sizes["y"], array.sizes["x"], transform, array.rio.crs)
    steps = {
        dim: _step(array, dim) for dim in ("y", "x") if dim in array.coords and array.sizes[dim] > 1
    }
    if array.sizes["y"] == array.sizes["x"] == 1 and {"y", "x"} <= array.coords.keys():
        stored = Affine.from_gdal(*map(float, text.split())) if text else transform
        if transform @ (0.5, 0.5) != (float(array["x"][0]), float(array["y"][0])):
            transform = _by_coordinates(array, stored, {})
    known = {"y": transform.e, "x": transform.a}
    if any(
        abs(step - known[dim]) * (array.sizes[dim] - 1) > abs(known[dim]) * _ROUNDED
        for dim, step in steps.items()
    ):
        # Every second pixel, say: the coordinates know, the stored transform does not.
        transform = _by_coordinates(array, transform, steps)
    elif not text and len(steps) == 2 and _counts_corners(array):
        transform = transform @ Affine.translation(0.5, 0.5)
    return Grid(array.sizes["y"], array.sizes["x"], transform, array.rio.crs)


def _counts_corners(array: xr.DataArray) -> bool:
    """Whether coordinates are those of corners by a transform in the attributes: stackstac's are.

    They lie whole pixels of that transform from its origin, those of centres by half a pixel more.
    """
    try:
        told = Affine(*array.attrs["transform"][:6])
    except (KeyError, TypeError, ValueError):
        return False
    if told.b or told.d or told.is_degenerate:
        return False
    for dim, origin, length in (("y", told.f, told.e), ("x", told.c, told.a)):
        off = (float(array[dim][0]) - origin) / length
        if abs(_step(array, dim) / length - 1) > 1e-6 or abs(off - round(off)) > _ROUNDED:
            return False
    return True


def _geo_transform(array: xr.DataArray) -> str | None:
    mapping = array.coords.get(array.rio.grid_mapping)
    return None if mapping is None else mapping.attrs.get("GeoTransform")


def _within(array: xr.DataArray) -> Affine:
    """From pixels of a slice of a rotated scene to pixels of the scene."""
    steps, starts = [], []
    for dim in ("x", "y"):
        place = array.coords.get(_PLACES[dim])
        is_told = place is not None and place.attrs.get("GeoTransform") == _geo_transform(array)
        if place is None or not is_told or place.dims != (dim,):
            place = xr.DataArray([0.5], dims=dim)
        steps.append(_step(array, _PLACES[dim]) if place.size > 1 else 1.0)
        starts.append(float(place[0]) - steps[-1] / 2)
    return Affine.translation(*starts) @ Affine.scale(*steps)


def _by_coordinates(array: xr.DataArray, stored: Affine, steps: dict[str, float]) -> Affine:
    """Where coordinates of pixel centres put an array.

    A single row or column has no step of its own: it has the stored one, or is square.
    """
    if not stored.is_identity:
        steps = {"y": stored.e, "x": stored.a, **steps}
    y, x = steps.get("y", -abs(steps.get("x", 1))), steps.get("x", abs(steps.get("y", 1)))
    top, left = (
        float(array[dim][0]) - step / 2 if dim in array.coords else corner
        for dim, step, corner in (("y", y, stored.f), ("x", x, stored.c))
    )
    return Affine(x, 0, left, 0, y, top)


def without_places(array: xr.DataArray) -> xr.DataArray:
    """The array without what tells a slice of a rotated scene, for a file that tells its grid."""
    return array.drop_vars(_PLACES.values(), errors="ignore")


def check_array(array: object) -> None:
    """Refuse what is no DataArray with a ValueError."""
    if isinstance(array, xr.Dataset):
        raise ValueError(
            f"this is a Dataset of {', '.join(map(str, array.data_vars)) or 'nothing'}: give one "
            "of its arrays"
        )
    if not isinstance(array, xr.DataArray):
        raise ValueError(f"{type(array).__name__} has no dimensions by name: give a DataArray")
    if any(map(math.isnan, array.shape)):
        raise ValueError(
            "dask does not know the array's size: let it find out (array.data.compute_chunk_sizes)"
        )


def in_order(array: xr.DataArray, *dims: str) -> xr.DataArray:
    """The array with its dimensions in this order; a ValueError if it has others."""
    check_array(array)
    if set(array.dims) != set(dims):
        raise ValueError(
            f"the array has dimensions {', '.join(map(str, array.dims))}: give one of "
            f"({', '.join(dims)}), select or rename first"
        )
    return array.transpose(*dims)


def _step(array: xr.DataArray, dim: str) -> float:
    """How far neighbours lie apart; a ValueError where some lie further."""
    values = array[dim].to_numpy()
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{dim} is {values.dtype}: give coordinates in units of the CRS")
    # By both ends: float32 rounds a degree of longitude to a tenth of a pixel of 10 m.
    values = values.astype("float64")
    step = float(values[-1] - values[0]) / (len(values) - 1)
    off = np.abs(values - np.linspace(values[0], values[-1], len(values))).max()
    if not (step and off <= abs(step) / 4):
        steps = np.diff(values)
        other = steps[np.abs(steps - steps[0]).argmax()]
        raise ValueError(
            f"{dim} is not evenly spaced, steps are {steps[0]:g} and {other:g}: write the "
            "parts one by one, or bring them to one grid (rio.reproject_match)"
        )
    return step


def _metres_per_unit(crs: CRS) -> float:
    """Of what is neither projected nor geographic, such as a local grid, metres are taken."""
    try:
        return float(crs.linear_units_factor[1])
    except CRSError:
        return 1.0


def _is_mercator(crs: CRS) -> bool:
    """Whether it is Mercator's projection of scale 1 at the equator, where northings begin.

    That of the web has many codes, or none.
    """
    known = crs.to_dict(projjson=True)
    while inner := known.get("source_crs") or next(iter(known.get("components", ())), None):
        known = inner  # of one bound to a datum, or with heights of a system of their own
    conversion = known.get("conversion", {})
    if conversion.get("method", {}).get("name") not in _MERCATORS or _metres_per_unit(crs) != 1:
        return False
    values = {one["name"]: one["value"] for one in conversion.get("parameters", ())}
    is_shifted = values.get("False northing", 0) or values.get("Latitude of natural origin", 0)
    return not is_shifted and values.get("Scale factor at natural origin", 1) == 1


def _metres_per_degree(latitude: float) -> tuple[float, float]:
    """Length of a degree of latitude and of longitude (Snyder 1987, eq. 4-18, 4-19)."""
    sine = math.sin(math.radians(latitude))
    root = math.sqrt(1 - _ECCENTRICITY2 * sine**2)
    along = _SEMI_MAJOR * (1 - _ECCENTRICITY2) / root**3
    across = _SEMI_MAJOR * math.cos(math.radians(latitude)) / root
    return math.radians(along), math.radians(across)
