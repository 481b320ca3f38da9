"""What is said of a long run, on stderr."""

import errno
import io
import os
import pty
import subprocess
import sys

import dask.array as da
import pytest
import xarray as xr
from distributed import Client, LocalCluster

from cloudmask import progress, write_cog, write_zarr
from cloudmask.progress import Bars


@pytest.fixture(params=["threads", "cluster"])
def scheduler(request):
    if request.param == "threads":
        yield
        return
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        yield


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize(("write", "name"), [(write_cog, "m.tif"), (write_zarr, "m.zarr")])
def test_each_chunk_that_is_written_counts(tmp_path, capsys, monkeypatch, write, name):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1)
    mask = xr.DataArray(da.zeros((200, 300), dtype="uint8", chunks=100), dims=("y", "x"))
    with Bars() as bars, bars.scene("a scene"):
        write(mask, tmp_path / name)
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if "chunks" in line] == [
        f"a scene: {done} of 6 chunks" for done in range(1, 7)
    ]
    assert not said.out


def test_a_bar_on_a_terminal_takes_nothing_of_what_goes_to_a_pipe():
    code = (
        "from cloudmask.progress import Bars\n"
        "with Bars() as bars, bars.bar('scenes', 2) as bar:\n"
        "    print('a' * 300); bar.step()"
    )
    ours, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, text=True, check=True
    )
    os.close(terminal)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.stdout == "a" * 300 + "\n"
    assert "scenes" in said
    assert "aaa" not in said


class _Full(io.StringIO):
    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_on_a_full_disk_ends_nothing(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1)
    monkeypatch.setattr(sys, "stderr", _Full())
    with Bars() as bars, bars.bar("images", 2) as bar:
        bar.step()
        bar.step()


def test_a_quiet_run_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1)
    with Bars(quiet=True) as bars, bars.bar("images", 2) as bar:
        bar.step()
        bar.step()
    said = capsys.readouterr()
    assert not said.out + said.err
