"""A day of an operator: a large scene with dying workers, a batch that is killed and resumed."""

import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import files_of

from cloudmask.sample import write_sample

pytestmark = pytest.mark.slow

SIDE = 30_000


def spawned_by(pid):
    """Process numbers of dask's workers below `pid`: its nannies start one each."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = [(int(p), int(parent), args) for p, parent, args in (r.split(None, 2) for r in listed)]
    return [p for p, parent, args in rows if parent == pid and "spawn_main" in args]


def test_a_30k_scene_survives_a_worker_killed_every_20_seconds(own_weights, tmp_path, start):
    write_sample(tmp_path / "scene.tif", size=(SIDE, SIDE))
    command = [
        sys.executable, "-m", "cloudmask", "segment", "scene.tif",
        "--model", str(own_weights), "--precision", "float32", "--resize-factor", "5",
        # A chunk has to be done before its worker is killed, of which dask allows it three times.
        "--chunk", "1024", "--quiet",
    ]  # fmt: skip
    begun = time.monotonic()
    run = start([*command, "killed.zarr", "--workers", "2"], cwd=tmp_path)
    done, killed = tmp_path / ".killed.zarr.partial/done", 0
    while run.poll() is None:
        time.sleep(20 if done.exists() else 0.5)
        found = spawned_by(run.pid) if done.exists() and run.poll() is None else []
        if found:
            os.kill(found[killed % len(found)], signal.SIGKILL)
            killed += 1
    assert run.returncode == 0
    assert killed >= 2
    logging.getLogger(__name__).info("%.0f s, %d killed", time.monotonic() - begun, killed)
    subprocess.run([*command, "whole.zarr"], cwd=tmp_path, check=True)
    assert files_of(tmp_path / "killed.zarr") == files_of(tmp_path / "whole.zarr")
    mask = xr.open_zarr(tmp_path / "whole.zarr", consolidated=False, mask_and_scale=False)["mask"]
    assert mask.shape == (SIDE, SIDE)


def test_50_scenes_of_which_3_are_broken_killed_and_resumed(own_weights, tmp_path, start):
    first = tmp_path / "scene00.tif"
    write_sample(first, size=(300, 400))
    for i in range(1, 50):
        shutil.copy(first, tmp_path / f"scene{i:02}.tif")
    for i in (7, 23, 41):
        (tmp_path / f"scene{i:02}.tif").write_bytes(first.read_bytes()[:5000])
    (tmp_path / "scene00_label.tif").unlink()
    command = [
        sys.executable, "-m", "cloudmask", "segment", "scene*.tif", "--out-dir", "out", "--resume",
        "--model", str(own_weights), "--workers", "2", "--quiet",
    ]  # fmt: skip
    run = start(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    run.until(lambda: len(list(Path(tmp_path, "out").glob("*.tif"))) >= 20)
    run.kill()
    run.wait()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.tif")}
    assert len(before) < 47
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "3 of 50 scenes failed" in again.stderr
    with (tmp_path / "out/summary.csv").open() as file:
        rows = {Path(row["scene"]).name: row for row in csv.DictReader(file)}
    assert sorted(rows) == [f"scene{i:02}.tif" for i in range(50)]
    failed = {name for name, row in rows.items() if row["status"] == "failed"}
    assert failed == {"scene07.tif", "scene23.tif", "scene41.tif"}
    assert all(rows[name]["error"] for name in failed)
    kept = [name for name, row in rows.items() if row["status"] == "kept"]
    # A scene may have been in place, and its note not yet.
    assert 20 - 4 <= len(kept) <= len(before)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.tif")}
    assert len(after) == 47
    assert all(after[name] == before[name] for name in kept)
    assert len({rows[name]["cloud_percent"] for name in rows if name not in failed}) == 1
    assert np.isfinite(float(rows["scene00.tif"]["cloud_percent"]))
