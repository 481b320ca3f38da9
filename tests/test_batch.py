"""Many scenes by one command: what fails, what is kept, what the summary says."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
import xarray as xr
import zarr

from cloudmask import batch, load_model, write_cog
from cloudmask.batch import _COLUMNS, check_summary, find_scenes, name_outputs, segment_many
from cloudmask.errors import SchedulerGoneError
from cloudmask.notes import facts_of
from cloudmask.paths import is_same, unsigned, unsigned_in
from cloudmask.report import CloudCover
from cloudmask.sample import write_sample


def run(*arguments, cwd, check=0):
    done = subprocess.run(
        [sys.executable, "-m", "cloudmask", "segment", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, check=False,
    )  # fmt: skip
    assert done.returncode == check, done.stderr
    return done


def segment(_, output):
    """What makes a mask of a scene, for `segment_many`."""
    output.write_text("mask")
    return CloudCover(3, 1, 0)


def summary(folder):
    with (folder / "summary.csv").open() as file:
        return {Path(row["scene"]).name: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three scenes of which the second is broken."""
    folder = tmp_path_factory.mktemp("scenes")
    for i, name in enumerate("abc"):
        write_sample(folder / f"{name}.tif", size=(256, 300), seed=i)
        (folder / f"{name}_label.tif").unlink()
    (folder / "b.tif").write_bytes((folder / "b.tif").read_bytes()[:5000])
    return folder


def test_one_bad_scene_does_not_stop_the_others(scenes, tmp_path):
    done = run("*.tif", "--out-dir", tmp_path / "out", cwd=scenes, check=1)
    assert "1 of 3 scenes failed" in done.stderr
    rows = summary(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.tif": "done", "b.tif": "failed", "c.tif": "done",
    }  # fmt: skip
    assert rows["b.tif"]["error"]
    assert "\n" not in rows["b.tif"]["error"]
    assert 0 <= float(rows["a.tif"]["cloud_percent"]) <= 100
    made = sorted(path.name for path in (tmp_path / "out").glob("*.tif"))
    assert made == ["a.tif", "c.tif"]

    run("*.tif", "--out-dir", tmp_path / "beside", "--workers", 2, cwd=scenes, check=1)
    for name in made:
        assert (tmp_path / "beside" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert [*summary(tmp_path / "beside")] == ["a.tif", "b.tif", "c.tif"]

    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in made}
    run("*.tif", "--out-dir", tmp_path / "out", "--resume", "--json", cwd=scenes, check=1)
    assert {n: r["status"] for n, r in summary(tmp_path / "out").items()} == {
        "a.tif": "kept", "b.tif": "failed", "c.tif": "kept",
    }  # fmt: skip
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in made} == before
    # Other options make other masks: what is there is not taken for them, nor replaced unasked.
    run("a.tif", "--out-dir", tmp_path / "out", "--resume", "--threshold", 0.9, cwd=scenes, check=1)
    own = load_model().threshold
    assert f"another threshold ({own}, now 0.9)" in summary(tmp_path / "out")["a.tif"]["error"]
    assert [*summary(tmp_path / "out")] == ["b.tif", "c.tif", "a.tif"]
    again = run(
        "a.tif", "--out-dir", tmp_path / "out", "--threshold", 0.9, "--overwrite", "--json",
        cwd=scenes,
    )  # fmt: skip
    assert [outcome["status"] for outcome in json.loads(again.stdout)] == ["done"]


def test_a_killed_batch_is_resumed(scenes, tmp_path, start):
    command = [sys.executable, "-m", "cloudmask", "segment", "a.tif", "c.tif"]
    command += ["--out-dir", str(tmp_path / "out"), "--resume"]
    process = start(command, cwd=scenes, stdout=subprocess.DEVNULL)
    process.until((tmp_path / "out" / "summary.csv").exists)
    process.kill()
    process.wait()
    run(*command[4:], cwd=scenes)
    rows = summary(tmp_path / "out")
    assert rows["a.tif"]["status"] == "kept"
    assert rows["c.tif"]["status"] in ("done", "kept")


def test_a_mask_that_was_put_where_a_scene_failed_is_kept(scenes, tmp_path):
    out = tmp_path / "out"
    run("b.tif", "--out-dir", out, cwd=scenes, check=1)
    (out / "b.tif").write_text("made by somebody else")
    run("b.tif", "--out-dir", out, "--resume", cwd=scenes, check=1)
    assert (out / "b.tif").read_text() == "made by somebody else"


def test_what_was_made_with_overwrite_is_kept_by_resume(scenes, tmp_path):
    run("a.tif", "--out-dir", tmp_path, "--overwrite", cwd=scenes)
    run("a.tif", "--out-dir", tmp_path, "--resume", cwd=scenes)
    assert summary(tmp_path)["a.tif"]["status"] == "kept"
    run("a.tif", "--out-dir", tmp_path, "--resume", "--precision", "float32", cwd=scenes, check=1)
    assert "another precision (None, now float32)" in summary(tmp_path)["a.tif"]["error"]


def test_a_list_may_have_comments_blank_lines_and_duplicates(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "b.tif").touch()
    (tmp_path / "list.txt").write_text(
        f"# scenes\n\n{tmp_path}/a.tif\n  {tmp_path}/a.tif  \nhttps://x.org/c.tif\n"
    )
    found = find_scenes([str(tmp_path / "list.txt"), str(tmp_path / "?.tif")])
    assert found == [f"{tmp_path}/a.tif", "https://x.org/c.tif", f"{tmp_path}/b.tif"]
    with pytest.raises(FileNotFoundError, match=r"\*\.jp2 matches nothing"):
        find_scenes([str(tmp_path / "*.jp2")])
    (tmp_path / "a[1].tif").touch()
    assert find_scenes([str(tmp_path / "a[1].tif")]) == [f"{tmp_path}/a[1].tif"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.tif\r\n\r\nb.tif\r\n")
    assert find_scenes([str(tmp_path / "list.txt")]) == ["a.tif", "b.tif"]
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(FileNotFoundError, match="names no scene"):
        find_scenes([str(tmp_path / "list.txt")])


def test_a_name_in_a_list_ends_with_its_line(tmp_path):
    (tmp_path / "list.txt").write_text("a\u2028b.tif\r\nc.tif\n")
    assert find_scenes([str(tmp_path / "list.txt")]) == ["a\u2028b.tif", "c.tif"]


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"the list https://h\.org/l\.txt is a URL"):
        find_scenes(["https://h.org/l.txt"])
    with pytest.raises(FileNotFoundError, match=r"the list .*none\.txt does not exist"):
        find_scenes([str(tmp_path / "none.txt")])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"the list .*binary\.txt is not text in UTF-8"):
        find_scenes([str(tmp_path / "binary.txt")])


def test_scenes_of_one_name_have_those_of_their_folders():
    """Providers name all scenes alike: visual.tif, TCI.jp2."""
    scenes = ["p/x/a.tif", "b.tif", "y/a.jp2", "q/x/a.tif", "https://h.org/z/a.tif?sig=y/a.tif"]
    names = ["p_x_a.tif", "b.tif", "y_a.tif", "q_x_a.tif", "z_a.tif"]
    assert name_outputs(scenes, Path("out")) == [Path("out", name) for name in names]
    # a scene that is called as another would be is told from it, too
    names = name_outputs(["x/a.tif", "y/a.tif", "z/x_a.tif"], Path("out"))
    assert len(set(names)) == 3


def test_two_scenes_that_differ_in_their_ending_alone_are_refused():
    with pytest.raises(ValueError, match=r"x/a\.tif and x/a\.jp2 would become the same file"):
        name_outputs(["x/a.tif", "b.tif", "x/a.jp2"], Path("out"))


def test_a_scene_that_changed_is_done_again(tmp_path):
    scene, out = tmp_path / "s.tif", tmp_path / "out" / "s.tif"
    out.parent.mkdir()

    def statuses(options=None):
        many = segment_many([str(scene)], [out], segment, options or {}, resume=True)
        return [outcome.status for outcome in many]

    scene.write_text("one")
    assert statuses() == ["done"]
    assert statuses() == ["kept"]
    assert statuses({"threshold": 0.7}) == ["done"]
    scene.write_text("another")
    assert statuses({"threshold": 0.7}) == ["done"]
    out.unlink()
    assert statuses({"threshold": 0.7}) == ["done"]


def test_a_vrt_whose_file_changed_is_done_again(make_scene, tmp_path, rng):
    vrt, out = tmp_path / "s.vrt", tmp_path / "out" / "s.tif"
    out.parent.mkdir()

    def status():
        (outcome,) = segment_many([str(vrt)], [out], segment, {}, resume=True)
        return outcome.status

    path = make_scene(rng.integers(0, 255, (3, 8, 8), "uint8"))
    rasterio.shutil.copy(path, vrt, driver="VRT")
    assert [status(), status()] == ["done", "kept"]
    make_scene(rng.integers(0, 255, (3, 8, 8), "uint8"))
    assert status() == "done"
    vrt.write_text("damaged")  # one bad scene stops no others
    assert status() == "done"


def test_a_mosaic_of_any_name_is_done_again_where_a_file_in_it_changed(make_scene, tmp_path, rng):
    part = make_scene(rng.integers(0, 255, (3, 8, 8), "uint8"))
    rasterio.shutil.copy(part, tmp_path / "s.vrt", driver="VRT")
    mosaic = (tmp_path / "s.vrt").rename(tmp_path / "mosaic.xml")
    before = facts_of(str(mosaic), {})
    assert facts_of(str(mosaic), {}) == before
    make_scene(rng.integers(0, 255, (3, 8, 8), "uint8"))
    assert facts_of(str(mosaic), {}) != before


def test_a_store_is_done_again_where_a_chunk_changed_and_not_where_it_was_copied(tmp_path, rng):
    scene = xr.DataArray(rng.integers(0, 255, (3, 64, 64), "uint8"), dims=("band", "y", "x"))
    scene.to_dataset(name="scene").to_zarr(tmp_path / "s.zarr", consolidated=False)
    before = facts_of(str(tmp_path / "s.zarr"), {})
    shutil.copytree(tmp_path / "s.zarr", tmp_path / "copy")
    shutil.rmtree(tmp_path / "s.zarr")
    (tmp_path / "copy").rename(tmp_path / "s.zarr")
    assert facts_of(str(tmp_path / "s.zarr"), {}) == before
    zarr.open(tmp_path / "s.zarr/scene", mode="r+")[:, :8] = 0
    assert facts_of(str(tmp_path / "s.zarr"), {}) != before


def test_a_note_that_tells_other_things_does_not_end_in_them(tmp_path):
    """As one of another version may."""
    scene, out = tmp_path / "s.tif", tmp_path / "out" / "s.tif"
    out.parent.mkdir()
    scene.write_text("one")

    def segment(_, output):
        if output.exists():
            raise FileExistsError(f"{output} exists: pass overwrite")
        output.write_text("mask")
        return CloudCover(3, 1, 0)

    (first,) = segment_many([str(scene)], [out], segment, {})
    note = out.parent / ".cloudmask" / "s.tif.json"
    note.write_text(note.read_text().replace("seconds", "duration"))
    (second,) = segment_many([str(scene)], [out], segment, {}, resume=True)
    assert (first.status, second.status) == ("done", "failed")
    assert second.error == f"{out} exists: pass --overwrite"


def test_a_scheduler_that_goes_ends_the_batch(tmp_path):
    """Each scene to come would fail of it."""
    asked = []

    def segment(scene, _):
        asked.append(scene)
        raise SchedulerGoneError("the scheduler is gone")

    outputs = [tmp_path / name for name in ("a.tif", "b.tif")]
    with pytest.raises(SchedulerGoneError):
        list(segment_many(["a.tif", "b.tif"], outputs, segment, {}))
    assert asked == ["a.tif"]
    assert not (tmp_path / "summary.csv").exists()


def test_a_pipe_among_scenes_is_refused_as_alone(scenes, tmp_path):
    os.mkfifo(tmp_path / "p.tif")
    done = run("a.tif", tmp_path / "p.tif", "--out-dir", tmp_path / "out", cwd=scenes, check=1)
    assert "1 of 2 scenes failed" in done.stderr
    assert "is a pipe or a device" in summary(tmp_path / "out")["p.tif"]["error"]


def test_a_pattern_of_urls_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"s3://b/in/\*\.tif is a pattern of URLs: list what it"):
        find_scenes(["s3://b/in/*.tif"])
    signed = "http://h/a.tif?hdnts=exp=1~acl=/*~hmac=ab"
    assert find_scenes([signed]) == [signed]


def test_a_table_that_is_no_summary_is_left_alone(make_scene, rng, tmp_path):
    scene = make_scene(rng.integers(0, 255, (3, 64, 64), "uint8"))
    (tmp_path / "summary.csv").write_text("my,own\n1,2\n")
    said = run(scene, "--out-dir", tmp_path, cwd=tmp_path, check=2).stderr
    cure = "move it, or name another folder"
    assert said == f"cloudmask: {tmp_path}/summary.csv is no summary of a batch: {cure}\n"
    assert (tmp_path / "summary.csv").read_text() == "my,own\n1,2\n"
    for broken in (f"{','.join(_COLUMNS)}\nx\n", "long\n" + "x" * 200_000):
        (tmp_path / "summary.csv").write_text(broken)
        with pytest.raises(FileExistsError, match="no summary of a batch"):
            check_summary(tmp_path / "summary.csv")


def test_a_summary_is_not_written_anew_for_each_of_many_scenes(tmp_path, monkeypatch):
    scenes = [f"{i}.tif" for i in range(40)]
    for name in scenes:
        (tmp_path / name).write_text("scene")
    written = []
    monkeypatch.setattr(batch, "_write_summary", lambda _, rows: written.append(len(rows)))
    monkeypatch.setattr(batch, "_BETWEEN", 1e9)
    paths = [str(tmp_path / name) for name in scenes]
    (tmp_path / "out").mkdir()
    outputs = [tmp_path / "out" / name for name in scenes]
    assert len(list(segment_many(paths, outputs, segment, {}))) == 40
    assert written == [1, 40]


def test_a_url_is_named_without_what_signs_it():
    (output,) = name_outputs(["https://h.org/a.tif?sv=2020.01&sig=x.c"], Path("out"))
    assert output == Path("out/a.tif")
    signed = "header.Authorization=Bearer%20secret&url=https%3A%2F%2Fh.org%2F"
    scenes = [
        f"/vsicurl?{signed}b.tif",
        f"/vsizip//vsicurl?{signed}c.zip/d.tif",
        "vrt://e.tif?bands=1",
    ]
    assert find_scenes(scenes) == scenes
    assert name_outputs(scenes, Path("out")) == [Path(f"out/{name}.tif") for name in "bde"]
    assert "secret" not in unsigned(scenes[1])


@pytest.mark.parametrize(
    ("signed", "plain"),
    [
        ("https://h.org/a.tif?sv=2020&se=27&sp=r&sig=a%2Fb", "https://h.org/a.tif"),
        ("https://h.org/a.tif?versionId=7&X-Amz-Date=1&X-Amz-Signature=b", "https://h.org/a.tif?versionId=7"),
        ("https://h.org/a.tif?Expires=1&Signature=a~b&Key-Pair-Id=c&id=2", "https://h.org/a.tif?id=2"),
        ("https://ann:secret@h.org:81/a.tif", "https://h.org:81/a.tif"),
        ("/vsicurl/https://h.org/a.tif?x-goog-signature=c", "/vsicurl/https://h.org/a.tif"),
        ("https://h.org/a?id=2&se=3&expires=4", "https://h.org/a?id=2&se=3&expires=4"),
        ("s3://bucket/a b#c?.tif", "s3://bucket/a b#c?.tif"),
        ("a?sig=b.tif", "a?sig=b.tif"),
        ("/vsicurl/http://me:pw@h/s.tif", "/vsicurl/http://h/s.tif"),
        ("vrt:///vsicurl/http://me:pw@h/s.tif?bands=1,2", "vrt:///vsicurl/http://h/s.tif?bands=1,2"),
        (
            "/vsicurl?header.Authorization=Bearer%20S&url=http%3A%2F%2Fh%2Fs.tif%3Fsig%3DS",
            "/vsicurl?url=http%3A//h/s.tif",
        ),
        ("/vsicurl?list_dir=no", "/vsicurl?url="),
        ("http://h/s.tif?token=S&versionId=3", "http://h/s.tif?versionId=3"),
        ("vrt://s.tif?srcwin=0,0,9,9", "vrt://s.tif?srcwin=0,0,9,9"),
    ],
)  # fmt: skip
def test_what_signs_a_url_is_told_from_what_names_a_file(signed, plain):
    assert unsigned(signed) == plain


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("'https://h.org/o'brien.tif?id=2&sig=c': 404", "'https://h.org/o'brien.tif?id=2': 404"),
        ("/vsicurl/https://a:b@h.org/a?se=1&sig=c, again", "/vsicurl/https://h.org/a, again"),
        ("no scheduler at tcp://[host]:8786", "no scheduler at tcp://[host]:8786"),
    ],
)  # fmt: skip
def test_a_line_keeps_all_but_what_signs_its_urls(line, kept):
    assert unsigned_in(line) == kept


@pytest.mark.parametrize(
    "other",
    [
        "s3://b/a.zarr/",
        "/vsis3/b/a.zarr",
        "s3://b/a.zarr?X-Amz-Signature=c",
        "s3://ann:pw@b/a.zarr",
    ],
)
def test_one_file_has_several_names(other):
    assert is_same("s3://b/a.zarr", other)
    assert not is_same("s3://b/c.zarr", other)


def test_a_scene_that_was_signed_anew_is_kept_and_no_signature_is_written(
    make_scene, rng, server, tmp_path
):
    url = server.url(make_scene(rng.integers(0, 255, (3, 64, 64), "uint8")))
    out, store = tmp_path / "out", tmp_path / "m.zarr"
    said = []
    for day in ("1", "2"):
        signed = f"{url}?se={day}&sig=secret{day}"
        said.append(run(signed, "--out-dir", out, "--resume", cwd=tmp_path))
        said.append(run(signed, store, "--resume", "--json", cwd=tmp_path))
    assert [row["status"] for row in summary(out).values()] == ["kept"]
    gone = f"{url}.gone?se=3&sig=secret3"
    said.append(run(gone, "--out-dir", out, "--resume", cwd=tmp_path, check=1))
    said.append(run(gone, store, "--overwrite", cwd=tmp_path, check=2))
    assert not [line for line in said if "secret" in line.stdout + line.stderr]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 6
    assert not [path for path in written if b"secret" in path.read_bytes()]


def test_a_mask_of_other_options_is_not_kept(tmp_path):
    scene, out = tmp_path / "s.tif", tmp_path / "out" / "s.tif"
    out.parent.mkdir()
    scene.write_text("scene")

    def replaces_and_fails(_, output):
        output.write_text("another mask")
        raise OSError("stopped while it counted")

    def statuses(function, threshold, **options):
        made_from = {"threshold": threshold}
        return [
            one.status for one in segment_many([str(scene)], [out], function, made_from, **options)
        ]

    assert statuses(segment, 0.5) == ["done"]
    assert statuses(segment, 0.5, resume=True) == ["kept"]
    assert statuses(segment, np.nan) == ["done"]
    assert statuses(segment, np.nan, resume=True) == ["kept"]
    assert statuses(segment, 0.5) == ["done"]
    assert statuses(replaces_and_fails, 0.7) == ["failed"]
    assert statuses(segment, 0.5, resume=True) == ["done"]
    assert out.read_text() == "mask"


def test_an_error_that_nobody_foresaw_is_its_scenes_only(tmp_path):
    def segment(scene, _):
        if scene == "a":
            raise RuntimeError("out of luck")
        return CloudCover(3, 1, 0)

    outputs = [tmp_path / "a.tif", tmp_path / "b.tif"]
    found = list(segment_many(["a", "b"], outputs, segment, {}))
    assert [(one.status, one.error) for one in found] == [("failed", "out of luck"), ("done", "")]


def test_what_cannot_go_together(scenes, tmp_path):
    for arguments, match in [
        (("a.tif",), "give SCENE and OUT, or scenes and --out-dir"),
        (("a.tif", "b.tif", "c.tif"), "give SCENE and OUT"),
        (("a.tif", "m.tif", "--resume"), "m.tif cannot be resumed"),
        (("a.tif", "--out-dir", tmp_path, "--quicklook", "q.png"), "--quicklook names one"),
        (("a.tif", "--out-dir", tmp_path, "--threshold", "7"), "threshold is 7.0: give"),
        (("a.tif", "--out-dir", tmp_path, "--multiscale"), "leave out --multiscale"),
        (("a.tif", "--out-dir", tmp_path, "--stretch", "60"), "stretch is 60.0: give"),
        (("a.tif", "--out-dir", tmp_path, "--overlap", "7"), "overlap is 7: it must be"),
        (("a.tif", "--out-dir", "a.tif"), "the folder a.tif cannot be made (File exists): name"),
    ]:
        assert match in run(*arguments, cwd=scenes, check=2).stderr
    run("a.tif", "--out-dir", tmp_path / "new", "--threshold", "7", cwd=scenes, check=2)
    assert not (tmp_path / "new").exists()


def test_what_was_made_but_not_noted_is_made_again_and_the_rest_is_left_alone(tmp_path):
    scene, out = tmp_path / "s.tif", tmp_path / "out" / "s.tif"
    out.parent.mkdir()
    scene.write_text("scene")
    foreign = "somebody's own file"

    def write(output, model="m"):
        array = xr.DataArray(np.zeros((4, 4), "uint8"), dims=("y", "x"), attrs={"model": model})
        write_cog(array, output, overwrite=True)

    def killed(_, output):
        write(output)
        raise KeyboardInterrupt

    def segment(_, output):
        if output.exists():
            raise FileExistsError(f"{output} exists")
        write(output)
        return CloudCover(3, 1, 0)

    def statuses(function):
        made_from = {"model": "m"}
        return [
            one.status
            for one in segment_many([str(scene)], [out], function, made_from, resume=True)
        ]

    with pytest.raises(KeyboardInterrupt):
        statuses(killed)
    assert statuses(segment) == ["done"]
    assert statuses(segment) == ["kept"]
    out.unlink()
    with pytest.raises(KeyboardInterrupt):
        statuses(killed)
    for put in (lambda: write(out, "another"), lambda: out.write_text(foreign)):
        put()  # where a run was killed
        before = out.read_bytes()
        assert statuses(segment) == ["failed"]
        assert out.read_bytes() == before
    shutil.rmtree(out.parent / ".cloudmask")
    assert statuses(segment) == ["failed"]
    assert statuses(segment) == ["failed"]
    assert out.read_text() == foreign
    out.unlink()

    def busy(_, output):
        raise FileExistsError(f"{output} is being written by another process")

    assert statuses(busy) == ["failed"]
    write(out)  # as that process does then
    assert statuses(segment) == ["failed"]


def test_a_name_that_is_no_utf_8_does_not_lock_the_folder(tmp_path):
    scene = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.tif")
    Path(scene).write_text("scene")
    out = tmp_path / "out" / "cafe.tif"
    out.parent.mkdir()

    for status in ("done", "kept"):
        check_summary(out.parent / "summary.csv")
        (outcome,) = segment_many([scene], [out], segment, {}, resume=True)
        assert outcome.status == status


@pytest.mark.parametrize("kind", ["mask", "world file", "vrt in a vrt", "zip"])
def test_a_scene_of_which_another_file_changed_is_done_again(make_scene, tmp_path, rng, kind):
    pixels = rng.integers(0, 255, (3, 40, 50), dtype="uint8")
    base = make_scene(pixels)
    scene = Path(base)
    if kind == "vrt in a vrt":
        inner, scene = tmp_path / "inner.vrt", tmp_path / "outer.vrt"
        rasterio.shutil.copy(base, inner, driver="VRT")  # of a VRT GDAL would make a copy
        scene.write_text(inner.read_text().replace(Path(base).name, inner.name))
    if kind == "zip":
        scene = f"/vsizip/{tmp_path}/s.zip/s.tif"

    def pack(content):
        with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
            archive.writestr("s.tif", content)

    pack(b"one")

    def statuses():
        out = tmp_path / "out" / "s.tif"
        out.parent.mkdir(exist_ok=True)

        return [one.status for one in segment_many([str(scene)], [out], segment, {}, resume=True)]

    assert statuses() == ["done"]
    assert statuses() == ["kept"]
    if kind == "mask":
        Path(f"{base}.msk").write_bytes(b"mask")
    elif kind == "world file":
        Path(base).with_suffix(".tfw").write_text("10 0 0 -10 5 5")
    elif kind == "zip":
        pack(b"another")
    else:
        os.utime(base, (1, 1))
    assert statuses() == ["done"]


def test_a_probability_of_a_killed_run_is_made_anew(scenes, tmp_path):
    probability = ["--probability", "--threshold", 0.7, "--out-dir", tmp_path]
    run("a.tif", *probability, cwd=scenes)
    note = tmp_path / ".cloudmask" / "a.tif.json"  # as a run leaves it that was killed here
    note.write_text(json.dumps(json.loads(note.read_text()) | {"outcome": None}))
    run("a.tif", *probability, "--resume", cwd=scenes)
    assert summary(tmp_path)["a.tif"]["status"] == "done"


def test_a_scene_with_brackets_that_is_gone_is_one_that_fails(tmp_path):
    (tmp_path / "a.tif").touch()
    gone = str(tmp_path / "x[1].tif")
    assert find_scenes([str(tmp_path / "a.tif"), gone]) == [str(tmp_path / "a.tif"), gone]
    with pytest.raises(FileNotFoundError, match="matches nothing"):
        find_scenes([str(tmp_path / "b*.tif")])


def test_a_log_on_a_full_disk_does_not_end_a_batch(scenes, tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cloudmask", "segment", "a.tif", "c.tif", "--out-dir", tmp_path],
            cwd=scenes, check=False, text=True, stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 0
    assert {one["status"] for one in summary(tmp_path).values()} == {"done"}
    assert "stdout cannot be written to (No space left on device)" in done.stderr


def test_a_result_that_stdout_does_not_take_is_a_failure():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cloudmask", "models"],
            check=False, text=True, stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "cloudmask: stdout cannot be written to: No space left on device\n"


def test_who_reads_the_first_line_only_has_seen_enough():
    command = f"set -o pipefail; {sys.executable} -m cloudmask models --json | head -1"
    done = subprocess.run(["bash", "-c", command], check=False, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_a_line_that_cannot_be_said_keeps_its_exit_code(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cloudmask", "segment", "gone.tif", "out.tif"],
            cwd=tmp_path, check=False, stderr=full,
        )  # fmt: skip
    assert done.returncode == 2


def test_the_same_scene_by_another_path_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.tif").write_text("scene")
    same = ["s.tif", "./s.tif", str(tmp_path / "s.tif"), f"file://{tmp_path}/s.tif"]
    assert find_scenes(same) == ["s.tif"]
    out = [tmp_path / "out.tif"]
    for name, status in (("s.tif", "done"), ("./s.tif", "kept"), (str(tmp_path / "s.tif"), "kept")):
        (outcome,) = segment_many([name], out, segment, {}, resume=True)
        assert (outcome.status, outcome.scene) == (status, name)


def test_one_batch_fills_a_folder_at_a_time(tmp_path):
    def segment(*_):
        return CloudCover(3, 1, 0)

    first = segment_many(["a.tif", "b.tif"], [tmp_path / "a.tif", tmp_path / "b.tif"], segment, {})
    next(first)
    with pytest.raises(FileExistsError, match=r"summary.csv is being written by another process"):
        list(segment_many(["c.tif"], [tmp_path / "c.tif"], segment, {}))
    list(first)
    assert [one.status for one in segment_many(["c.tif"], [tmp_path / "c.tif"], segment, {})]


def test_names_that_are_no_utf8_are_listed_as_they_are(tmp_path):
    name = os.fsdecode(b"caf\xe9.tif")
    list(segment_many([name], [tmp_path / name], lambda *_: CloudCover(3, 1, 0), {}))
    assert b"caf\xe9.tif" in (tmp_path / "summary.csv").read_bytes()


def test_a_disk_too_full_for_the_summary_is_one_line_that_names_it(tmp_path):
    resource = pytest.importorskip("resource")

    def segment(*_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, kept[1]))
        return CloudCover(1, 1, 0)

    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match=r"summary\.csv cannot be written, the disk is full"):
            list(segment_many(["a.tif"], [tmp_path / "a.tif"], segment, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in (tmp_path / ".cloudmask").iterdir()] == ["a.tif.json"]


def test_a_name_or_a_note_that_cannot_be_read_is_its_scenes_only(tmp_path):
    scenes = [f"{'long' * 80}.tif", "a.tif", "b.tif"]
    outputs = [tmp_path / name for name in ("long.tif", "a.tif", "b.tif")]
    begun = list(segment_many(scenes, outputs, segment, {}, resume=True))
    assert [one.status for one in begun] == ["failed", "done", "done"]
    assert "name too long" in begun[0].error
    (tmp_path / ".cloudmask" / "a.tif.json").write_text("")
    again = list(segment_many(scenes, outputs, segment, {}, resume=True))
    assert [one.status for one in again] == ["failed", "done", "kept"]


def test_a_folder_that_was_renamed_is_kept_under_its_new_name(tmp_path):
    (tmp_path / "old").mkdir()
    list(segment_many(["a.tif"], [tmp_path / "old" / "a.tif"], segment, {}))
    (tmp_path / "old").rename(tmp_path / "new")
    out = tmp_path / "new" / "a.tif"
    (kept,) = segment_many(["a.tif"], [out], segment, {}, resume=True)
    assert (kept.status, kept.output) == ("kept", str(out))


def test_gdals_names_of_parts_are_no_patterns(tmp_path):
    scene = f"vrt://{tmp_path}/s.tif?bands=3,2,1"
    assert find_scenes([scene]) == [scene]
