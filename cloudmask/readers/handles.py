"""GDAL's datasets that are kept open for windows to come."""

import threading
from collections import Counter, OrderedDict

import rasterio

from cloudmask.readers.files import is_served
from cloudmask.readers.protocol import HANDLES

_own = threading.local()
_held: Counter[str] = Counter()
"""How many handles of a URL are kept open, in all threads."""


def kept_open(
    path: str, name: str, version: str, overview: int | None = None
) -> rasterio.DatasetReader:
    """A dataset of this thread's own, since GDAL's handles are not to be shared.

    Parameters
    ----------
    path, name : str
        What the user named, and what GDAL opens for it.
    version : str
        Of another one another handle is opened.
    overview : int, optional
        Number of the overview that is opened for its own sake, from 0.
    """
    handles = _own.__dict__.setdefault("handles", OrderedDict())
    key = path, name, version, overview
    if key not in handles:
        while len(handles) >= HANDLES:
            (old, *_), handle = handles.popitem(last=False)
            handle.close()
            _held[old] -= is_served(old)
        forget(path)
        options = {} if overview is None else {"overview_level": overview}
        handles[key] = rasterio.open(name, **options)
        _held[path] += is_served(path)
    handles.move_to_end(key)
    return handles[key]


def forget(path: str) -> None:
    """Make GDAL look anew at what is behind a URL: it does when one of its handles is closed."""
    if _held[path] > 0:
        rasterio.open(path).close()
