"""A large scene needs no more memory than its chunks, whatever its size."""

import subprocess
import sys

import pytest
import rasterio

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
