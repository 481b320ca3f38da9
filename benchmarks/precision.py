"""Ask what precision, a pool for tensors and the size of chunks do to speed and memory.

    python benchmarks/precision.py FOLDER [--short] [--side 4096] [--runs 3]

The U-Net at the scene's own pixels, from file to COG, network loaded before. One thing at a time is
other than by default.
"""

import os
import time
from functools import partial
from typing import Any

from measuring import alternate, apart, options, report, sample


def work(scene: str, mask: str, precision: str | None, chunk: int, pool: bool) -> dict[str, Any]:
    """Segment a scene; `pool`: TensorFlow keeps the memory of tensors, instead of malloc."""
    from cloudmask import load_model, open_scene, segment, write_cog

    if not pool:  # neither ours nor, on CPUs with VNNI or AMX, its own
        os.environ |= {"TF_CPU_ALLOCATOR_USE_BFC": "0", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
    model = load_model("unet-f1", precision=precision)
    pixels = open_scene(scene, chunk=chunk)
    segment(pixels[:, :64, :64], model).compute()
    begun = time.perf_counter()
    write_cog(segment(pixels, model), mask, overwrite=True)
    seconds = time.perf_counter() - begun
    return {"work_seconds": seconds, "mpx_per_second": pixels[0].size / 1e6 / seconds}


def main() -> None:
    """Run the benchmark."""
    asked = options(__doc__, side=(4_096, 1_024))
    scene, mask = sample(asked.folder, asked.side), asked.folder / "mask.tif"
    usual: dict[str, Any] = {"precision": None, "chunk": 5120, "pool": True}
    cases: dict[str, dict[str, Any]] = {
        "default: the machine's precision, chunks of 5,120, a pool": {},
        "float32": {"precision": "float32"},
        "bfloat16": {"precision": "bfloat16"},
        "no pool": {"pool": False},
        "float32, no pool": {"precision": "float32", "pool": False},
        **{f"chunks of {side:,}": {"chunk": side} for side in (512, 1024, 2048)},
    }
    contestants = {
        name: partial(apart, work, scene=scene, mask=mask, **usual | case)
        for name, case in cases.items()
    }
    report(__file__, __doc__, asked, alternate(contestants, asked.runs))


if __name__ == "__main__":
    main()
