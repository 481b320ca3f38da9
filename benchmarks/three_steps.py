"""Segment a scene in three steps, as scripts have done it: tiles to PNG, predict each, glue.

    python benchmarks/three_steps.py SCENE MASK [--tile 512] [--batch 8]

The same U-Net in the same precision as `cloudmask segment`; no halo, so its masks have seams. The
tiles lie in folders beside MASK, and stay there. Prints seconds of each step as JSON.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.windows import Window


def cut(scene: Path, tiles: Path, side: int) -> None:
    """Step 1: tiles as PNG, black beyond the scene's edge."""
    with rasterio.open(scene) as dataset:
        for y in range(0, dataset.height, side):
            for x in range(0, dataset.width, side):
                window = Window(x, y, side, side)
                pixels = dataset.read((1, 2, 3), window=window, boundless=True, fill_value=0)
                Image.fromarray(np.moveaxis(pixels, 0, -1)).save(tiles / f"{y}_{x}.png")


def predict(tiles: Path, masks: Path, batch: int) -> tuple[float, float]:
    """Step 2: a PNG mask for each tile; seconds of loading the network, and those it predicts."""
    from cloudmask import load_model
    from cloudmask.network import build_network, choose_precision
    from cloudmask.weightfile import read_weights

    begun = time.perf_counter()
    card = load_model("unet-f1")
    network = build_network(card.architecture, choose_precision())
    read_weights(network, Path(card.path))
    loading, predicting = time.perf_counter() - begun, 0.0
    paths = sorted(tiles.iterdir())
    for start in range(0, len(paths), batch):
        some = paths[start : start + batch]
        pixels = np.stack([np.asarray(Image.open(path)) for path in some])
        begun = time.perf_counter()
        probabilities = network.predict(pixels, batch_size=batch, verbose=0)[..., 0]
        predicting += time.perf_counter() - begun
        for path, probability in zip(some, probabilities, strict=True):
            Image.fromarray((probability >= card.threshold).astype("uint8")).save(masks / path.name)
    return loading, predicting


def glue(scene: Path, masks: Path, mask: Path, side: int) -> None:
    """Step 3: one GeoTIFF."""
    with rasterio.open(scene) as dataset:
        profile = {"height": dataset.height, "width": dataset.width, "crs": dataset.crs}
        profile |= {"transform": dataset.transform, "count": 1, "dtype": "uint8"}
    glued = np.zeros((profile["height"], profile["width"]), "uint8")
    for path in masks.iterdir():
        y, x = map(int, path.stem.split("_"))
        part = glued[y : y + side, x : x + side]
        part[:] = np.asarray(Image.open(path))[: part.shape[0], : part.shape[1]]
    with rasterio.open(mask, "w", driver="GTiff", compress="deflate", tiled=True, **profile) as out:
        out.write(glued, 1)


def main() -> None:
    """Run the steps."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scene", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    asked = parser.parse_args()
    tiles, masks = (
        asked.mask.with_name(f"{asked.mask.stem}_{kind}") for kind in ("tiles", "masks")
    )
    for folder in (tiles, masks):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    clock = [time.perf_counter()]
    cut(asked.scene, tiles, asked.tile)
    clock.append(time.perf_counter())
    loading, predicting = predict(tiles, masks, asked.batch)
    clock.append(time.perf_counter())
    glue(asked.scene, masks, asked.mask, asked.tile)
    clock.append(time.perf_counter())
    cutting, _, gluing = np.diff(clock).tolist()
    seconds = {"cut": cutting, "load": loading, "predict": predicting, "glue": gluing}
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
