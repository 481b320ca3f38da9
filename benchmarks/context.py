"""What a figure needs beside it: the machine and the versions that it was measured with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("cloudmask", "dask", "numpy", "rasterio", "tensorflow", "xarray", "zarr")
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def context() -> dict[str, Any]:
    """Host, CPU and its features, threads, load, versions, and the chunks that are the default."""
    # Not above: what runs a peer, where there is no cloudmask, imports this module, too.
    from cloudmask.constants import CHUNK, FLOAT_CHUNK, LONGEST_CHUNK

    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    flags = set(text.split())
    return {
        "system": platform.platform(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "features": [feature for feature in _FEATURES if feature in flags],
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "chunk": {"uint8": [CHUNK, LONGEST_CHUNK], "float32": FLOAT_CHUNK},
        **{package: version(package) for package in _PACKAGES},
    }
