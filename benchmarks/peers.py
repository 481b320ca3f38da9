"""Ask how fast others find clouds in the same pixels, from file to mask file, and in what memory.

    sh benchmarks/peers_env.sh PEERS
    python benchmarks/peers.py FOLDER [--short] [--peers PEERS] [--side 2048] [--runs 3]

Everyone at the scene's own pixels, with its own defaults, on all cores (ONNX Runtime: on physical
ones). `predict seconds` are from pixels in memory to a mask in memory, with the library and its
network loaded and after a first prediction, in a process beside that of the whole; of the three
steps those in `model.predict`, with its graph. Speed only: the
scene is synthetic, ukis-csmask's infrared bands are made from its red and green, and omnicloudmask,
whose weights are a download, gets its two networks with random weights.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from measuring import alternate, apart, options, report, run, sample, segment


def cloudmask(scene: Path, mask: Path, model: str) -> dict[str, Any]:
    """The command, and in a process beside it the prediction alone."""
    whole = segment(scene, mask, "--gsd", "native", "--model", model)
    alone = apart(cloudmask_alone, scene=scene, model=model)
    return {key: whole[key] for key in ("seconds", "peak_bytes")} | {
        "predict_seconds": alone["predict_seconds"]
    }


def cloudmask_alone(scene: str, model: str) -> dict[str, Any]:
    """`cloudmask.segment` of a scene in memory."""
    from cloudmask import load_model, open_scene
    from cloudmask import segment as lazily

    pixels, card = open_scene(scene).compute(), load_model(model)
    lazily(pixels[:, :64, :64], card).compute()
    begun = time.perf_counter()
    lazily(pixels.chunk(open_scene(scene).chunksizes), card).compute()
    return {"predict_seconds": time.perf_counter() - begun}


def three_steps(scene: Path, mask: Path) -> dict[str, Any]:
    """Tiles to PNG, `model.predict`, glue."""
    command = [sys.executable, Path(__file__).with_name("three_steps.py"), scene, mask]
    output, cost = run(command)
    return cost | {"predict_seconds": json.loads(output.splitlines()[-1])["predict"]}


def peer(function: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """The whole, and in a process beside it the prediction once more."""
    whole, alone = (apart(function, **arguments, again=again) for again in (False, True))
    return {key: whole[key] for key in ("seconds", "peak_bytes")} | {
        "predict_seconds": alone["predict_seconds"]
    }


def ukis_csmask(scene: str, mask: str, again: bool) -> dict[str, Any]:
    """The model of six bands, which its makers recommend."""
    import numpy as np
    import rasterio
    from ukis_csmask.mask import CSmask

    with rasterio.open(scene) as dataset:
        red, green, blue = dataset.read().astype("float32") / 255
        profile = dataset.profile | {"count": 1}
    bands = ["blue", "green", "red", "nir", "swir16", "swir22"]
    pixels = np.stack([blue, green, red, red, green, green], axis=-1)
    begun = time.perf_counter()
    masker = CSmask(pixels, bands)  # loads its network and predicts
    clouds = masker.csm
    if again:
        begun = time.perf_counter()
        masker._csm()
    seconds = time.perf_counter() - begun
    with rasterio.open(mask, "w", **profile) as out:
        out.write(clouds[..., 0], 1)
    return {"predict_seconds": seconds}


def omnicloudmask(scene: str, mask: str, precision: str, again: bool) -> dict[str, Any]:
    """Its two networks as it builds them itself (model_utils.py), but for the weights."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # Its compiled operators do not fit the torch that is here. It can be imported where these
        # two have a name; none of the networks calls them.
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    import rasterio
    import segmentation_models_pytorch as smp
    from omnicloudmask import load_multiband, predict_from_array

    networks = [
        smp.Unet(encoder_name=name, encoder_weights=None, in_channels=3, classes=4).eval()
        for name in ("tu-regnety_004", "tu-edgenext_small")
    ]
    pixels, profile = load_multiband(scene, band_order=[1, 2, 3])
    for _ in range(1 + again):
        begun = time.perf_counter()
        clouds = predict_from_array(pixels, custom_models=networks, inference_dtype=precision)
        seconds = time.perf_counter() - begun
    with rasterio.open(mask, "w", **profile | {"count": 1, "compress": "lzw"}) as out:
        out.write(clouds)
    return {"predict_seconds": seconds}


def precision() -> dict[str, Any]:
    """That of this machine."""
    from cloudmask.network import choose_precision  # not in the peers' environment

    return {"precision": choose_precision()}


def main() -> None:
    """Run the benchmark."""
    asked = options(__doc__, side=(2048, 1024), peers=("peers", "peers"))
    scene, mask = sample(asked.folder, asked.side), asked.folder / "mask.tif"
    contestants: dict[str, Any] = {
        "cloudmask, the default": partial(cloudmask, scene, mask, "slim-lite"),
        "cloudmask, slim U-Net": partial(cloudmask, scene, mask, "unet-slim"),
        "cloudmask, U-Net": partial(cloudmask, scene, mask, "unet-f1"),
        "cloudmask, lite": partial(cloudmask, scene, mask, "lite"),
        "cloudmask, lite-pair": partial(cloudmask, scene, mask, "lite-pair"),
        "three steps, the same U-Net": partial(three_steps, scene, mask),
    }
    python = Path(asked.peers, "bin", "python")
    if python.exists():
        asked.context["peers"] = run([python, "-m", "pip", "freeze"])[0].split()
        one = partial(peer, python=python, scene=scene, mask=mask)
        contestants |= {
            "ukis-csmask 1.0.0": partial(one, ukis_csmask),
            "omnicloudmask 1.8.1, random weights, fp32": partial(
                one, omnicloudmask, precision="fp32"
            ),
        }
        if apart(precision)["precision"] == "bfloat16":  # elsewhere it is only imitated
            contestants["omnicloudmask 1.8.1, random weights, bf16"] = partial(
                one, omnicloudmask, precision="bf16"
            )
    else:
        print(f"{python} is not there: no peers, see peers_env.sh", file=sys.stderr)
    rows = alternate(contestants, asked.runs)
    for row in rows.values():
        row["mpx_per_second"] = asked.side**2 / 1e6 / row["seconds"]
        row["predict_mpx_per_second"] = asked.side**2 / 1e6 / row["predict_seconds"]
    report(__file__, __doc__, asked, rows)


if __name__ == "__main__":
    main()
