"""What libraries raise, in one line."""

import re


class SchedulerGoneError(OSError):
    """The cluster's scheduler no longer answers: nothing more can be computed there."""


def first_line(error: BaseException) -> str:
    """The cause, which GDAL, zarr and Keras put first; the error's type where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def as_options(line: str) -> str:
    """A message of the library, what it says of its arguments said of options."""
    names = "overwrite|resume|gsd|resize_factor|scale|stretch|bands|chunk|nodata|threshold"
    line = re.sub(rf"\b({names})=(?=\d)", lambda found: f"--{found[1]} ", line)
    line = re.sub(rf"^({names}) and ", r"--\1 and ", line)
    line = re.sub(rf"\b(pass|give|give a|smaller|leave out|and|or) ({names})\b", r"\1 --\2", line)
    line = re.sub("^resize_factor", "--resize_factor", line)
    return line.replace("--resize_factor", "--resize-factor")
