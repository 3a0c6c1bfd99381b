"""Files that cannot be read are named once."""

from __future__ import annotations

import json
import multiprocessing
import time

from t2x_core import quarantine as quarantine_module
from t2x_core.quarantine import Quarantine, count


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_is_noted_before_there_is_a_file_is_written_then(tmp_path):
    quarantine = Quarantine()
    quarantine.note("a", "x.jpg", "is empty")
    quarantine.note("a", "x.jpg", "is empty")
    quarantine.note("b", "x.jpg", "is empty")
    quarantine.write_to(tmp_path / "q.jsonl")
    quarantine.note("a", "y.jpg", "is a folder")
    assert quarantine.named("a") == {"x.jpg": "is empty", "y.jpg": "is a folder"}
    assert [(line["task"], line["file"], line["reason"]) for line in lines(tmp_path / "q.jsonl")] == [
        ("a", "x.jpg", "is empty"),
        ("b", "x.jpg", "is empty"),
        ("a", "y.jpg", "is a folder"),
    ]


def test_a_resumed_run_names_nothing_twice_and_counts_from_new(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text('{"task": "a", "file": "old.jpg", "reason": "?", "when": "2020-01-01T00:00:00+0000"}\n{"task": "a')
    quarantine = Quarantine()
    quarantine.write_to(file)
    quarantine.note("a", "new.jpg", "is empty")
    assert list(quarantine.named("a")) == ["new.jpg"]
    quarantine.note("a", "old.jpg", "is empty")
    assert list(quarantine.named("a")) == ["new.jpg", "old.jpg"]
    text = file.read_text()
    assert text.count("old.jpg") == text.count("new.jpg") == 1
    assert text.endswith("\n")


def _note(quarantine, worker):
    for i in range(40):
        quarantine.note("a", f"{i}.jpg", f"worker {worker}")
    time.sleep(0.2)


def test_processes_share_one_file(tmp_path):
    quarantine = Quarantine()
    quarantine.write_to(tmp_path / "q.jsonl")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_note, args=(quarantine, worker)) for worker in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(line["file"] for line in lines(tmp_path / "q.jsonl")) == sorted(f"{i}.jpg" for i in range(40))
    quarantine.note("a", "40.jpg", "is empty")
    assert len(quarantine.named("a")) == 41


def test_what_another_left_in_the_file_is_passed_over(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_bytes(b'\xff\xfe\n5\n{"task": "a"}\n' + b"[" * 100_000 + b"\n\x00\n")
    quarantine = Quarantine()
    quarantine.write_to(file)
    quarantine.note("a", "x.jpg", "is empty")
    assert list(quarantine.named("a")) == ["x.jpg"]
    assert count(file) == 1


def test_a_note_reads_only_what_came_since_the_last_one(tmp_path, monkeypatch):
    parsed, real = [], quarantine_module._parse
    monkeypatch.setattr(quarantine_module, "_parse", lambda line: parsed.append(line) or real(line))
    quarantine, other = Quarantine(), Quarantine()
    for one in (quarantine, other):
        one.write_to(tmp_path / "q.jsonl")
    for i in range(200):
        quarantine.note("a", f"{i}.jpg", "is empty")
    assert len(parsed) < 500
    other.note("a", "7.jpg", "is empty")
    quarantine.note("a", "x.jpg", "is empty")
    assert quarantine.number("a") == other.number("a") + 1 == len(quarantine.named("a")) == 201
    assert count(tmp_path / "q.jsonl") == 201
