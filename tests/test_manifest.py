from pathlib import Path

import pytest

from cloudmask.manifest import Example, read_examples, select_split


@pytest.fixture
def files(tmp_path):
    for name in ("a.png", "b.png", "al.png", "bl.png"):
        (tmp_path / name).touch()
    return tmp_path


def manifest(folder: Path, text: str) -> Path:
    path = folder / "m.csv"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_manifest_and_the_rest_has_defaults(files):
    found = read_examples(
        manifest(
            files,
            "split,image,label,set,gsd_m,scale,scene,notes\n"
            "train,a.png,al.png,s,30,10000,x,hm\nval,b.png,bl.png,,,,,\n",
        )
    )
    a, b = str(files / "a.png"), str(files / "b.png")
    assert found == [
        Example(a, str(files / "al.png"), "train", "x", "s", 30.0, 10000.0),
        Example(b, str(files / "bl.png"), "val", "b.png", "all", None, None),
    ]
    assert select_split(found, "val") == found[1:]
    with pytest.raises(ValueError, match="no image is in split 'test'"):
        select_split(found, "test")


def test_an_image_that_was_signed_twice_is_one_image(files):
    url = "https://x.org/a.tif?se=1&sig="
    rows = "".join(f"{url}{split},l.tif,{split}\n" for split in ("train", "val"))
    with pytest.raises(ValueError, match=r"has https://x.org/a.tif in train and in val"):
        read_examples(manifest(files, f"image,label,split\n{rows}"))


def test_urls_stay_urls(files):
    text = "image,label,split\nhttps://x.org/a.tif,https://x.org/l.tif,train\n"
    assert read_examples(manifest(files, text))[0].image == "https://x.org/a.tif"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,split\n", "no column label"),
        ("image;label;split\n", "commas between, and begins with 'image;label;split'"),
        ('image,label,split\n"' + 150_000 * "a", "is no manifest, line 1: field larger"),
        ("image,label,split\na.png,al.png,val\na.png,al.png,train\n", "a.png in val and in train"),
        ("image,label,split\na.png,al.png,val\n./s/../a.png,al.png,train\n", "in val and in train"),
        ("", "no column image, label, split"),
        ("image,label,split\n", "lists no image"),
        ("image,label,split\na.png,,train\n", "line 2: label is empty"),
        ("image,label,split\na.png,al.png,valid\n", "line 2: split is 'valid'"),
        ("image,label,split,gsd\na.png,al.png,val,ten\n", "line 2: gsd is 'ten'"),
        ("image,label,split,scale\na.png,al.png,val,-1\n", "line 2: scale is '-1'"),
        (
            "image,label,split,scale\na.png,al.png,val,65,535\n",
            "line 2 has 5 fields, the header 4: quote what holds a comma",
        ),
        ("image,label,split,set\na.png,al.png,val,overall\n", "line 2: set is 'overall'"),
        ("image,label,split,split\na.png,al.png,train,val\n", "has column split twice"),
    ],
)
def test_a_wrong_manifest_is_one_line_that_names_the_line(files, text, match):
    with pytest.raises(ValueError, match=match) as caught:
        read_examples(manifest(files, text))
    assert "\n" not in str(caught.value)


def test_all_missing_files_are_listed(files):
    text = "image,label,split\na.png,no1.png,train\nno2.png,bl.png,val\n"
    with pytest.raises(FileNotFoundError, match=r"2 files.*no1\.png.*no2\.png"):
        read_examples(manifest(files, text))


def test_folders_are_matched_by_name_and_split_by_it(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(60):
        (tmp_path / "images" / f"{i}.tif").touch()
        (tmp_path / "labels" / f"{i}.png").touch()
    found = read_examples(tmp_path)
    assert len(found) == 60
    assert all(Path(e.image).stem == Path(e.label).stem for e in found)
    assert {e.split for e in found} == {"train", "val"}
    assert 3 <= len(select_split(found, "val")) <= 24
    (tmp_path / "images" / "61.tif").touch()  # what was there stays in its split
    with pytest.raises(ValueError, match="image without label or label without image: 61"):
        read_examples(tmp_path)
    (tmp_path / "labels" / "61.png").touch()
    assert [e for e in read_examples(tmp_path) if not e.image.endswith("61.tif")] == found
    (tmp_path / "images" / "61.png").touch()
    with pytest.raises(ValueError, match=r"two files of one name \(61\.png, 61\.tif\)"):
        read_examples(tmp_path)
    (tmp_path / "images" / "61.png").unlink()
    for name in ("61.IMD", "61.shp", "desktop.ini", "61.tif.aux.xml"):
        (tmp_path / "images" / name).touch()
    assert len(read_examples(tmp_path)) == 61
    (tmp_path / "images" / "61.zarr").mkdir()
    with pytest.raises(ValueError, match=r"two files of one name \(61\.tif, 61\.zarr\)"):
        read_examples(tmp_path)
    (tmp_path / "images" / "61.zarr").rename(tmp_path / "images" / "train")
    with pytest.raises(ValueError, match=r"images holds a folder, train: put its files there"):
        read_examples(tmp_path)


def test_names_that_are_no_utf_8_are_matched_too(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a\udcff.png").touch()
    (found,) = read_examples(tmp_path)
    assert found.scene == "a\udcff"
    with pytest.raises(ValueError, match=r"only in val: .* parts of the only one: vrt://FILE\?src"):
        select_split([found], "train")


def test_parts_of_a_file_lie_beside_the_manifest(files, monkeypatch):
    text = 'image,label,split\n"vrt://a.png?srcwin=0,0,9,9","vrt://al.png?srcwin=0,0,9,9",val\n'
    (part,) = read_examples(manifest(files, text))
    assert part.scene == "a.png"
    assert part.image == f"vrt://{files}/a.png?srcwin=0,0,9,9"
    assert part.label == f"vrt://{files}/al.png?srcwin=0,0,9,9"
    monkeypatch.chdir(files)
    assert read_examples("m.csv") == [part]
    with pytest.raises(FileNotFoundError, match=r"1 files .* do not exist: .*/none\.png"):
        read_examples(manifest(files, text.replace("//a.png", "//none.png")))


def test_scenes_of_one_name_in_two_sets_are_two(files, caplog):
    text = "image,label,split,scene,set\na.png,al.png,train,1,A\nb.png,bl.png,val,1,{}\n"
    read_examples(manifest(files, text.format("B")))
    assert not caplog.records
    read_examples(manifest(files, text.format("A")))
    assert "images of one scene in several splits (1)" in caplog.text


def test_a_url_of_this_machine_is_the_file_that_it_names(files):
    text = f"image,label,split\nfile://{files}/a.png,al.png,train\na.png,al.png,val\n"
    with pytest.raises(ValueError, match=r"a\.png in train and in val"):
        read_examples(manifest(files, text))
    with pytest.raises(FileNotFoundError, match=r"1 files .*/c\.png"):
        read_examples(manifest(files, f"image,label,split\nfile://{files}/c.png,al.png,val\n"))


def test_spaces_around_commas_are_no_part_of_what_is_between(files):
    text = "image , label, split,set\na.png , al.png, train , mine \n"
    (found,) = read_examples(manifest(files, text))
    assert (found.split, found.set) == ("train", "mine")


def test_of_few_images_in_folders_one_validates(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for stem in "ab":  # neither is in the fifth that validates
            (tmp_path / name / f"{stem}.png").touch()
        for beside in ("a.pgw", "a.png.aux.xml", "b.png.ovr", "a.hdr", "README.txt", "Thumbs.db"):
            (tmp_path / name / beside).touch()
    assert sorted(e.split for e in read_examples(tmp_path)) == ["train", "val"]


def test_what_is_no_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read_examples(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="images does not exist"):
        read_examples(tmp_path)


def test_a_scene_in_two_splits_is_told_of(files, caplog):
    text = "image,label,split,scene\na.png,al.png,train,A\nb.png,bl.png,{},A\n"
    read_examples(manifest(files, text.format("train")))
    assert not caplog.messages
    read_examples(manifest(files, text.format("val")))
    (said,) = caplog.messages
    assert "has images of one scene in several splits (A): " in said


def test_an_image_that_is_listed_again_counts_once(files, caplog):
    rows = ("a.png,al.png", "./s/../a.png,al.png", "a.png,bl.png", "b.png,bl.png")
    (files / "s").mkdir()
    sets = ("s", "s", "s", "s", "other")
    rows = [f"{row},train,{name}\n" for row, name in zip((*rows, rows[0]), sets, strict=True)]
    found = read_examples(manifest(files, "image,label,split,set\n" + "".join(rows)))
    named = [(Path(e.image).name, Path(e.label).name, e.set) for e in found]
    assert named == [
        ("a.png", "al.png", "s"),
        ("a.png", "bl.png", "s"),
        ("b.png", "bl.png", "s"),
        ("a.png", "al.png", "other"),
    ]
    (said,) = caplog.messages
    assert "lists images again, with the same label and set: 1 left out" in said


def test_spaces_after_names_of_columns_and_splits_are_nothing(files):
    (one,) = read_examples(manifest(files, "image ,label, split \na.png,al.png,train \n"))
    assert one.split == "train"
