"""Teach networks on one GPU what a committee says: each patch is made once, and asked about once.

    KERAS_BACKEND=torch python weights/together.py manifest.csv OUT --start STARTS --seconds 480

For a GPU that TensorFlow has no libraries for: it takes Keras, PyTorch, h5py, Pillow, tifffile
and, of cloudmask, what needs no more than these. Students learn the mean of the labels and of what
their teachers say. A teacher is shown a patch as it is, or a mirror image; students its colours,
texture or size changed. In `GENEROUS` some students learn labels alone, missed cloud weighing more.

OUT gets float16 weight files of the moving averages, for `runs.py` to make models of, and log.json.
How long it takes is given; how many steps that makes depends on the machine, and a run is not
repeated bit by bit. STARTS is a folder with the files that TEACHERS and STUDENTS name. U-Nets were
trained by earlier versions: README.md.

After Hinton et al. 2015, https://arxiv.org/abs/1503.02531, and Beyer et al. 2022,
https://arxiv.org/abs/2106.05237.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from made_patches import PER_VISIT, Patches, read_split
from parts import places

from cloudmask.constants import CLOUD, NODATA
from cloudmask.draw import Sampling

Array = Any
AVERAGE = 0.998
"""Momentum of the moving average of weights."""
WEIGHT_DECAY = 0.01
WARM_UP = 0.04
"""Share of the time in which rates rise."""
EAGER_STEPS = 5
"""Steps of a network before its kernels are recorded."""
MIX = {
    "cloudxnet_l8": 2.4, "biome_l8": 1.5, "oncloudn_s2": 1.6, "cloud38_l8_raw": 0.8,
    "cloud38_l8": 0.4, "cloud95_l8": 0.5, "gf1": 0.5, "clear_rgb": 2.6,
}  # fmt: skip
MIRRORS = ((), (2,), (3,), (2, 3))
"""Dimensions along which patches are mirrored for the teachers, in turn."""
GENEROUS = "oncloudn_s2"
"""Its outlines are of twice the size of its clouds: README.md, Data."""


@dataclass(frozen=True)
class Teacher:
    """One of the committee."""

    file: str
    """Weight file of STARTS."""
    architecture: str
    branch: str = ""
    """Which of a `lite_pair`'s two is asked: what its layers' names begin with."""


TEACHERS = (
    Teacher("lite-pair.weights.h5", "lite_pair", "half_"),
    Teacher("lite-pair.weights.h5", "lite_pair", "whole_"),
    Teacher("pair88.weights.h5", "lite_pair", "whole_"),
    Teacher("unet-slim.weights.h5", "unet_slim"),
)


@dataclass(frozen=True)
class Student:
    """One of the networks that learn."""

    name: str
    architecture: str
    start: str
    """Weight file of STARTS."""
    rate: float
    """Highest learning rate."""
    generous: float = 0.0
    """How much more a missed cloud of `GENEROUS` weighs, learned from labels alone; 0: taught."""


STUDENTS = (
    Student("slim", "unet_slim", "unet-slim.weights.h5", 8e-4),
    Student("lite", "lite", "lite8.weights.h5", 8e-4),
    Student("lite_g", "lite", "lite.weights.h5", 8e-4, generous=2),
)


def network(architecture: str, file: Path, branch: str = "") -> Any:
    """A Keras network, or a branch of one, with its weights."""
    import keras

    from cloudmask.models import build
    from cloudmask.weightfile import read_weights

    with keras.device("cpu"):
        built = build(architecture)
        read_weights(built, file)
        if branch:
            built = keras.Model(built.inputs, built.get_layer(f"{branch}probability").output)
    return built


class Learner:
    """A student's network, its optimizer, and the moving average of its weights.

    On a GPU a step is recorded once and then replayed: a narrow network has less work for the GPU
    than Python needs to ask for it.
    """

    def __init__(self, student: Student, starts: Path, device: str):
        import torch
        from twin import Twin

        self.student, self.device = student, device
        self.twin = Twin(network(student.architecture, starts / student.start), device)
        self.mean = [tensor.detach().clone() for tensor in self.twin.state()]
        self.rate = torch.zeros((), device=device)
        on_gpu = device == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.twin.modules.parameters(), lr=self.rate, weight_decay=WEIGHT_DECAY,
            fused=on_gpu, capturable=on_gpu,
        )  # fmt: skip
        self.steps, self.graph, self.inputs = 0, None, []

    def learn(self, pixels: Any, aim: Any, weight: Any, progress: float) -> Any:
        """Take a step: the loss before it, not waited for, and until the next step."""
        import torch

        rate = self.student.rate * min(progress / WARM_UP, 1.0)
        if progress > WARM_UP:
            rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
        self.rate.fill_(rate)
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

    def _step(self, pixels: Any, aim: Any, weight: Any) -> Any:
        import torch

        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            logits = self.twin(pixels, training=True)
        value = loss(logits, aim, weight)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.twin.modules.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.mean, self.twin.state(), 1 - AVERAGE)
        return value.detach()

    def write(self, path: Path) -> None:
        """Write the moving average."""
        from cloudmask.weightfile import write_weights

        self._swap()
        self.twin.put_back()
        self._swap()
        write_weights(self.twin.network, path, half=True)

    def _swap(self) -> None:
        """The moving average in place of the weights, and back."""
        import torch

        with torch.no_grad():
            for tensor, mean in zip(self.twin.state(), self.mean, strict=True):
                kept = tensor.clone()
                tensor.copy_(mean)
                mean.copy_(kept)


class Committee:
    """Networks that teach."""

    def __init__(self, teachers: Iterable[Teacher], starts: Path, device: str):
        from twin import Twin

        self.device = device
        self.twins = [
            Twin(network(t.architecture, starts / t.file, t.branch), device) for t in teachers
        ]

    def __call__(self, pixels: Any, mirror: tuple[int, ...]) -> Any:
        """The mean of their probabilities (n, 1, y, x), of patches mirrored along dimensions."""
        import torch

        shown = pixels.flip(mirror)
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16):
            said = [twin(shown, training=False).sigmoid() for twin in self.twins]
        return torch.stack(said).mean(0).flip(mirror)


def loss(logits: Any, aim: Any, weight: Any) -> Any:
    """`cloudmask.losses`' cross entropy and soft F1, of logits and with weights of pixels.

    Keras' clip copies its limits to the GPU each time, which cannot be recorded.
    """
    from torch.nn import functional

    weight = weight * (aim != NODATA)
    aim = aim * (aim != NODATA)
    entropy = functional.binary_cross_entropy_with_logits(logits, aim, weight, reduction="sum")
    said = logits.sigmoid()
    found, false = (weight * aim * said).sum(), (weight * (1 - aim) * said).sum()
    missed = (weight * aim * (1 - said)).sum()
    both = 2 * found + 1
    return entropy / (weight.sum() + 1) + 1 - both / (both + missed + false)


def aims(student: Student, label: Any, generous: Any, said: Any) -> tuple[Any, Any]:
    """What a student is to say of each pixel, and how much that counts.

    Parameters
    ----------
    label, said : (n, 1, y, x) tensors
        Labels, and the probability that the teachers see.
    generous : (n, 1, 1, 1) tensor
        Where the patch is of `GENEROUS`.
    """
    import torch

    weight = torch.ones_like(label)
    taught = torch.where(label == NODATA, label, (label + said) / 2)
    if not student.generous:
        return taught, weight
    weight = weight + (student.generous - 1) * (generous & (label == CLOUD))
    return torch.where(generous, label, taught), weight


def to_device(pixels: Array, device: str) -> Any:
    """(n, y, x, band) uint8 → (n, band, y, x), channels last, float32."""
    import torch

    return torch.from_numpy(pixels).to(device, non_blocking=True).float().permute(0, 3, 1, 2)


def nearest(parts: Array, side: int, device: str) -> tuple[Any, Any, Any, Any]:
    """What picks, of patches (n, 1, side, side), the pixels that students see there."""
    import torch

    y, x = (np.stack([part[axis] + places(part[2], side) for part in parts]) for axis in (0, 1))
    n = np.arange(len(parts)).reshape(-1, 1, 1, 1)
    picked = n, np.zeros_like(n), y[:, None, :, None], x[:, None, None]
    return tuple(torch.from_numpy(index).to(device, non_blocking=True) for index in picked)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, required=True, help="folder of weight files")
    parser.add_argument("--seconds", type=float, default=480, help="of training, without the rest")
    parser.add_argument("--students", default=",".join(s.name for s in STUDENTS))
    parser.add_argument("--rates", type=float, default=1, help="times the students' learning rates")
    parser.add_argument("--save-at", type=float, default=0.7, help="share after which to write")
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--makers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    named = args.students.split(",")
    if unknown := set(named) - {student.name for student in STUDENTS}:
        parser.error(f"there is no student {', '.join(sorted(unknown))}")
    if args.batch_size % PER_VISIT:
        parser.error(f"a batch of {args.batch_size} patches: give a multiple of {PER_VISIT}")
    students = [replace(s, rate=s.rate * args.rates) for s in STUDENTS if s.name in named]
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    images = read_split(args.manifest, "train")
    mix = {name: weight for name, weight in MIX.items() if any(i.set == name for i in images)}
    sampling = Sampling(batch_size=args.batch_size, seed=args.seed, mix=tuple(mix.items()))
    batches = Patches(images, sampling, args.makers)  # processes fork before the GPU is taken
    say(f"{len(images)} images")

    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    args.out.mkdir(parents=True, exist_ok=True)
    learners = [Learner(student, args.start, device) for student in students]
    committee = Committee(TEACHERS, args.start, device)
    say(f"{len(committee.twins)} teachers and {len(learners)} students on {device}")

    start, steps, told, save_at = time.monotonic(), 0, 0.0, args.save_at
    pending: list[list[Any]] = []
    log: dict[str, Any] = {"losses": [], "mix": mix, "batch": sampling.batch_size}
    while (progress := (time.monotonic() - start) / args.seconds) < 1:
        pixels, label, seen, parts, names = batches()
        at = nearest(parts, sampling.size, device)
        said = committee(to_device(pixels, device), MIRRORS[steps % len(MIRRORS)])[at]
        shown, label = to_device(seen, device), to_device(label[..., None], device)[at]
        generous = torch.from_numpy(names == GENEROUS).to(device).reshape(-1, 1, 1, 1)
        losses = []
        for learner in learners:
            aim, weight = aims(learner.student, label, generous, said)
            # A replay overwrites what it told of the step before.
            losses.append(learner.learn(shown, aim, weight, progress).clone())
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
                learner.write(args.out / f"{learner.student.name}_part.weights.h5")
            start += time.monotonic() - stopped
    log["steps"] = steps
    say(f"{steps} steps")
    for learner in learners:
        learner.write(args.out / f"{learner.student.name}.weights.h5")
    (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")
    say("done")


if __name__ == "__main__":
    main()
