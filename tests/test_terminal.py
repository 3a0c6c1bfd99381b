"""Text of others reaches neither a terminal nor a shell as anything but text."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import unicodedata
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2x_core.errors import LONGEST, TrainingError, UserError
from t2x_core.output import lasting_output
from t2x_core.paths import user_path
from t2x_core.terminal import UNSAFE, SafeStreams, command, printable, printable_lines, sample_command

NASTY = [
    "\x1b[2J",
    "\x1b]8;;http://x\x07",
    "\x9b31m",
    "\r",
    "\x07",
    "\u202egnp.exe",
    "\ud83d",
    "\udcff",
    "\u2028",
    "\x7f",
]
ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))


def obeyed(text: str) -> set[str]:
    """The letters that a terminal would obey, by Python's table of Unicode; the joiners of words and emoji are none."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {letter for letter in text if unicodedata.category(letter) in kinds} - {"\u200c", "\u200d"}


def test_the_unsafe_letters_are_those_of_unicode() -> None:
    everything = "".join(map(chr, range(0x110000)))
    tags = {chr(code) for code in range(0xE0000, 0xE1000)}  # also those that are not assigned yet
    reserved = {chr(code) for code in (0x2065, *range(0xFFF0, 0xFFF9), *range(0x13430, 0x13460))}
    found = set(UNSAFE.findall(everything))
    assert obeyed(everything) - found == set()
    assert found - obeyed(everything) - tags - reserved == set()


@given(ANYTHING)
def test_nothing_that_is_printed_is_obeyed(text: str) -> None:
    assert not obeyed(printable(text))
    assert not obeyed(printable_lines(text)) - {"\n"}
    assert not obeyed(str(UserError(text, where=text, hint=text)))
    assert not obeyed(str(TrainingError(text, hint=text)))
    assert printable(printable(text)) == printable(text)
    printable(text).encode()


def test_harmless_text_stays_and_long_text_is_cut_in_the_middle() -> None:
    text = "un café · 日本　語 👩\u200d🔬 שלום"
    assert printable(text) == text
    assert printable("a\tb\nc") == "a b c"
    assert printable("0123456789", 10) == "0123456789"
    assert printable("0123456789abc", 10) == "012345…abc"
    assert len(str(UserError("x" * 100_000))) == LONGEST


def shell(line: str) -> list[bytes]:
    """The words of a command as bash takes them."""
    program = f"t2x() {{ printf '%s\\0' \"$@\"; }}; {line}"
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, check=True, timeout=60, env={"LC_ALL": "C.UTF-8"}
    )
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        "a b",
        'a "cat" $(touch x) `id` !',
        "it's",
        "-x",
        "~",
        "*",
        "a\\nb",
        "new\nline",
        *(f"a{n}'\\" for n in NASTY),
    ],
)
def test_a_command_to_copy_has_its_very_words(word: str) -> None:
    if "\ud83d" in word:
        pytest.skip("no file has such a name")
    line = command("t2x", word)
    assert not obeyed(line)
    assert shell(line) == [os.fsencode(word)]


def test_the_command_that_samples() -> None:
    assert sample_command("my run", "a [trigger] :cat:") == "t2x sample 'my run' 'a [trigger] :cat:'"
    assert shell(sample_command("-r", "-5", "--num", "4")) == [b"sample", b"./-r", b"--num", b"4", b"--", b"-5"]
    assert shell(sample_command("r", "a\x1b[2J \n cat")) == [b"sample", b"r", b"a [2J cat"]
    assert len(sample_command("r", "word " * 1000)) < 250


@pytest.mark.parametrize(("encoding", "printed"), [("ascii", "2x3 -> \\u00e9\\u5b57"), ("latin-1", "2×3 -> é\\u5b57")])
def test_an_output_that_lacks_letters_gets_others(encoding: str, printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    with SafeStreams():
        print("2×3 → é字")
        sys.stdout.flush()
    assert raw.getvalue().decode(encoding) == printed + "\n"


def test_streams_escape_and_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with SafeStreams():
        print("a\x1b[2J\udcff\nb\r")
        print("\r50 %\x1b", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    said = capsys.readouterr()
    assert said.out == "a\\x1b[2J\\xff\nb\\x0d\n"
    assert said.err == "\r50 %\\x1b\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(closed: str) -> None:
    line = f"{sys.executable} -m t2x_core.cli.main recipes {closed}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs") == tmp_path / "runs"
    assert user_path("a/~") == Path("a/~")
    assert user_path("my #1 set ") == Path("my #1 set ")
    assert user_path("a\udcff") == Path("a\udcff")
    for wrong in ("~nosuchuser/x", "a\0b", "x" * 256, "é" * 128, "x/" * 2049, "\ud83d"):
        with pytest.raises(UserError):
            user_path(wrong)


@pytest.mark.parametrize("lasting", [False, True])
def test_a_bar_is_drawn_and_what_is_printed_is_escaped(lasting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.progress import Progress

    from t2x_core.training.log import PlainConsole

    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    with (
        SafeStreams(),
        lasting_output() if lasting else nullcontext(),
        Progress(console=PlainConsole(force_terminal=True, width=80)) as bar,
    ):
        bar.advance(bar.add_task("working", total=2))
        print("said\x1b]0;title\x07")
        bar.console.print("told\x1b[2J")
    text = screen.getvalue()
    assert "\x1b[2K" in text  # the line of the bar is drawn anew
    assert "\\x1b[2K" not in text
    assert "\x1b]0;title" not in text
    assert "\x1b[2J" not in text
    assert "told\\x1b[2J" in text
