"""Outputs and scenes in an object store: an S3 server on loopback, in a process of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext

import boto3
import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from botocore.exceptions import EndpointConnectionError

from cloudmask import connect, open_label, open_scene, write_cog, write_png, write_zarr
from cloudmask.paths import locate
from cloudmask.sample import write_sample

BUCKET = "masks"


@contextmanager
def served(**settings):
    """An S3 server with a bucket, and the environment that its user has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = f"127.0.0.1:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}",
        # The same for GDAL.
        "AWS_S3_ENDPOINT": host,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | settings
    )
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        client = boto3.client("s3")
        for _ in range(500):  # beside other tests it takes its time
            try:
                client.create_bucket(Bucket=BUCKET)
                break
            except EndpointConnectionError:
                time.sleep(0.2)
        else:
            pytest.fail("the server did not start")
        yield client
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def bucket():
    with served() as client:
        yield client


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "cloudmask", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, check=False, timeout=300, env=os.environ,
    )  # fmt: skip


def names(client):
    return {item["Key"] for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


@pytest.fixture
def mask(rng):
    pixels = (rng.random((300, 500)) > 0.5).astype("uint8")
    return xr.DataArray(da.from_array(pixels, chunks=128), dims=("y", "x"))


def test_from_scenes_in_a_bucket_to_masks_in_it(bucket, tmp_path):
    write_sample(tmp_path / "scene.tif", size=(256, 300))
    bucket.upload_file(str(tmp_path / "scene.tif"), BUCKET, "scene.tif")
    scene, out = f"s3://{BUCKET}/scene.tif", f"s3://{BUCKET}/many"
    for status in ("done", "kept"):
        done = run("segment", scene, "--out-dir", out, "--resume", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [row["status"] for row in json.loads(done.stdout)] == [status]
    assert {"many/scene.tif", "many/summary.csv"} <= names(bucket)
    done = run("segment", "scene.tif", "mask.tif", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bucket.download_file(BUCKET, "many/scene.tif", str(tmp_path / "fetched.tif"))
    with (
        rasterio.open(tmp_path / "fetched.tif") as fetched,
        rasterio.open(tmp_path / "mask.tif") as local,
    ):
        np.testing.assert_array_equal(fetched.read(1), local.read(1))
    done = run("segment", scene, "black.tif", "--nodata", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("write", [write_cog, write_png])
def test_a_file_appears_in_a_bucket_with_what_belongs_to_it(bucket, mask, write):
    suffix = ".png" if write is write_png else ".tif"
    out = f"s3://{BUCKET}/file{suffix}"
    write(mask, out)
    assert f"file{suffix}" in names(bucket)
    with rasterio.open(out) as dataset:
        np.testing.assert_array_equal(dataset.read(1), mask)
    with pytest.raises(FileExistsError, match=f"s3://{BUCKET}/file{suffix} exists"):
        write(mask, out)
    write(1 - mask, out, overwrite=True)
    assert not any("probe" in name for name in names(bucket))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_in_a_bucket(bucket, mask, workers):
    out = f"s3://{BUCKET}/{workers}.zarr"
    where = connect(workers=workers) if workers else nullcontext()
    with where:
        write_zarr(mask, out)
        before = names(bucket)
        with pytest.raises(FileExistsError, match="exists"):
            write_zarr(mask, out)
        write_zarr(1 - mask, out, overwrite=True)
    np.testing.assert_array_equal(
        xr.open_zarr(out, consolidated=False, mask_and_scale=False)["mask"], 1 - mask
    )
    assert names(bucket) == before
    assert not any("partial" in name or "probe" in name for name in before)


def test_a_store_in_a_bucket_is_resumed(bucket, mask):
    out, made = f"s3://{BUCKET}/resumed.zarr", []

    def once(block, block_info=None):
        made.append(tuple(block_info[0]["chunk-location"]))
        if len(made) == 5:
            raise OSError("the lights went out")
        return block

    flaky = mask.copy(data=mask.data.map_blocks(once, dtype="uint8", meta=np.empty((0, 0), "u1")))
    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="lights"):
            write_zarr(flaky, out, resume=True)
        assert "resumed.zarr/zarr.json" not in names(bucket)
        write_zarr(flaky, out, resume=True)
    assert sorted(made) == sorted([(i, j) for i in range(3) for j in range(4)] + [made[4]])
    np.testing.assert_array_equal(
        xr.open_zarr(out, consolidated=False, mask_and_scale=False)["mask"], mask
    )


def test_what_others_removed_from_an_unfinished_store_is_made_again(bucket, mask):
    out, made, most = f"s3://{BUCKET}/stale.zarr", [], [5]

    def flaky(block):
        made.append(1)
        if len(made) > most[0]:
            raise OSError("no more")
        return block

    broken = mask.copy(data=mask.data.map_blocks(flaky, dtype="uint8", meta=np.empty((0, 0), "u1")))
    with dask.config.set(scheduler="sync"):
        for _ in range(2):  # the second time this process lists what is done
            with pytest.raises(OSError, match="no more"):
                write_zarr(broken, out, resume=True)
        for name in names(bucket):
            if ".stale.zarr.partial" in name:
                bucket.delete_object(Bucket=BUCKET, Key=name)
        most[0] = 100
        write_zarr(broken, out, resume=True)
    np.testing.assert_array_equal(
        xr.open_zarr(out, consolidated=False, mask_and_scale=False)["mask"], mask
    )


def test_a_store_whose_publishing_was_interrupted_is_published_again(bucket, mask, monkeypatch):
    out = f"s3://{BUCKET}/published.zarr"
    files = locate(out).fs
    copy = files.copy

    def fail(source, target):
        copy(source[:3], target[:3])
        raise KeyboardInterrupt

    write_zarr(1 - mask, out)
    with monkeypatch.context() as patch:
        patch.setattr(files, "copy", fail)
        with pytest.raises(KeyboardInterrupt, match=r"is complete, .*--resume goes on"):
            write_zarr(mask, out, overwrite=True)
    assert "published.zarr/zarr.json" not in names(bucket)
    unlike = da.zeros(mask.shape, dtype="uint8", chunks=mask.data.chunks, name=mask.data.name)
    write_zarr(mask.copy(data=unlike), out, resume=True)  # which makes none of it
    np.testing.assert_array_equal(
        xr.open_zarr(out, consolidated=False, mask_and_scale=False)["mask"], mask
    )
    assert not any("partial" in name for name in names(bucket))


@pytest.mark.parametrize(("write", "name"), [(write_cog, "m.tif"), (write_zarr, "m.zarr")])
@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_refused_before_any_work(mask, write, name):
    with pytest.raises(OSError, match=f"s3://nowhere/{name} cannot be written to: .*check the bu"):
        write(mask, f"s3://nowhere/{name}")


def test_a_batch_makes_no_bucket(bucket, tmp_path):
    write_sample(tmp_path / "scene.tif", size=(64, 64))
    done = run("segment", "scene.tif", "--out-dir", "s3://nowhere/many", cwd=tmp_path)
    assert done.returncode == 2
    assert "s3://nowhere/many/summary.csv cannot be written to" in done.stderr.splitlines()[-1]
    assert [found["Name"] for found in bucket.list_buckets()["Buckets"]] == [BUCKET]


def test_a_bucket_without_the_right_to_write_is_refused(tmp_path):
    write_sample(tmp_path / "scene.tif", size=(64, 64))
    with served(INITIAL_NO_AUTH_ACTION_COUNT="1"):  # nothing is allowed once the bucket is there
        done = run("segment", "scene.tif", f"s3://{BUCKET}/m.zarr", cwd=tmp_path)
    assert done.returncode == 2
    assert f"s3://{BUCKET}/m.zarr cannot be written to: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_what_lies_beside_a_mask_in_a_bucket_stays(bucket, mask):
    precious = {"results.zarr/precious.tif", "results.tif/precious.tif"}
    for key in precious:
        bucket.put_object(Bucket=BUCKET, Key=key, Body=b"kept")
    with pytest.raises(FileExistsError, match=r"results\.zarr is a directory, but no Zarr store"):
        write_zarr(mask, f"s3://{BUCKET}/results.zarr", overwrite=True)
    with pytest.raises(IsADirectoryError, match=r"results\.tif is a directory: name a file"):
        write_cog(mask, f"s3://{BUCKET}/results.tif", overwrite=True)
    for root in (f"s3://{BUCKET}", f"s3://{BUCKET}/"):
        with pytest.raises(ValueError, match="is a whole bucket: name what to make in it"):
            write_zarr(mask, root, overwrite=True)
    for pattern in ("m*.tif", "m?.tif", "m[1].tif", "m#.tif"):
        with pytest.raises(ValueError, match="take for a pattern or a part of a URL"):
            write_cog(mask, f"s3://{BUCKET}/{pattern}")
    assert precious <= set(names(bucket))


def test_a_scene_in_a_store_that_is_replaced_is_read_anew(bucket, rng):
    out = f"s3://{BUCKET}/scene_anew.zarr"
    del bucket
    for side in (64, 64, 96, 48):
        pixels = rng.integers(0, 256, (3, side, side), "uint8")
        array = xr.DataArray(pixels, dims=("band", "y", "x"), name="scene").chunk()
        array.to_zarr(out, mode="w", consolidated=False)
        np.testing.assert_array_equal(open_scene(out), pixels)


def test_an_object_that_is_replaced_is_read_anew(bucket, mask, tmp_path):
    out = f"s3://{BUCKET}/anew.tif"
    for expected in (mask, 1 - mask, mask[:200, :300]):
        write_cog(expected, out, overwrite=True)
        np.testing.assert_array_equal(open_label(out), expected)
    for side in (200, 300, 250):
        write_sample(tmp_path / "scene.tif", size=(side, side), seed=side, overwrite=True)
        bucket.upload_file(str(tmp_path / "scene.tif"), BUCKET, "scene_anew.tif")
        np.testing.assert_array_equal(
            open_scene(f"s3://{BUCKET}/scene_anew.tif"), open_scene(tmp_path / "scene.tif")
        )
