"""What tells GeoZarr readers where the arrays of a store lie, https://github.com/zarr-conventions."""

from itertools import pairwise
from typing import Any

import rasterio

from cloudmask.grid import Grid

_SPATIAL = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial:",
    "description": "Spatial coordinate information",
}
_PROJ = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "description": "Coordinate reference system information for geospatial data",
}
_MULTISCALES = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}


def place_attributes(grid: Grid) -> dict[str, Any]:
    """Attributes by which readers place the arrays of a group: ``proj:`` and ``spatial:``."""
    bounds = rasterio.transform.array_bounds(grid.height, grid.width, grid.transform)
    (west, east), (south, north) = sorted(bounds[::2]), sorted(bounds[1::2])
    attributes: dict[str, Any] = {
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [grid.height, grid.width],
        "spatial:transform": list(grid.transform)[:6],
        "spatial:bbox": [west, south, east, north],
        "spatial:registration": "pixel",
        "zarr_conventions": [_SPATIAL],
    }
    if grid.crs is not None:
        attributes["zarr_conventions"].append(_PROJ)
        code = grid.crs.to_authority()
        attributes |= {"proj:code": ":".join(code)} if code else {"proj:wkt2": grid.crs.to_wkt()}
    return attributes


def multiscales(name: str, levels: list[str]) -> dict[str, Any]:
    """Attributes by which readers find overviews, the groups of `levels`: ``multiscales``."""
    assets = [name, *(f"{level}/{name}" for level in levels)]
    layout: list[dict[str, Any]] = [{"asset": name}]
    for finer, asset in pairwise(assets):
        transform = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
        layout.append({"asset": asset, "derived_from": finer, "transform": transform})
    method = "mode" if name == "mask" else "average"
    return {
        "multiscales": {"layout": layout, "resampling_method": method},
        "zarr_conventions": [_MULTISCALES],
    }
