"""The kit on the plugins that come with t2x."""

from __future__ import annotations

import pytest

from t2x_core.cli.main import main
from t2x_core.testing import CodecTests, TextEncoderTests


class TestIdentity(CodecTests):
    plugin = "identity"


class TestBytes(TextEncoderTests):
    plugin = "bytes"
    settings = {"dim": 16, "depth": 1, "heads": 2}  # noqa: RUF012 (as an author writes it)


def test_the_command_prints_a_line_a_check(capsys):
    assert main(["check-plugin", "identity"]) == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.startswith("codec identity, of t2x ")
    assert len(lines) > 12
    assert all(line.startswith("ok      ") for line in lines)
    assert last == "all checks passed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["identiy"], 'no installed plugin brings "identiy"; did you mean "identity"?'),
        (["identity", "size"], 'a setting is key=value, not "size"'),
        (["identity", "--untraind"], '"--untraind" is not understood; did you mean "--untrained"?'),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert main(["check-plugin", *arguments]) == 2
    assert capsys.readouterr().err == f"t2x: command line: {message}\n"
