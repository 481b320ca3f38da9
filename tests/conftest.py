"""Scenes made to order, and a model that needs no TensorFlow."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from rasterio.transform import from_origin

from cloudmask.models import ARCHITECTURES

SHARED = Path(__file__).parents[2] / "shared"

WINDOWLESS = [name for name, card in ARCHITECTURES.items() if card.window is None]
"""Networks that take blocks of any size, in strips."""

_CPU = Path("/proc/cpuinfo")
_FLAGS = set(_CPU.read_text().split()) if _CPU.exists() else set()

without_own_pool = pytest.mark.skipif(
    bool(_FLAGS & {"avx512_vnni", "avx_vnni", "amx_tile"}),
    reason="TensorFlow keeps tensors in a pool of its own on this CPU",
)


def plane(values: ArrayLike) -> xr.DataArray:
    """A mask or a label."""
    return xr.DataArray(np.array(values, "uint8"), dims=("y", "x"), name="mask")


def listing(folder: Path) -> dict[str, bytes]:
    """Every file and folder below a folder, with its bytes."""
    return {
        str(file.relative_to(folder)): file.read_bytes() if file.is_file() else b""
        for file in sorted(folder.rglob("*"))
    }


def files_of(store: str | Path) -> dict[Path, bytes]:
    """Every file of a Zarr store."""
    return {p.relative_to(store): p.read_bytes() for p in Path(store).rglob("*") if p.is_file()}


@dataclass(frozen=True)
class FakeModel:
    """A blur of the scene's brightness with a known reach: fast, exact, sensitive to context."""

    stride: int = 8
    overlap: int = 16
    window: int | None = None
    threshold: float = 0.5
    name: str = "fake"

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        n, height, width, bands = pixels.shape
        assert bands == 3
        assert (height % self.stride, width % self.stride) == (0, 0)
        assert np.isfinite(pixels).all(), "nodata reached the network"
        # Cells of the stride, as pooling makes them, then their neighbours: reach 2 · stride.
        s = self.stride
        cells = pixels.mean(axis=-1).reshape(n, height // s, s, width // s, s).mean(axis=(2, 4))
        near = np.pad(cells, [(0, 0), (1, 1), (1, 1)], mode="edge")
        blurred = sum(
            near[:, y : y + cells.shape[1], x : x + cells.shape[2]]
            for y in range(3)
            for x in range(3)
        )
        spread = (blurred / 9).repeat(s, axis=1).repeat(s, axis=2)
        return ((spread + pixels.mean(axis=-1)) / 510).astype("float32")


@pytest.fixture
def make_scene(tmp_path: Path) -> Callable[..., Path]:
    """Write an array (band, y, x) as a GeoTIFF; keywords go to rasterio."""

    def make(
        pixels: NDArray[Any],
        name: str = "scene.tif",
        *,
        mask: NDArray[Any] | None = None,
        **profile: Any,
    ) -> Path:
        path = tmp_path / name
        bands, height, width = pixels.shape
        profile = {
            "driver": "GTiff",
            "dtype": pixels.dtype,
            "crs": "EPSG:32633",
            "transform": from_origin(500_000, 5_000_000, 10, 10),
        } | profile
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(path, "w", height=height, width=width, count=bands, **profile) as dataset,
        ):
            dataset.write(pixels)
            if mask is not None:
                dataset.write_mask(mask)
        return path

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs and real scenes; not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the shared folder with reference data is not here")
    return SHARED


@pytest.fixture(scope="session")
def own_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of one's own, which no package has: small, fast, untrained."""
    import keras

    from cloudmask.models import build

    keras.utils.set_random_seed(3)
    path = tmp_path_factory.mktemp("weights") / "own.weights.h5"
    build("lite").save_weights(path)
    return path


class Running(subprocess.Popen):
    """A process that works while a test looks on."""

    def until(self, happened: Callable[[], object]) -> None:
        """Wait for what it is about to do; it must not end before."""
        end = time.monotonic() + 120
        while not happened():
            assert self.poll() is None, "it ended before"
            assert time.monotonic() < end, "it never did"
            time.sleep(0.02)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start a process as subprocess.run would; it ends with the test, if not before."""
    with ExitStack() as after:

        def start(command: list[Any], **options: Any) -> Running:
            process = after.enter_context(Running(command, **options))
            after.callback(process.kill)
            return process

        yield start


class Server:
    """A folder on the loopback network."""

    def __init__(self, folder, process):
        self.folder, self.process = folder, process
        self.port = int(process.stdout.readline())

    def url(self, path):
        shutil.copy(path, self.folder)
        return f"http://127.0.0.1:{self.port}/{path.name}"

    def stop(self):
        """Bytes of every answer."""
        self.process.terminate()
        return [int(line) for line in self.process.communicate()[0].split()]


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "www"
    folder.mkdir()
    command = [sys.executable, Path(__file__).with_name("range_server.py"), folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield Server(folder, process)
        process.terminate()
