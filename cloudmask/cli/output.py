"""What every command prints the same way."""

import json
import logging
import re
import warnings
from typing import Any


def print_json(value: Any) -> None:
    """On stdout; NaN as null."""
    from cloudmask.write import without_nan

    print(json.dumps(without_nan(value), indent=2, ensure_ascii=False))


def log_to_stderr(*, quiet: bool) -> None:
    """A line for each thing a user should know; if quiet, only what went wrong."""
    # The library says it once, in words that tell what follows.
    warnings.filterwarnings(
        "ignore", message="Dataset has no geotransform|The given matrix is equal"
    )
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("cloudmask: %(message)s"))
    logger = logging.getLogger("cloudmask")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.ERROR if quiet else logging.INFO)


def as_options(line: str) -> str:
    """A message of the library, what it says of its arguments said of options."""
    names = "overwrite|resume|gsd|resize_factor|scale|stretch|bands|chunk|nodata|threshold"
    line = re.sub(rf"\b({names})=(?=\d)", lambda found: f"--{found[1]} ", line)
    line = re.sub(rf"\b(pass|give|give a|leave out|and|or) ({names})\b", r"\1 --\2", line)
    return line.replace("--resize_factor", "--resize-factor")
