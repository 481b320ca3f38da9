"""Scheduler, workers, client and web server as hosts of their own, with nothing but a network."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cloudmask.sample import write_sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.name != "posix" or os.geteuid() != 0 or not shutil.which("ip"),
        reason="network namespaces need root and iproute2",
    ),
]

HOSTS = ("scheduler", "first", "second", "client", "web")
MODULE = [sys.executable, "-m"]


def address(host):
    return f"10.77.0.{HOSTS.index(host) + 1}"


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode and "Operation not permitted" in done.stderr:
        pytest.skip("this machine allows no network namespaces")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def network():
    """Namespaces on one bridge; gone after the test."""
    with ExitStack() as after:
        ip("netns", "add", "cm-hub")
        after.callback(ip, "netns", "del", "cm-hub")
        ip("-n", "cm-hub", "link", "add", "bridge", "type", "bridge")
        ip("-n", "cm-hub", "link", "set", "bridge", "up")
        for host in HOSTS:
            name = f"cm-{host}"
            ip("netns", "add", name)
            after.callback(ip, "netns", "del", name)
            peer = ["type", "veth", "peer", "name", host, "netns", "cm-hub"]
            ip("link", "add", "eth", "netns", name, *peer)
            ip("-n", "cm-hub", "link", "set", host, "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"{address(host)}/24", "dev", "eth")
            ip("-n", name, "link", "set", "eth", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield


def on(host, folder, *command):
    """A command on a host, that sees a `folder` of its own where the others have theirs."""
    script = 'mkdir -p "$0" && mount -t tmpfs none "$0" && cd "$0" && exec "$@"'
    own = [] if host in ("client", "web") else ["unshare", "-m", "sh", "-c", script, str(folder)]
    return ["ip", "netns", "exec", f"cm-{host}", *own, *map(str, command)]


@pytest.mark.usefixtures("network")
def test_hosts_that_share_no_folder_segment_a_scene_from_the_web(tmp_path, own_weights):
    (tmp_path / "www").mkdir()
    write_sample(tmp_path / "www/scene.tif", size=(500, 700))
    shutil.copy(own_weights, tmp_path)  # which no worker sees
    options = ["--model", own_weights.name, "--chunk", "256", "--precision", "float32"]
    environment = os.environ | {"NO_PROXY": "*", "no_proxy": "*"}
    scheduler = f"tcp://{address('scheduler')}:8786"
    with ExitStack() as after:

        def start(host, *command, **options):
            process = subprocess.Popen(
                on(host, tmp_path, *command), env=environment, stderr=subprocess.DEVNULL, **options
            )
            after.callback(process.wait)
            after.callback(process.terminate)
            return process

        start("scheduler", *MODULE, "distributed.cli.dask_scheduler", "--host", scheduler)
        for host in ("first", "second"):
            start(host, *MODULE, "distributed.cli.dask_worker", scheduler, "--nthreads", "1")
        server = Path(__file__).with_name("range_server.py")
        web = start("web", sys.executable, server, tmp_path / "www", address("web"),
                    stdout=subprocess.PIPE, text=True)  # fmt: skip
        after.callback(web.stdout.close)
        scene = f"http://{address('web')}:{int(web.stdout.readline())}/scene.tif"
        command = [*MODULE, "cloudmask", "segment", scene, "mask.tif", *options]
        done = subprocess.run(
            on("client", tmp_path, *command, "--scheduler", scheduler),
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        command[command.index("mask.tif")] = "mask.zarr"
        done = subprocess.run(
            on("client", tmp_path, *command, "--scheduler", scheduler),
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 2
        assert "does not see" in done.stderr.splitlines()[-1]
        assert not list(tmp_path.glob("*mask.zarr*"))
    local = [*MODULE, "cloudmask", "segment", "www/scene.tif", "local.tif", *options]
    subprocess.run(local, cwd=tmp_path, check=True, timeout=300)
    with rasterio.open(tmp_path / "mask.tif") as mask, rasterio.open(tmp_path / "local.tif") as own:
        np.testing.assert_array_equal(mask.read(1), own.read(1))
