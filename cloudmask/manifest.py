"""Labelled images: which there are, from a manifest or from two folders."""

import csv
import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudmask.paths import is_local, is_zarr, resolved, unsigned, without_part, without_scheme

logger = logging.getLogger(__name__)

OVERALL = "overall"
"""What all sets together are called in tables."""
SPLITS = ("train", "val", "test")
_COLUMNS = ("image", "label", "split")
_PART = "vrt://"
_SIDECARS = (
    ".xml", ".ovr", ".msk", ".aux", ".hdr", ".prj", ".wld", ".tfw", ".tifw", ".pgw", ".pgwx",
    ".jgw", ".jgwx", ".txt", ".md", ".csv", ".json", ".db", ".ini", ".imd", ".rpb",
    ".geojson", ".gpkg", ".kml", ".shp", ".shx", ".dbf", ".cpg", ".qix", ".qgz", ".qml",
)  # fmt: skip
"""Of files that lie beside an image: GDAL reads them, a GIS, or nobody."""


@dataclass(frozen=True)
class Example:
    """An image and its label."""

    image: str
    """Path or URL of anything that `open_scene` opens."""
    label: str
    """Path or URL of its label, on the same grid."""
    split: str
    """"train", "val" or "test"."""
    scene: str
    """What it was cut from: neighbours depend on each other. Default: the image, or its whole."""
    set: str
    """Data set that it belongs to, for balanced sampling and for tables of scores."""
    gsd: float | None = None
    """Ground sample distance in metres, where known."""
    scale: float | None = None
    """Value that maps to 255; None: the image is uint8, or the caller's scale holds."""


def read_examples(path: str | Path) -> list[Example]:
    """Read a manifest, or match the files of two folders by name.

    Parameters
    ----------
    path : str or Path
        CSV file with the columns image, label and split (train, val, test) and, where wanted,
        scene, set, gsd (metres, also gsd_m) and scale; paths are relative to it, and
        ``vrt://FILE?srcwin=X,Y,WIDTH,HEIGHT`` is a part of a file. Or a folder that
        holds ``images/`` and ``labels/``: a fifth of the images, chosen by the hash of their
        names, validates, and one of them at least.

    Returns
    -------
    list of Example
        In the order of the manifest, or of the names; an image and its label once in a set.

    Raises
    ------
    ValueError
        No such columns, another split, a number that is none, images without label, an image in
        two splits.
    FileNotFoundError
        The path, or files that the manifest names: all of them are listed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a manifest, or a folder with images/")
    examples = _match_folders(path) if path.is_dir() else _read_csv(path)
    files = [without_part(file) for example in examples for file in (example.image, example.label)]
    missing = [file for file in dict.fromkeys(files) if is_local(file) and not Path(file).exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} files that {path} names do not exist: {', '.join(missing)}"
        )
    return examples


def select_split(examples: Sequence[Example], split: str) -> list[Example]:
    """The examples of one split; a ValueError if there are none."""
    chosen = [example for example in examples if example.split == split]
    if not chosen:
        others = sorted({example.split for example in examples})
        cure = "name some in a manifest"
        if len(examples) == 1:
            cure += ", such as parts of the only one: vrt://FILE?srcwin=X,Y,WIDTH,HEIGHT"
        raise ValueError(f"no image is in split {split!r}, only in {', '.join(others)}: {cure}")
    return chosen


def _read_csv(path: Path) -> list[Example]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no manifest: it is not text in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        if twice := sorted({name for name in names if name and names.count(name) > 1}):
            raise ValueError(f"{path} has column {', '.join(twice)} twice: leave one of each")
        absent = [column for column in _COLUMNS if column not in names]
        if absent:
            raise ValueError(
                f"{path} has no column {', '.join(absent)}: it needs {', '.join(_COLUMNS)}, with "
                f"commas between, and begins with {','.join(names)[:80]!r}"
            )
        examples = [_example(row, path.parent, f"{path}, line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path} is no manifest, line {reader.line_num}: {error}") from error
    if not examples:
        raise ValueError(f"{path} lists no image")
    splits: dict[tuple[str, str], set[str]] = {}
    for example in examples:
        splits.setdefault((example.set, example.scene), set()).add(example.split)
    if shared := [unsigned(scene) for (_, scene), among in splits.items() if len(among) > 1]:
        named = ", ".join(shared[:3]) + " …" * (len(shared) > 3)
        logger.warning(
            "%s has images of one scene in several splits (%s): what was trained on a neighbour "
            "scores too well", path, named,
        )  # fmt: skip
    split_of: dict[str, str] = {}
    once: dict[tuple[str, str, str], Example] = {}
    for example in examples:
        image, label = (unsigned(resolved(name)) for name in (example.image, example.label))
        once.setdefault((image, label, example.set), example)
        other = split_of.setdefault(image, example.split)
        if other != example.split:
            raise ValueError(
                f"{path} has {image} in {other} and in {example.split}: leave it in one, "
                "what was trained on scores too well"
            )
    if again := len(examples) - len(once):
        logger.warning(
            "%s lists images again, with the same label and set: %d left out", path, again
        )
    return list(once.values())


def _example(row: dict[str | None, str], folder: Path, where: str) -> Example:
    if None in row:  # what csv has for fields without a name
        raise ValueError(
            f"{where} has {len(row) - 1 + len(row[None])} fields, the header {len(row) - 1}: quote "
            "what holds a comma"
        )
    row = {name: value.strip() for name, value in row.items() if value is not None}
    for column in _COLUMNS:
        if not row.get(column):
            raise ValueError(f"{where}: {column} is empty")
    split = row["split"]
    if split not in SPLITS:
        raise ValueError(f"{where}: split is {split!r}: it must be {', '.join(SPLITS)}")
    if row.get("set") == OVERALL:
        raise ValueError(f"{where}: set is {OVERALL!r}, as all sets together are called: rename it")
    return Example(
        image=_located(row["image"], folder),
        label=_located(row["label"], folder),
        split=split,
        scene=row.get("scene") or without_part(row["image"]),
        set=row.get("set") or "all",
        gsd=_number(row.get("gsd") or row.get("gsd_m"), "gsd", where),
        scale=_number(row.get("scale"), "scale", where),
    )


def _located(name: str, folder: Path) -> str:
    name = without_scheme(name).replace("\0", "�")  # which is in no name of a file
    if name.startswith(_PART):  # GDAL's name for a part of a file
        file, mark, part = name.removeprefix(_PART).partition("?")
        return _PART + resolved(_located(file, folder)) + mark + part
    return str(folder / name) if is_local(name) else name


def _number(text: str | None, column: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{where}: {column} is {text!r}: give a number above 0, or nothing")
    return value


def _match_folders(folder: Path) -> list[Example]:
    images, labels = (_by_stem(folder / name) for name in ("images", "labels"))
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        raise ValueError(
            f"{folder}: image without label or label without image: {', '.join(alone)}"
        )
    hashes = {
        stem: hashlib.sha256(stem.encode(errors="surrogateescape")).digest() for stem in images
    }
    # Of few images none may be in that fifth: one is, all the same.
    first = min(hashes, key=hashes.__getitem__)
    validating = {stem for stem, found in hashes.items() if found[0] % 5 == 0} or {first}
    return [
        Example(
            image=str(images[stem]),
            label=str(labels[stem]),
            split="val" if stem in validating else "train",
            scene=stem,
            set="all",
        )
        for stem in sorted(images)
    ]


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist: put images/ and labels/ there")
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() in _SIDECARS:
            continue
        if path.is_dir() and not is_zarr(str(path)):
            raise ValueError(
                f"{folder} holds a folder, {path.name}: put its files there, or write a manifest"
            )
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"{folder} holds two files of one name ({other.name}, {path.name}): keep one of "
                "them there"
            )
    if not by_stem:
        raise ValueError(f"{folder} is empty")
    return by_stem
