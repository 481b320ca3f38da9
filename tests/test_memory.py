"""A large scene needs no more memory than its chunks, whatever its size."""

import os
import subprocess
import sys

import pytest
import rasterio

from cloudmask import write_sample


@pytest.mark.slow
@pytest.mark.parametrize("striped", [False, True], ids=["tiled", "striped"])
def test_a_large_scene_takes_less_than_3_gb(tmp_path, striped):
    scene, mask = tmp_path / "scene.tif", tmp_path / "mask.tif"
    write_sample(scene, size=(12_000, 12_000), striped=striped)
    command = [sys.executable, "-m", "cloudmask", "segment", scene, mask]
    process = subprocess.Popen([*command, "--resize-factor", "6", "--quiet"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_maxrss * 1024 < 3e9
    with rasterio.open(scene) as a, rasterio.open(mask) as b:
        assert (a.shape, a.transform, a.crs) == (b.shape, b.transform, b.crs)
