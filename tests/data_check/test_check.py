"""`t2x data check`: what is wrong is named, nothing else is, and what `--fix` writes trains."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.data_check import known
from tests.conftest import CPU, IMAGES, OBJECTS, TINY_CLIPS, TINY_OBJECTS
from tests.data.shard_set import KINDS, write
from tests.data_check import jobs
from tests.data_check.checking import RECIPE, place, run_check
from tests.data_check.damaged_set import DAMAGE, encoded, make_files, picture
from tests.text_to_multiview.test_objects import write_object
from tests.video.video_set import write_video


def short(names: object) -> set[str]:
    """Names without the shard that they are in."""
    return {name.rpartition("!")[2] for name in names}  # type: ignore[attr-defined]


def check_damage(kind: str, folder: Path, good: int, damaged: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each damaged file is named and nothing else; the cleaned manifest has all others, and a recipe reads them."""
    files, bad = make_files(good, damaged)
    where = place(write(kind, folder / "files", files))
    code, found = run_check(folder / "out", *where, "--fix", str(folder / "clean.jsonl"))
    numbered = {name: str(i) for i, name in enumerate(files)}
    shards = [0, *(len(files) * (i + 1) // 3 for i in range(3))]
    if kind == "parquet":  # called by the number of their row
        of = {i: next(j for j in range(3) if i < shards[j + 1]) for i in range(len(files))}
        numbered = {name: f"{of[i]:03d}.parquet!{i - shards[of[i]]}" for i, name in enumerate(files)}
        bad = {numbered[name] for name in bad}
    named = found["damaged"].keys()
    assert code == 1
    assert (named if kind == "parquet" else short(named)) == bad
    assert not found.keys() - {"damaged"}, found
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("use "))
    words = shlex.split(line)[3:]
    assembly = load_assembly(words[0], words[1:])
    data = build_data(assembly, build_module(assembly, outline=True)).modules["text-to-image"]
    read = {entry.name for entry in data.inventory().entries}
    assert len(read) == good
    everything = {entry.name for entry in inventory_of(where).entries}
    assert read == everything - named  # called as before, so that the same ones are held out


def inventory_of(where: list[str]) -> object:
    assembly = load_assembly(RECIPE[0], [*RECIPE[1:], *where])
    return build_data(assembly, build_module(assembly, outline=True)).modules["text-to-image"].inventory()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_damage_is_named_and_nothing_else(kind: str, tmp_path: Path, capsys) -> None:
    check_damage(kind, tmp_path, 36, len(DAMAGE), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_200_damaged_among_2000_good(kind: str, tmp_path: Path, capsys) -> None:
    check_damage(kind, tmp_path, 2000, 200, capsys)


def write_set(folder: Path, count: int = 20) -> None:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:02d}.png").write_bytes(encoded(picture(i)))
        (folder / f"{i:02d}.txt").write_text(f"patches number {i}\n")


def test_nothing_wrong_is_0(tmp_path: Path, capsys) -> None:
    write_set(tmp_path / "set")
    assert run_check(tmp_path / "out", f"{IMAGES}.folder={tmp_path / 'set'}") == (0, {})
    assert "Nothing is wrong" in (tmp_path / "out" / "index.html").read_text()


def test_a_set_with_all_sorts(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_set(folder, 40)
    (folder / "00_copy.png").write_bytes(encoded(picture(0)))
    (folder / "00_copy.txt").write_text("other words")
    (folder / "01_near.jpg").write_bytes(encoded(picture(1).resize((64, 64)), "JPEG", quality=60))
    (folder / "01_near.txt").write_text("cafÃ© in the sun")
    (folder / "02.txt").write_text("")
    (folder / "03.txt").write_bytes(b"\xff\xfe")
    (folder / "04.txt").write_text("word " * 70)
    for i in range(10, 16):
        (folder / f"{i}.txt").write_text("the same words")
    (folder / "05.png").write_bytes(encoded(picture(5, 12)))
    (folder / "06.png").write_bytes(encoded(picture(6, 200).resize((200, 40))))
    (folder / "07.png").write_bytes(encoded(picture(7).convert("L")))
    (folder / "08.png").write_bytes(encoded(picture(8).resize((1, 1)).resize((40, 40))))
    code, found = run_check(tmp_path / "out", f"{IMAGES}.folder={folder}")
    assert code == 1
    leaks = found.pop("leak", {})
    assert {kind: set(files) for kind, files in found.items()} == {
        "duplicate": {"00_copy.png"},
        "near-duplicate": {"01_near.jpg"},
        "mojibake": {"01_near.jpg"},
        "no-caption": {"02.png", "03.png"},
        "caption": {"03.txt:1"},
        "cut": {"04.png"},
        "repeated": {"10.png"},
        "small": {"05.png"},
        "long": {"06.png"},
        "grey": {"07.png"},
        "flat": {"08.png"},
    }
    assert found["duplicate"]["00_copy.png"] == "is 00.png, with other captions"
    assert "café in the sun" in found["mojibake"]["01_near.jpg"]
    assert "70 tokens" in found["cut"]["04.png"]
    assert "6 of 42" in found["repeated"]["10.png"]
    assert set(leaks) <= {"00.png", "00_copy.png", "01.png", "01_near.jpg"}


def test_leaks_are_what_the_split_says(tmp_path: Path) -> None:
    """The copy of a file that is held out is trained on; files of one group are on one side."""
    write_set(tmp_path / "set")
    where = f"{IMAGES}.folder={tmp_path / 'set'}"
    inventory = inventory_of([where])
    held_out = inventory.entries[next(iter(inventory.hold_out(range(20))))].name
    number = int(held_out[:2])
    for copy in range(4):  # hardly all of these are held out, too
        (tmp_path / "set" / f"{number:02d}-{copy}.jpg").write_bytes(encoded(picture(number), "JPEG", quality=80 + copy))
        (tmp_path / "set" / f"{number:02d}-{copy}.txt").write_text(f"copy {copy}")
    _, found = run_check(tmp_path / "out", where, f"{IMAGES}.held_out=0.05")
    assert any(f"{number:02d}" in name for name in found["leak"])
    _, found = run_check(tmp_path / "grouped", where, rf"{IMAGES}.group=^\d+")
    assert "leak" not in found
    assert "near-duplicate" not in found  # pieces of one thing look alike


def test_bad_rows_of_a_manifest_are_named_by_their_lines(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 8)
    rows = [json.dumps({"path": f"{i:02d}.png", "caption": f"patches {i}"}) for i in range(8)]
    rows[2], rows[5] = '{"path": "02.png", "caption": ', '{"path": 5, "caption": "x"}'
    rows.append(json.dumps({"path": "gone.png", "caption": "gone"}))
    (tmp_path / "set" / "m.jsonl").write_text("\n".join(rows))
    settings = [f"{IMAGES}.folder=null", f"{IMAGES}.manifest={tmp_path / 'set' / 'm.jsonl'}"]
    code, found = run_check(tmp_path / "out", *settings)
    assert code == 1
    assert set(found["caption"]) == {"m.jsonl:3", "m.jsonl:6"}
    assert found["damaged"] == {"gone.png": "is not there"}
    lines = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines()]
    assert next(line["where"] for line in lines if line["file"] == "gone.png").endswith("m.jsonl:9")


def test_a_decoder_that_dies_or_hangs_is_named_and_the_others_are_checked(tmp_path: Path, monkeypatch) -> None:
    write_set(tmp_path / "set", 12)
    monkeypatch.setattr("t2x_core.data_check.check.LookJob", jobs.NastyLook)
    where = f"{IMAGES}.folder={tmp_path / 'set'}"
    code, found = run_check(tmp_path / "out", where, "--seconds", "2")
    assert code == 1
    assert set(found) == {"damaged"}
    assert set(found["damaged"]) == {"03.png", "05.png", "07.png"}
    assert "SIGSEGV" in found["damaged"]["03.png"]
    assert "hang" in found["damaged"]["05.png"]
    assert "ZeroDivisionError" in found["damaged"]["07.png"]


def test_ctrl_c_reports_what_was_done_and_the_next_check_goes_on(tmp_path: Path, monkeypatch, caplog) -> None:
    write_set(tmp_path / "set", 12)
    (tmp_path / "set" / "00.png").write_bytes(b"")
    where, put, done = f"{IMAGES}.folder={tmp_path / 'set'}", known.Known.put, []

    def stop_after_five(self: known.Known, key: str, seen: object) -> None:
        put(self, key, seen)  # type: ignore[arg-type]
        done.append(key)
        if len(done) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(known.Known, "put", stop_after_five)
    code, found = run_check(tmp_path / "out", where, "--fix", str(tmp_path / "clean.jsonl"))
    assert code == 130
    assert not (tmp_path / "clean.jsonl").exists()
    assert set(found["damaged"]) <= {"00.png"}
    assert "stopped before its end" in (tmp_path / "out" / "index.html").read_text()
    (tmp_path / "set" / "01.png").write_bytes(b"changed meanwhile")
    monkeypatch.setattr(known.Known, "put", put)
    file = next(Path(known.Known("text_to_image/folder").file).parent.iterdir())
    file.write_bytes(file.read_bytes()[:-20])  # as a kill leaves it
    code, found = run_check(tmp_path / "again", where)
    assert code == 1
    assert set(found["damaged"]) == {"00.png", "01.png"}
    assert len(file.read_bytes().splitlines()) >= 12
    code, again = run_check(tmp_path / "third", where)
    assert again == found


def test_mistakes_on_the_command_line_are_2(tmp_path: Path, capsys) -> None:
    write_set(tmp_path / "set", 8)
    where = f"{IMAGES}.folder={tmp_path / 'set'}"
    (tmp_path / "there.jsonl").write_text("mine\n")
    for words, said in (
        ([f"{IMAGES}.folder={tmp_path / 'nowhere'}"], "there is no folder"),
        ([where, "--fix", str(tmp_path / "there.jsonl")], "is there already"),
        ([where, "--fix", str(tmp_path / "x.csv")], "must end in .jsonl"),
        ([where, "--ignore", "gray"], 'did you mean "grey"'),
    ):
        assert run_check(tmp_path / "out", *words)[0] == 2
        assert said in capsys.readouterr().err
    assert run_check(tmp_path / "set", where)[0] == 2  # not empty
    assert main(["data", "check", "quickstart", "--out", str(tmp_path / "out")]) == 2
    assert "made on the fly" in capsys.readouterr().err
    assert (tmp_path / "there.jsonl").read_text() == "mine\n"


def test_ignored_kinds_do_not_count(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 8)
    (tmp_path / "set" / "07.png").write_bytes(encoded(picture(7).convert("L")))
    assert run_check(tmp_path / "out", f"{IMAGES}.folder={tmp_path / 'set'}", "--ignore", "grey") == (0, {})


class _Page(HTMLParser):
    """Collects tags, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.refers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.refers += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)


def test_the_page_needs_nothing_and_obeys_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_set(folder, 8)
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    (folder / "a<b onclick=x>&amp;\u202egnp.png").write_bytes(b"")
    (folder / "a<b onclick=x>&amp;\u202egnp.txt").write_text(evil)
    (folder / "07.txt").write_text(f"{evil} cafÃ©")
    run_check(tmp_path / "out", f"{IMAGES}.folder={folder}")
    text = (tmp_path / "out" / "index.html").read_text()
    page = _Page(text)
    assert page.tags.count("script") == 1
    assert all(target.startswith(("data:image/jpeg;base64,", "#")) for target in page.refers)
    assert any(target.startswith("data:") for target in page.refers)
    assert "\u202e" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_clips(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for i in range(6):
        write_video(folder / f"{i}.mp4", frames=20 + i).with_suffix(".txt").write_text(f"clip {i}")
    whole = write_video(folder / "cut.webm", frames=40).read_bytes()
    (folder / "cut.webm").write_bytes(whole[: len(whole) // 2])
    broken = bytearray((folder / "5.mp4").read_bytes())
    middle = broken.index(b"mdat") + (broken.index(b"moov") - broken.index(b"mdat")) // 2
    broken[middle : middle + 60] = bytes(range(60))
    (folder / "broken.mp4").write_bytes(broken)
    (folder / "letter.mp4").write_text("no video")
    for name in ("cut", "broken", "letter"):
        (folder / f"{name}.txt").write_text(f"a {name} clip")
    words = [f"tasks.text-to-video.data.clips.folder={folder}", "--ignore", "near-duplicate", "--ignore", "leak"]
    code, found = run_check(tmp_path / "out", *words, recipe=["text_to_video/clips", *TINY_CLIPS])
    assert code == 1
    assert {"broken.mp4", "letter.mp4"} <= set(found["damaged"]) <= {"broken.mp4", "letter.mp4", "cut.webm"}
    assert "cut.webm" in {**found["damaged"], **found.get("count", {})}
    assert not {f"{i}.mp4" for i in range(6)} & {name for files in found.values() for name in files}


def test_cameras(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for i in range(4):
        write_object(folder / f"thing_{i}", 6, caption=f"thing number {i}")
    write_object(folder / "outwards", 6, caption="it looks away")
    table = json.loads((folder / "outwards" / "cameras.json").read_text())
    table["views"][0]["azimuth"] = "north"
    (folder / "outwards" / "cameras.json").write_text(json.dumps(table))
    (folder / "thing_1" / "03.png").write_bytes(b"")
    words = [f"{OBJECTS}.folder={folder}", "--fix", str(tmp_path / "clean.jsonl")]
    code, found = run_check(tmp_path / "out", *words, recipe=["text_to_multiview/objects", *TINY_OBJECTS, *CPU])
    assert code == 1
    assert set(found["camera"]) == {"outwards"}
    assert "azimuth" in found["camera"]["outwards"]
    assert found["damaged"] == {"thing_1/03.png": "is empty"}
    assert not (tmp_path / "clean.jsonl").exists()


def test_a_cleaned_manifest_for_each_of_several_sources(tmp_path: Path, capsys) -> None:
    files, _ = make_files(30, 0)
    names = list(files)
    parts = [{name: files[name] for name in names[i::3]} for i in range(3)]
    places = [next(iter(write(kind, tmp_path / kind, parts[i]).values())) for i, kind in enumerate(KINDS)]
    (tmp_path / "folder" / names[0]).write_bytes(b"")
    rows = "".join(f"{name},caption of {name}\n" for name in names[0::3])
    (tmp_path / "folder" / "list.csv").write_text(f"file,words\n{rows}")
    sources = [
        {"manifest": f"{places[0]}/list.csv", "columns": {"path": "file", "captions": "words"}, "repeat": 2},
        {"shards": str(places[1])},
        {"shards": str(places[2])},
    ]
    where = [f"{IMAGES}.folder=null", f"{IMAGES}.sources={json.dumps(sources)}"]
    code, found = run_check(tmp_path / "out", *where, "--fix", str(tmp_path / "clean.jsonl"))
    assert code == 1
    assert set(found) == {"damaged"}
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("use "))
    words = shlex.split(line)[3:]
    assembly = load_assembly(words[0], words[1:])
    data = build_data(assembly, build_module(assembly, outline=True)).modules["text-to-image"]
    inventory = data.inventory()
    before = {entry.place: entry.captions for entry in inventory_of(where).entries}
    after = {entry.place: entry.captions for entry in inventory.entries}
    assert len(after) == 29
    assert before.items() - after.items() == {(str(tmp_path / "folder" / names[0]), (f"caption of {names[0]}",))}
    assert after.items() <= before.items()
    assert "2 times an epoch" in "\n".join(data.describe())
