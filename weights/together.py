"""Train networks together on one GPU: each patch is made once, and teachers are asked in passing.

    KERAS_BACKEND=torch python weights/together.py manifest.csv OUT --start STARTS --seconds 560

For a GPU that TensorFlow has no libraries for: it takes Keras, PyTorch, h5py, Pillow, tifffile
and, of cloudmask, what needs no more than these. The teacher, a U-Net, learns from labels; the
others, students, the mean of the labels and of what it just said. Without a GPU a U-Net is too
slow: `still`, a `lite` that learns no more, teaches then. Where a set's labels are generous
(`GENEROUS`), some students are told what a teacher that has to please all sets would talk them out
of: labels alone, missed cloud weighing more. After it the teacher learns to miss less cloud.

OUT gets float16 weight files of the moving averages, for `average.py` to make models of, and
log.json: what each had on validation's windows. How long it takes is given; how many steps that
makes depends on the machine, and a run is not repeated bit by bit. STARTS is a folder with the
files that `MEMBERS` name. `git show 3e78aae:weights/together.py` made what this one goes on from.
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
AVERAGE = 0.998
"""Momentum of the moving average of weights."""
WEIGHT_DECAY = 0.01
WARM_UP = 0.04
"""Share of the time in which rates rise."""
EAGER_STEPS = 5
"""Steps of a network before its kernels are recorded."""
THRESHOLDS = np.arange(0.1, 0.91, 0.05)
MIX = {
    "cloudxnet_l8": 2.4, "biome_l8": 1.5, "oncloudn_s2": 1.6, "cloud38_l8_raw": 0.8,
    "cloud38_l8": 0.4, "cloud95_l8": 0.5, "gf1": 0.5, "clear_rgb": 2.6,
}  # fmt: skip
CLEAR_SET = "clear_rgb"
"""Without any cloud."""
GENEROUS = "oncloudn_s2"
"""Its outlines are of twice the size of its clouds: README.md, Data."""


@dataclass(frozen=True)
class Member:
    """One of the networks."""

    name: str
    architecture: str
    start: str
    """Weight file of STARTS."""
    rate: float
    """Highest learning rate; 0: only teaches."""
    teaches: bool = False
    encoder_share: float = 1.0
    """Of the rate, for layers of the encoder."""
    generous: float = 0.0
    """How much more a missed cloud of `GENEROUS` weighs, learned from labels alone; 0: taught."""
    beta: float = 1.0
    """Of the soft F-beta in its loss."""


MEMBERS = (
    Member("still", "lite", "lite.weights.h5", 0, True),
    Member("unet", "unet_vgg16", "unet-f1.weights.h5", 3e-4, True, encoder_share=0.5),
    Member("slim", "unet_slim", "unet-slim.weights.h5", 8e-4),
    Member("slim_g", "unet_slim", "unet-slim.weights.h5", 8e-4, generous=2),
    Member("lite", "lite", "lite.weights.h5", 8e-4),
    Member("lite_g", "lite", "lite.weights.h5", 8e-4, generous=2),
    Member("cloudx", "cloudx_net", "cloudxnet-f1.weights.h5", 1e-3),
)
MISSED = Member("unet_f2", "unet_vgg16", "", 5e-5, True, beta=2)
"""What the teacher becomes at the end: missed cloud weighs more."""


class Learner:
    """A member's network, its optimizer, and the moving average of its weights.

    On a GPU a step is recorded once and then replayed: a narrow network has less work for the GPU
    than Python needs to ask for it.
    """

    def __init__(self, member: Member, starts: Path | None, device: str):
        import keras
        from twin import Twin

        from cloudmask.models import build
        from cloudmask.weightfile import read_weights

        self.member, self.device = member, device
        with keras.device("cpu"):
            network = build(member.architecture)
            if starts and member.start:
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
        rates = [torch.zeros((), device=self.device) for _ in range(2)]
        on_gpu = self.device == "cuda"
        self.optimizer = torch.optim.AdamW(
            [{"params": g, "lr": r} for g, r in zip(self.twin.groups(), rates, strict=True) if g],
            weight_decay=WEIGHT_DECAY, fused=on_gpu, capturable=on_gpu,
        )  # fmt: skip
        self.rates, self.steps, self.graph, self.inputs = rates, 0, None, []

    def say(self, pixels: Any) -> Any:
        """Logits of what it has learned."""
        import torch

        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16):
            return self.twin(pixels, training=False)

    def learn(self, pixels: Any, aim: Any, weight: Any, progress: float) -> tuple[Any, Any]:
        """Take a step: loss and the logits before it, not waited for, and until the next step."""
        import torch

        rate = self.member.rate * min(progress / WARM_UP, 1.0)
        if progress > WARM_UP:
            rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
        self.rates[0].fill_(rate * self.member.encoder_share)
        self.rates[1].fill_(rate)
        self.steps += 1
        if self.device != "cuda":
            return self._step(pixels, aim, weight)
        if self.steps <= EAGER_STEPS:  # on a stream beside, as recording asks for
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                found = self._step(pixels, aim, weight)
            torch.cuda.current_stream().wait_stream(beside)
            return found
        if self.graph is None:
            self.inputs = [tensor.clone() for tensor in (pixels, aim, weight)]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.found = self._step(*self.inputs)
        for held, value in zip(self.inputs, (pixels, aim, weight), strict=True):
            held.copy_(value)
        self.graph.replay()
        return self.found

    def _step(self, pixels: Any, aim: Any, weight: Any) -> tuple[Any, Any]:
        import torch

        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            logits = self.twin(pixels, training=True)
        value = loss(logits, aim, weight, self.member.beta)
        value.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.mean, self.twin.state(), 1 - AVERAGE)
        return value.detach(), logits.detach()

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
        searched = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False  # each last batch has its own size
        for name, (pixels, labels) in validation.items():
            total = torch.zeros(len(THRESHOLDS), 4, device=self.device)
            for at in range(0, len(pixels), batch):
                part = slice(at, at + batch)
                shown, label = to_device(pixels[part], labels[part], self.device)
                logits = self.say(shown)
                cloud, clear = label == CLOUD, label == CLEAR
                for i, level in enumerate(levels):
                    found = logits >= level
                    masks = (found & cloud, found & clear, ~found & cloud, clear)
                    total[i] += torch.stack([mask.sum() for mask in masks])
            counts[name] = total.double().cpu().numpy()
        torch.backends.cudnn.benchmark = searched
        self._swap()
        best: dict[str, Any] = {"measure": -1.0}
        for i, threshold in enumerate(THRESHOLDS):
            false = float(counts[CLEAR_SET][i][1] / counts[CLEAR_SET][i][3])
            f1 = {
                name: float(2 * hit / (2 * hit + wrong + missed))
                for name, (hit, wrong, missed, _) in ((n, c[i]) for n, c in counts.items())
                if name != CLEAR_SET
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


def loss(logits: Any, aim: Any, weight: Any, beta: float) -> Any:
    """`cloudmask.losses`' cross entropy and soft F-beta, of logits and with weights of pixels.

    Keras' clip copies its limits to the GPU each time, which cannot be recorded.
    """
    from torch.nn import functional

    weight = weight * (aim != NODATA)
    aim = aim * (aim != NODATA)
    entropy = functional.binary_cross_entropy_with_logits(logits, aim, weight, reduction="sum")
    said = logits.sigmoid()
    found, false = (weight * aim * said).sum(), (weight * (1 - aim) * said).sum()
    missed = (weight * aim * (1 - said)).sum()
    both = (1 + beta**2) * found + 1
    return entropy / (weight.sum() + 1) + 1 - both / (both + beta**2 * missed + false)


def aims(member: Member, label: Any, generous: Any, said: Any | None) -> tuple[Any, Any]:
    """What a member is to say of each pixel, and how much that counts.

    Parameters
    ----------
    label : (n, 1, y, x) tensor
    generous : (n, 1, 1, 1) tensor
        Where the patch is of `GENEROUS`.
    said : (n, 1, y, x) tensor, optional
        The teacher's logits.
    """
    import torch

    weight = torch.ones_like(label)
    if said is None or member.teaches:
        return label, weight
    taught = torch.where(label == NODATA, label, (label + said.sigmoid()) / 2)
    if not member.generous:
        return taught, weight
    weight = weight + (member.generous - 1) * (generous & (label == CLOUD))
    return torch.where(generous, label, taught), weight


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
        took: list[float] = []
        for _ in range(20):
            start = time.perf_counter()
            shown, aim = to_device(pixels, label, learner.device)
            value, _ = learner.learn(shown, aim, torch.ones_like(aim), 0.5)
            value.item()
            took.append(time.perf_counter() - start)
        memory = torch.cuda.max_memory_allocated() / 2**30 if learner.device == "cuda" else 0
        say(
            f"{learner.member.name:8s} first {took[0]:.2f} s, then {np.median(took[8:]):.4f} s "
            f"a step of {batch}; {memory:.1f} GB; loss {value.item():.3f}"
        )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, help="folder of weight files; else random weights")
    parser.add_argument("--seconds", type=float, default=480, help="of training, without the rest")
    parser.add_argument("--seconds-f2", type=float, default=60, help="after it, for unet_f2")
    parser.add_argument("--members", default=",".join(m.name for m in MEMBERS if m.rate))
    parser.add_argument("--rates", type=float, default=1, help="times the members' learning rates")
    parser.add_argument("--save-at", type=float, default=0.7, help="share after which to write")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--makers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--time", action="store_true", help="only time steps of random pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    named = args.members.split(",")
    if unknown := set(named) - {member.name for member in MEMBERS}:
        parser.error(f"there is no member {', '.join(sorted(unknown))}")
    members = [replace(m, rate=m.rate * args.rates) for m in MEMBERS if m.name in named]
    if not (args.time or any(member.teaches for member in members)):
        parser.error("nobody teaches: name unet or still among the members")
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
        if CLEAR_SET not in validation:
            parser.error(f"{args.manifest} has no images of {CLEAR_SET} to validate on")
        cut = {name: len(parts[0]) for name, parts in validation.items()}
        say(f"{len(images)} images; windows of validation: {cut}")

    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Of depthwise convolutions the search for the fastest algorithm does not come to an end.
    torch.backends.cudnn.benchmark = "cloudx" not in named
    args.out.mkdir(parents=True, exist_ok=True)
    learners = [Learner(member, args.start, device) for member in members]
    say(f"{len(learners)} networks on {device}")
    if args.time:
        time_steps(learners, sampling.batch_size, sampling.size, say)
        return

    def finish(learner: Learner) -> None:
        """Write the mean of the weights, and look at what it is worth."""
        learner.write(args.out / f"{learner.member.name}.weights.h5")
        found = learner.scores(validation, sampling.batch_size)
        log["scores"].append({"name": learner.member.name} | found)
        say(f"{learner.member.name:8s}  {shown(found)}")

    def run(learners: list[Learner], seconds: float, save_at: float = 0.0) -> int:
        """Train for some time."""
        start, steps, told, pending = time.monotonic(), 0, 0.0, []
        while (progress := (time.monotonic() - start) / seconds) < 1:
            *patches, names = batches()
            pixels, label = to_device(*patches, device)
            generous = torch.from_numpy(names == GENEROUS).to(device).reshape(-1, 1, 1, 1)
            losses, said = [], None
            for learner in learners:
                if not learner.member.rate:
                    said = learner.say(pixels)
                    continue
                aim, weight = aims(learner.member, label, generous, said)
                value, logits = learner.learn(pixels, aim, weight, progress)
                losses.append(value.clone())  # a replay overwrites it
                said = logits if learner.member.teaches else said
            steps += 1
            pending.append(losses)
            if len(pending) > 2:  # so far may it run ahead
                done = [round(value.item(), 4) for value in pending.pop(0)]
                if progress * 20 >= told:
                    told = int(progress * 20) + 1
                    log["losses"].append([progress, *done])
                    fed = "waits for patches" if batches.ready.empty() else "fed"
                    say(f"{progress:.2f}, step {steps}, {fed}: {done}")
            if save_at and progress >= save_at:
                save_at, stopped = 0.0, time.monotonic()
                for learner in learners:
                    if learner.member.rate:
                        learner.write(args.out / f"{learner.member.name}_part.weights.h5")
                start += time.monotonic() - stopped
        return steps

    log: dict[str, Any] = {"scores": [], "losses": [], "mix": mix, "batch": sampling.batch_size}
    log["steps"] = run(learners, args.seconds, args.save_at)
    say(f"{log['steps']} steps")
    learned = [learner for learner in learners if learner.member.rate]
    for learner in learned:
        finish(learner)
    teachers = [learner for learner in learned if learner.member.teaches]
    if teachers and args.seconds_f2:
        missed = Learner(MISSED, None, device)
        missed.begin(teachers[0].mean)
        log["steps_f2"] = run([missed], args.seconds_f2)
        finish(missed)
    (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")
    say("done")


if __name__ == "__main__":
    main()
