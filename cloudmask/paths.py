"""Paths and URLs, told apart, and what is read from small files."""

import json
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit


def is_zarr(path: str | Path) -> bool:
    """Whether a path or URL names a Zarr store: by its ending, in any case."""
    return str(path).rstrip("/").lower().endswith(".zarr")


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL, such as s3://bucket/mask.zarr."""
    return "://" in str(path)


def is_local(path: str | Path) -> bool:
    """Whether a path names what this machine's file system holds: no URL, no GDAL's /vsi… path."""
    return not is_remote(path) and not str(path).startswith("/vsi")


def without_scheme(path: str) -> str:
    """The path of a file:// URL; all else as it is."""
    return unquote(urlsplit(path).path) if path.lower().startswith("file://") else path


def locate(path: str | Path) -> Path:
    """A path, or for a URL what has the methods of one."""
    from upath import UPath  # takes a tenth of a second

    return cast("Path", UPath(path)) if is_remote(path) else Path(path)


def resolved(path: str) -> str:
    """The one name of what a local path names; a URL as it is."""
    return str(Path(path).resolve()) if is_local(path) else path


def destination(path: str | Path) -> Path:
    """What `locate` gives, but of a link what it stands for: that is replaced, not the link."""
    path = without_scheme(str(path))
    place = locate(path)
    return place.resolve() if not is_remote(path) and place.is_symlink() else place


def read_json(path: Path, *needed: str, cure: str) -> dict[str, Any]:
    """An object from a file of JSON; a ValueError with the cure if it lacks one of its keys."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(needed):
        raise ValueError(f"{path} is damaged: {cure}")
    return found
