"""How samples were made, as a text in their files, and back to the options that make them again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2x_core.cli.sample_arguments import mistake
from t2x_core.plain_files import parse_json
from t2x_core.terminal import printable

VALUES = ["task", "num", "seed", "negative", "sampler", "steps", "guidance", "checkpoint", "size", "precision"]
VALUES += ["threads", "batch_size", "device"]
"""Options with a value that are noted, by their name in the note."""
LISTS = {"set": "--set", "input": "--input", "lora": "--lora"}
FLAGS = {"exact": "--exact", "compile": "--compile", "raw": "--raw"}


def note(values: Mapping[str, Any]) -> str:
    """The text of a file (JSON, ASCII); what is None, empty or false is left out."""
    return json.dumps({"t2x": "sample", **_given(values)})


def again(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments that a file was made with; those on the command line count more.

    Raises:
        UserError: it is no file of `t2x sample`, or RUN or prompts are given as well.
    """
    from t2x_core.cli.main import parse
    from t2x_core.file_notes import read_note

    file: Path = arguments.again
    if arguments.prompts or arguments.file:
        raise mistake("--again takes RUN and prompts from the file", "leave them out")
    try:
        noted = parse_json(read_note(file) or "")
        if noted.get("t2x") != "sample":
            raise ValueError
    except ValueError as error:
        hint = "it needs a file that t2x sample wrote, and that nothing has written anew since"
        raise mistake(f"{printable(file, 200)} does not say how it was made", hint) from error
    made = parse(_words(noted))
    if arguments.aspect is not None:
        made.size = None
    if arguments.out is None:
        arguments.out = "again/" if noted.get("views") else f"again{file.suffix}"
    return argparse.Namespace(**{**vars(made), **_given(vars(arguments)), "again": None})


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, an empty list or false (0 is a value)."""
    return {name: value for name, value in values.items() if value is not None and value is not False and value != []}


def _words(noted: Mapping[str, Any]) -> list[str]:
    """The command line that a note stands for: it is checked as one that somebody typed."""
    words = [flag for name, flag in FLAGS.items() if noted.get(name) is True]
    words += [f"--{name.replace('_', '-')}={noted[name]}" for name in VALUES if name in noted]
    for name, option in LISTS.items():
        words += [f"{option}={item}" for item in _texts(noted, name)]
    return ["sample", *words, "--", str(noted.get("run", "")), *_texts(noted, "prompts")]


def _texts(noted: Mapping[str, Any], name: str) -> list[str]:
    found = noted.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise mistake(f"the note in the file is damaged: {name} is no list of texts")
    return found
