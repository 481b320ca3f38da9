"""Paths and URLs, told apart, and what is read from small files."""

import json
import os
import re
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, quote, unquote, urlsplit

_SIGNING = ("x-amz-", "x-goog-", "x-oss-", "q-")
"""How parameters of URLs begin that Amazon, Google, Alibaba or Tencent signed."""
_SECRET = ("token", "access_token", "api_key", "apikey", "subscription-key")
"""Parameters by which other servers know who asks."""
_BESIDE = {
    # https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas
    "sig": "sv ss srt st se sp sr si sip spr ses sdd saoid suoid scid skoid sktid skt ske sks skv",
    # CloudFront's, and Amazon's and Google's before
    "signature": "expires policy key-pair-id awsaccesskeyid googleaccessid ossaccesskeyid",
}
"""By the name of a signature, parameters that come with it."""
_VSICURL = "/vsicurl?"


def is_zarr(path: str | Path) -> bool:
    """Whether a path or URL names a Zarr store: by its ending, in any case."""
    return str(path).rstrip("/").lower().endswith(".zarr")


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL, such as s3://bucket/mask.zarr."""
    return "://" in str(path)


def is_local(path: str | Path) -> bool:
    """Whether a path names what this machine's file system holds: no URL, no GDAL's /vsi… path."""
    return not is_remote(path) and not str(path).startswith("/vsi")


def without_scheme(path: str) -> str:
    """The path of a file:// URL; all else as it is."""
    return unquote(urlsplit(path).path) if path.lower().startswith("file://") else path


def locate(path: str | Path) -> Path:
    """A path, also of a file:// URL, or for another URL what has the methods of one."""
    from upath import UPath  # takes a tenth of a second

    path = without_scheme(str(path))
    if not is_remote(path):
        return Path(path)
    # What is there is asked anew: other processes and a cluster's workers write there, too.
    return cast("Path", UPath(path, use_listings_cache=False))


def unsigned(path: str) -> str:
    """A URL without its user and signature: these name no file, and change from day to day."""
    if path.startswith(_VSICURL):  # https://gdal.org/user/virtual_file_systems: headers, passwords
        (named,) = parse_qs(path.removeprefix(_VSICURL)).get("url", [""])[:1]
        return f"{_VSICURL}url={quote(unsigned(named))}"
    if prefix := re.match(r"(vrt://|/vsi\w+/)+", path):
        return prefix[0] + unsigned(path.removeprefix(prefix[0]))
    if not is_remote(path):
        return path
    url = urlsplit(path)
    items = url.query.split("&")
    names = [item.partition("=")[0].lower() for item in items]
    signing = {sign for sign in _BESIDE if sign in names}
    signing |= {name for sign in signing for name in _BESIDE[sign].split()}
    kept = [
        item
        for item, name in zip(items, names, strict=True)
        if name not in signing and name not in _SECRET and not name.startswith(_SIGNING)
    ]
    user, at, _ = url.netloc.rpartition("@")
    if kept == items and not at:
        return path  # as it was written
    return url._replace(netloc=url.netloc.removeprefix(user + at), query="&".join(kept)).geturl()


def unsigned_in(line: str) -> str:
    """A line for people or logs, its URLs as `unsigned` leaves them."""

    def without(found: re.Match[str]) -> str:
        try:
            return unsigned(found[0])
        except ValueError:  # it is no URL
            return found[0]

    return re.sub(r"(\w+://|/vsicurl\?)\S*[^\s'\":;,.)]", without, line)


def path_in(name: str) -> str:
    """The path in the name of a scene, without what URLs and GDAL's names have beside it."""
    name = without_scheme(unsigned(name))
    if _VSICURL in name:
        (name,) = parse_qs(name.partition(_VSICURL)[2]).get("url", [""])[:1]
    name = without_part(name)
    return urlsplit(name).path if is_remote(name) else name


def without_part(name: str) -> str:
    """The file of which a name of GDAL's, vrt://FILE?…, names a part; all else as it is."""
    return name.removeprefix("vrt://").partition("?")[0] if name.startswith("vrt://") else name


def resolved(path: str) -> str:
    """The one name of what a local path names; a URL as it is."""
    # Not Path.resolve, which raises what is no OSError of a link that leads back to itself.
    return os.path.realpath(path) if is_local(path) else path


def is_same(one: str, other: str) -> bool:
    """Whether two paths or URLs name one file, whatever links lead to it or who signed it."""

    def named(path: str) -> str:
        name = unsigned(resolved(without_scheme(path))).rstrip("/")
        return re.sub(r"^/vsi(s3|gs|az)/", r"\1://", name.removeprefix("/vsicurl/"))

    return named(one) == named(other)


def destination(path: str | Path) -> Path:
    """What `locate` gives, but of a link what it stands for: that is replaced, not the link."""
    place = locate(path)
    if is_remote(place) or not place.is_symlink():
        return place
    try:
        return place.resolve()
    except (OSError, RuntimeError) as error:  # by version of Python
        raise OSError(f"{path} is a link that leads back to itself: remove it") from error


def has_keys(path: Path, *needed: str) -> bool:
    """Whether a file of JSON is one of ours: others have files of such names, too."""
    try:
        return bool(read_json(path, *needed, cure=""))
    except (OSError, ValueError):
        return False


def read_json(path: Path, *needed: str, cure: str) -> dict[str, Any]:
    """An object from a file of JSON; a ValueError with the cure if it lacks one of its keys."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(needed):
        raise ValueError(f"{path} is damaged: {cure}")
    return found
