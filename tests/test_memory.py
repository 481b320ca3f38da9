"""A large scene needs no more memory than its chunks, whatever its size."""

import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from conftest import without_own_pool
from rasterio.windows import Window

from cloudmask import write_sample

# In between, since what a parent takes counts for its children until they are another program.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("striped", [False, True], ids=["tiled", "striped"])
def test_a_large_scene_takes_less_than_3_gb(tmp_path, striped):
    scene, mask = tmp_path / "scene.tif", tmp_path / "mask.tif"
    write_sample(scene, size=(12_000, 12_000), striped=striped)
    command = [sys.executable, "-m", "cloudmask", "segment", scene, mask, "--quiet"]
    command = [sys.executable, "-c", MEASURE, *command, "--resize-factor", "6"]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 3e9
    with rasterio.open(scene) as a, rasterio.open(mask) as b:
        assert (a.shape, a.transform, a.crs) == (b.shape, b.transform, b.crs)


COVER = """
import sys
import cloudmask
print(cloudmask.cloud_cover(cloudmask.open_label(sys.argv[1])).cloud_percent, file=sys.stderr)
"""


def test_blocks_of_a_large_mask_are_not_kept(tmp_path):
    """GDAL by itself keeps 5 % of the machine's memory of them: here those of half a gigabyte."""
    side, path = 24_000, tmp_path / "mask.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "width": side, "height": side}
    rows = np.zeros((1, 512, side), "uint8")
    with rasterio.open(path, "w", **profile, tiled=True, compress="deflate", zlevel=1) as dataset:
        for row in range(0, side, 512):
            window = Window(0, row, side, min(512, side - row))
            dataset.write(rows[:, : window.height], window=window)
    command = [sys.executable, "-c", MEASURE, sys.executable, "-c", COVER, path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "0.0"
    assert int(done.stdout) < 5e8


FAULTS = """
import resource
import numpy as np
from cloudmask import load_model

model, pixels = load_model("unet-slim", precision="float32"), np.zeros((1, 512, 512, 3), "uint8")
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model(pixels)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))  # the pool may still grow in some of them
"""


@without_own_pool
def test_layers_take_the_memory_that_others_freed():
    """Mapped anew for each layer, it would be faulted in: 2,000 pages and more."""
    command = [sys.executable, "-c", FAULTS]
    # Dask leaves malloc's settings for its workers in the process that starts them: the tests'.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    assert int(done.stdout) < 1000
