"""One file is one thing, whatever it is called; what is no file is named."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from t2x_core.data.files import LONGEST_CAPTIONS
from t2x_core.data.image_files import ImageFile, ImageList, group_name, grouped, hold_out, list_folder
from t2x_core.data.index import examine
from t2x_core.data.manifest import Columns, read_manifest
from t2x_core.errors import UserError
from tests.data.image_set import make_image

COLUMNS = Columns("path", ["caption"], group="source")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pics"
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        make_image(40, 40).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"caption of {name}\n")
    return folder


def manifest(folder: Path, *rows: dict[str, object]) -> ImageList:
    file = folder.parent / "m.jsonl"
    file.write_text(
        "".join(json.dumps({"source": None, "caption": f"c{i}", **row}) + "\n" for i, row in enumerate(rows))
    )
    return read_manifest(file, folder, COLUMNS)


def test_all_spellings_of_a_path_are_one_file_with_all_captions(folder):
    os.link(folder / "a.png", folder / "hard.png")
    (folder / "soft.png").symlink_to(folder / "a.png")
    (folder.parent / "elsewhere").symlink_to(folder)
    spellings = ["a.png", "./a.png", "sub/../a.png", str(folder / "a.png"), "hard.png", "soft.png", "sub//../a.png"]
    spellings.append(str(folder.parent / "elsewhere" / "a.png"))
    found = manifest(folder, *({"path": path} for path in (*spellings, "b.png")))
    assert [(file.name, file.captions) for file in found.files] == [
        ("a.png", tuple(f"c{i}" for i in range(8))),
        ("b.png", ("c8",)),
    ]
    assert found.remarks == [
        "2 further names of the same files, each trained once with all of its captions: hard.png is a.png, "
        "soft.png is a.png"
    ]


def test_a_step_up_behind_a_link_is_followed_as_the_system_does(folder):
    (folder.parent / "far" / "deep").mkdir(parents=True)
    make_image(20, 20).save(folder.parent / "far" / "a.png")
    (folder / "link").symlink_to(folder.parent / "far" / "deep")
    (file,) = manifest(folder, {"path": "link/../a.png"}).files
    assert os.path.samefile(file.place, folder.parent / "far" / "a.png")
    assert file.name == str(folder.parent / "far" / "a.png")


def test_links_within_a_folder_add_nothing(folder):
    os.link(folder / "b.png", folder / "alias.png")
    (folder / "alias.txt").write_text("another caption\n")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "twin").symlink_to(folder / "sub")
    found = list_folder(folder)
    assert [(Path(file.name).name, file.captions) for file in found.files] == [
        ("a.png", ("caption of a",)),
        ("alias.png", ("another caption", "caption of b")),
        ("c.png", ("caption of sub/c",)),
    ]
    assert "b.png is alias.png" in found.remarks[0]


def test_missing_files_are_one_by_their_path(folder):
    found = manifest(folder, {"path": "x.png"}, {"path": "./x.png"}, {"path": "y.png"})
    assert [(file.name, file.captions) for file in found.files] == [("x.png", ("c0", "c1")), ("y.png", ("c2",))]


def test_rows_that_contradict_each_other_are_named(folder):
    with pytest.raises(UserError, match=r"m\.jsonl:2: a\.png has another group than in an earlier row: v2, not v1"):
        manifest(folder, {"path": "a.png", "source": "v1"}, {"path": "./a.png", "source": "v2"})


def test_accents_and_endings_in_any_spelling_find_their_caption(folder):
    make_image(40, 40).save(folder / "caf\u00e9.PNG")
    (folder / "cafe\u0301.TXT").write_text("coffee\u2028and cake\n")
    found = {file.name: file.captions for file in list_folder(folder).files}
    assert found["caf\u00e9.PNG"] == ("coffee\u2028and cake",)


def test_a_name_that_is_not_utf_8_is_read_and_can_be_written_anywhere(folder):
    raw = os.fsencode(folder)
    os.rename(folder / "a.png", raw + b"/caf\xe9.png")
    os.rename(folder / "a.txt", raw + b"/caf\xe9.txt")
    file = next(file for file in list_folder(folder).files if "caf" in file.name)
    assert (file.name, file.captions) == ("caf\\xe9.png", ("caption of a",))
    assert file.name.encode()
    assert examine([file], str(folder), whole=True)[0].damage is None


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_a_folder_that_cannot_be_read_stops_and_is_named(folder):
    (folder / "sub").chmod(0)
    code = "import sys, pathlib; from t2x_core.data.image_files import list_folder\n"
    code += "try: print(len(list_folder(pathlib.Path(sys.argv[1])).files))\nexcept ValueError as error: print(error)"
    run = [sys.executable, "-c", code, str(folder)]
    if os.geteuid() == 0:  # to whom nothing is forbidden, unless these rights are given up
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv as root")
        rights = "-dac_override,-dac_read_search"
        run = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *run]
    output = subprocess.run(run, capture_output=True, text=True, timeout=300).stdout
    (folder / "sub").chmod(0o755)
    assert f"the folder {folder}/sub cannot be read: Permission denied" in output


def test_what_is_no_file_is_named_and_nobody_waits_for_it(folder):
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket is short
        one.bind("socket.png")
        os.chdir(here)
        found = list_folder(folder).files
        damage = {f.name: x.damage for f, x in zip(found, examine(found, "x", whole=True), strict=True) if x.damage}
        assert damage == {"pipe.png": "is a pipe, not a file", "socket.png": "is a socket, not a file"}
        sized = ImageFile(str(folder / "pipe.png"), "pipe.png", ("x",), size=(3, 4))
        assert examine([sized], "x", whole=False)[0].damage == "is a pipe, not a file"
    (folder / "pipe.png").unlink()
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    with pytest.raises(UserError, match=r"a\.txt: is a pipe, not a file"):
        list_folder(folder)


def test_an_endless_caption_is_named(folder):
    with (folder / "a.txt").open("wb") as stream:
        stream.truncate(2**40)  # a terabyte of nothing: read whole, it would fill the memory
    with pytest.raises(UserError, match=rf"a\.txt: this caption has more than {LONGEST_CAPTIONS:,} bytes"):
        list_folder(folder)


def test_groups_are_held_out_as_a_whole(folder):
    rows = [{"path": f"{video}_{clip}.png", "source": f"v{video}"} for video in range(40) for clip in range(5)]
    of_column = manifest(folder, *rows).files
    files = [ImageFile(f"{v}_{c}.png", f"{v}_{c}.png") for v in range(40) for c in range(5)]
    of_names = grouped(ImageList(files), r"^(\d+)_", "data.group").files
    for named in (of_column, of_names):
        groups = [group_name(file) for file in named]
        held = hold_out(groups, 0.2)
        apart = {groups[i] for i in held}
        assert len(held) == 5 * len(apart)
        assert 2 <= len(apart) <= 16
        assert not apart & {groups[i] for i in range(200) if i not in set(held)}
    assert grouped(ImageList(files), None, "data.group").files == files
    with pytest.raises(UserError, match=r"it matches none of the names, such as 0_0\.png, 0_1\.png, 0_2\.png …"):
        grouped(ImageList(files), "frame", "data.group")
    some = grouped(ImageList(files), r"^1\d_", "data.group")
    assert some.remarks == ["150 names without a match of data.group: 0_0.png, 0_1.png, 0_2.png …"]
