"""What libraries raise, in one line."""


def first_line(error: BaseException) -> str:
    """The cause, which GDAL, zarr and Keras put first; the error's type where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__
