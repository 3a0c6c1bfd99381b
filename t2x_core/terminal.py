"""Text of others (captions, file names, values of recipes, metadata of packages) on its way to a terminal or a shell.

A control character in it can clear the screen, change the title of the window or make a link; a bidirectional override
shows a word backwards. So nothing of the kind is printed: `SafeStreams` escapes whatever goes to stdout and stderr, and
errors, logs and commands to copy are made safe where they are made.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

_UNSAFE = (
    "\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Control and format characters, line separators and halves of pairs. The two joiners that words and emoji need
(U+200C, U+200D) may stay."""
UNSAFE = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINES = re.compile(f"(?!\n)[{_UNSAFE}]")

PLAIN = {"×": "x", "→": "->", "…": "...", "–": "-", "·": "*", "≥": ">=", "≤": "<=", "−": "-"}
"""What t2x itself prints, for an output that has no such letters."""


def printable(text: object, limit: int | None = None) -> str:
    """`text` on one line, with escapes such as `\\x1b` for what a terminal would obey. What is longer than `limit`
    characters is cut out of the middle."""
    one_line = " ".join(re.split(r"[\t\n\r]+", str(text)))
    if limit is not None and len(one_line) > limit:
        keep = max(0, limit - 1)
        one_line = one_line[: keep - keep // 3] + "…" + one_line[len(one_line) - keep // 3 :]
    return UNSAFE.sub(lambda found: escape(found[0]), one_line)


def printable_lines(text: str) -> str:
    """The same for text of several lines, which keeps its line breaks; a tab becomes spaces."""
    return _UNSAFE_IN_LINES.sub(lambda found: escape(found[0]), text.replace("\r\n", "\n").replace("\t", "    "))


def escape(letter: str) -> str:
    """`\\x1b`, `\\u202e`; a byte that is not text (a surrogate of Python's `surrogateescape`) as itself, `\\xff`."""
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def command(*words: object) -> str:
    """A command to copy into a shell: each word is quoted, so that the shell changes nothing in it."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if not UNSAFE.search(word):
        return shlex.quote(word)
    escaped = re.sub(r"[\\']", r"\\\g<0>", word)  # bash and zsh read escapes in $'…'
    return "$'" + UNSAFE.sub(lambda found: escape(found[0]), escaped) + "'"


def sample_command(folder: Path | str, prompt: str, *options: str) -> str:
    """The command that samples a prompt from a run. A long prompt is cut behind a word."""
    words = UNSAFE.sub(" ", prompt).split()
    text = " ".join(words)
    while len(text) > 200 and len(words) > 1:
        words.pop()
        text = " ".join(words)
    text, place = text[:200], str(folder)
    place = f"./{place}" if place.startswith("-") else place
    if text.startswith("-"):
        return command("t2x", "sample", place, *options, "--", text)
    return command("t2x", "sample", place, text, *options)


def _encode_plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter) or escape(letter) for letter in letters), error.end


codecs.register_error("t2x.plainly", _encode_plainly)


class _SafeStream:
    """A text stream that escapes what a terminal would obey. rich, which moves the cursor, writes past it, and its
    text is made safe by the console (`training.log.PlainConsole`)."""

    def __init__(self, stream: TextIO, may_return: bool) -> None:
        self.rich_proxied_file = stream  # rich looks for this name
        self._may_return = may_return

    def write(self, text: str) -> int:
        start = "\r" if self._may_return and text.startswith("\r") else ""  # a library's progress bar
        self.rich_proxied_file.write(start + printable_lines(text[len(start) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


class SafeStreams:
    """While it is entered, stdout and stderr take any text, whatever their encoding, and obey none of it. A stream that
    is closed is replaced by one that leads nowhere."""

    def __enter__(self) -> None:
        self._before, self._opened = (sys.stdin, sys.stdout, sys.stderr), ExitStack()
        if sys.stdin is None:
            sys.stdin = self._opened.enter_context(open(os.devnull))
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                stream = self._opened.enter_context(open(os.devnull, "w", encoding="utf-8"))
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="t2x.plainly")
            setattr(sys, name, _SafeStream(stream, may_return=name == "stderr"))

    def __exit__(self, *_: object) -> None:
        sys.stdin, sys.stdout, sys.stderr = self._before
        self._opened.close()
