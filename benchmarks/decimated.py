"""Ask what a decimated scene costs, against GDAL reading it so and writing an enlarged mask.

    python benchmarks/decimated.py FOLDER [--short] [--side 20000] [--factor 24] [--runs 3]

A scene in deflated tiles without overviews, and the same with overviews; the mask a COG on the
scene's grid. GDAL's part is the calls of two commands through rasterio, whose GDAL cloudmask has,
too, and the commands themselves where gdal_translate is on the PATH, often an older one's; with one
thread, as it comes, and with all. What is beyond start-up leaves out what cloudmask takes for
64 × 64 px, and what GDAL's process takes before its first call.
"""

import math
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from measuring import alternate, apart, options, report, run, sample, segment, startup


def gdal(scene: str, mask: str, factor: float, threads: str, by_command: bool) -> dict[str, Any]:
    """An average-decimated read, a cut, and a COG of the mask, enlarged by nearest."""
    import rasterio

    with rasterio.open(scene) as dataset:
        size = [str(dataset.width), str(dataset.height)]
        small = [str(math.ceil(length / factor)) for length in (dataset.width, dataset.height)]
    coarse, cut = (str(Path(mask).with_name(name)) for name in ("coarse.tif", "cut.tif"))
    with rasterio.Env(GDAL_NUM_THREADS=threads):
        begun = time.perf_counter()
        translate = partial(_command, threads) if by_command else _library
        translate(scene, coarse, "-r", "average", "-outsize", *small)
        with rasterio.open(coarse) as dataset:
            profile = dataset.profile | {"count": 1, "nodata": 255}
            profile.pop("photometric", None)
            clouds = (dataset.read(1) > 127).astype("uint8")
        with rasterio.open(cut, "w", **profile) as dataset:
            dataset.write(clouds, 1)
        cog = ["-co", "COMPRESS=DEFLATE", "-co", "OVERVIEW_RESAMPLING=MODE"]
        translate(cut, mask, "-of", "COG", "-outsize", *size, *cog)
        return {"beyond_startup_seconds": time.perf_counter() - begun}


def _command(threads: str, source: str, target: str, *how: str) -> None:
    command = ["gdal_translate", "-q", "--config", "GDAL_NUM_THREADS", threads, *how]
    subprocess.run([*command, source, target], check=True)


def _library(source: str, target: str, *how: str) -> None:
    """What `gdal_translate` calls for the same arguments."""
    import rasterio
    import rasterio.shutil
    from rasterio.enums import Resampling

    width, height = map(int, how[how.index("-outsize") + 1 :][:2])
    if "COG" in how:
        with rasterio.open(source) as dataset:
            vrt = _enlarged(dataset, width, height)
        rasterio.shutil.copy(
            vrt, target, driver="COG", compress="deflate", overview_resampling="MODE"
        )
        return
    with rasterio.open(source) as dataset:
        shape = (dataset.count, height, width)
        pixels = dataset.read(out_shape=shape, resampling=Resampling.average)
        scale = dataset.transform.scale(dataset.width / width, dataset.height / height)
        profile = {"crs": dataset.crs, "transform": dataset.transform @ scale, "count": shape[0]}
    with rasterio.open(
        target, "w", driver="GTiff", dtype="uint8", width=width, height=height, **profile
    ) as out:
        out.write(pixels)


def _enlarged(dataset: Any, width: int, height: int) -> str:
    """The VRT that gdal_translate makes of a file and -outsize."""
    x, y = dataset.width / width, dataset.height / height
    transform = (dataset.transform @ dataset.transform.scale(x, y)).to_gdal()
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{dataset.crs.to_string()}'
        f"</SRS><GeoTransform>{', '.join(map(str, transform))}</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><NoDataValue>255</NoDataValue><SimpleSource>'
        f"<SourceFilename>{dataset.name}</SourceFilename><SourceBand>1</SourceBand>"
        f'<SrcRect xOff="0" yOff="0" xSize="{dataset.width}" ySize="{dataset.height}"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


def with_overviews(scene: Path) -> Path:
    """A copy of a scene with overviews by average, down to a thirty-second."""
    copy = scene.with_stem(f"{scene.stem}_overviews")
    if not copy.exists():
        apart(build_overviews, scene=scene, copy=copy)
    return copy


def build_overviews(scene: str, copy: str) -> dict[str, Any]:
    """Make the copy; in a process of its own, for its memory."""
    import rasterio
    from rasterio.enums import Resampling

    unfinished = shutil.copy(scene, f"{copy}.unfinished")
    settings = {"GDAL_NUM_THREADS": "ALL_CPUS", "COMPRESS_OVERVIEW": "DEFLATE"}
    with rasterio.Env(**settings), rasterio.open(unfinished, "r+") as dataset:
        dataset.build_overviews([2, 4, 8, 16, 32], Resampling.average)
    Path(unfinished).rename(copy)
    return {}


def main() -> None:
    """Run the benchmark."""
    import rasterio

    asked = options(__doc__, side=(20_000, 8_000), factor=(24.0, 24.0))
    folder, scene = asked.folder, sample(asked.folder, asked.side)
    mask, how = folder / "mask.tif", ("--resize-factor", asked.factor)
    ways = {f"rasterio's GDAL {rasterio.__gdal_version__}": False}
    if translate := shutil.which("gdal_translate"):
        _, number, *_ = run([translate, "--version"])[0].replace(",", "").split()
        ways[f"gdal_translate {number}"] = True
    ours = next(iter(ways))
    reference = partial(apart, gdal, scene=scene, mask=mask, factor=asked.factor)
    contestants = {
        "start-up": partial(startup, folder),
        "cloudmask": partial(segment, scene, mask, *how),
        "cloudmask, with overviews": partial(segment, with_overviews(scene), mask, *how),
    }
    for way, by_command in ways.items():
        for how_many, threads in (("one thread", "1"), ("all threads", "ALL_CPUS")):
            contestants[f"{way}, {how_many}"] = partial(
                reference, threads=threads, by_command=by_command
            )
    rows = alternate(contestants, asked.runs)
    start = rows.pop("start-up")
    theirs = rows[f"{ours}, one thread"]
    for name, row in rows.items():
        if name.startswith("cloudmask"):
            row["startup_seconds"], row["startup_runs"] = start["seconds"], start["runs"]
            row["beyond_startup_seconds"] = row["seconds"] - start["seconds"]
        row["ratio"] = row["seconds"] / theirs["seconds"]
        row["beyond_startup_ratio"] = (
            row["beyond_startup_seconds"] / theirs["beyond_startup_seconds"]
        )
    report(__file__, __doc__, asked, rows)


if __name__ == "__main__":
    main()
