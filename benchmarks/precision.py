"""Ask what precision, malloc's settings and the size of chunks do to speed and memory.

    python benchmarks/precision.py FOLDER [--short] [--side 4096] [--runs 3]

The U-Net at the scene's own pixels, from file to COG, network loaded before. One thing at a time is
other than by default.
"""

import time
from functools import partial
from typing import Any

from measuring import alternate, apart, options, report, sample


def work(scene: str, mask: str, precision: str | None, chunk: int, keep: bool) -> dict[str, Any]:
    """Segment a scene; `keep`: malloc keeps what is freed, as the command asks it to."""
    from cloudmask import load_model, open_scene, segment, write_cog
    from cloudmask.memory import keep_freed_memory

    if keep:
        keep_freed_memory()
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
    usual: dict[str, Any] = {"precision": None, "chunk": 5120, "keep": True}
    cases: dict[str, dict[str, Any]] = {
        "default: the machine's precision, chunks of 5,120, freed memory kept": {},
        "float32": {"precision": "float32"},
        "bfloat16": {"precision": "bfloat16"},
        "freed memory given back": {"keep": False},
        "float32, freed memory given back": {"precision": "float32", "keep": False},
        **{f"chunks of {side:,}": {"chunk": side} for side in (512, 1024, 2048)},
    }
    contestants = {
        name: partial(apart, work, scene=scene, mask=mask, **usual | case)
        for name, case in cases.items()
    }
    report(__file__, __doc__, asked, alternate(contestants, asked.runs))


if __name__ == "__main__":
    main()
