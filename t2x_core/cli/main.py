"""The command `t2x`. Nothing heavy is imported before it is known what is wanted."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from t2x_core.cli.completion import ASKED, answer
from t2x_core.errors import UserError, did_you_mean
from t2x_core.signals import exit_code, stopping
from t2x_core.terminal import SafeStreams

COMMANDS = {
    "new": "write a recipe that fits your data and this machine",
    "plan": "estimate what a run takes: data, compute, memory, time, energy",
    "fit": "train a recipe",
    "cache": "encode a recipe's images, clips and captions once",
    "sample": "sample from a trained run",
    "demo": "try a trained run on a local page",
    "replay": "show the batch of any training step",
    "export": "export a run as a folder with its averaged weights",
    "data": "download captioned data sets; check, index or caption files",
    "bench": "measure t2x against a baseline on this machine",
    "show": "print what a recipe resolves to",
    "recipes": "list the recipes that ship with t2x",
    "plugins": "list the plugins that are installed",
    "new-plugin": "write a plugin package: a task, a data source, a codec or a text encoder",
    "check-plugin": "check an installed plugin, and list what to change",
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors."""

    def error(self, message: str) -> NoReturn:
        option = re.match(r"argument ([\w-]+): must ", message)
        if option:
            raise UserError(message.replace(f"argument {option[1]}: ", f"{option[1]} ", 1), where="command line")
        raise UserError(message, where="command line", hint=f"`{self.prog} --help` shows what there is")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 2 the user's mistake, 3 training failed, 130/143 interrupted."""
    with SafeStreams(), stopping():
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: list[str]) -> int:
    try:
        _check_current_folder()
        if ASKED in os.environ:
            answer(lambda words: _parser(words)[0])
        chosen = parse(arguments)
        return int(chosen.run(chosen))
    except UserError as error:
        if os.environ.get("T2X_DEBUG") == "1":
            raise
        print(f"t2x: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"t2x: stopped by {str(error) or 'Ctrl-C'}", file=sys.stderr)
        return exit_code(error)
    except BrokenPipeError:
        return 0


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UserError("the current folder is gone", hint="cd to one that is there") from error


def _parser(arguments: list[str]) -> tuple[Parser, Mapping[str, argparse.ArgumentParser]]:
    """The parser, and that of each command; of these, only the one that is called knows its arguments."""
    parser = Parser("t2x", description="Any-task visual generation on one PT-DiT backbone.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if arguments[:1] == [name]:  # only this command's module is imported
            importlib.import_module(f"t2x_core.cli.{name.replace('-', '_')}").configure(sub)
    return parser, commands.choices


def parse(arguments: list[str]) -> argparse.Namespace:
    """What is wanted; UserError for what is not understood."""
    parser, commands = _parser(arguments)
    word = next(iter(arguments), "--help")
    if not word.startswith("-") and word not in COMMANDS:
        hint = did_you_mean(word, COMMANDS) or f"there are: {', '.join(COMMANDS)}"
        raise UserError(f'there is no command "{word}"', where="command line", hint=hint)
    chosen, rest = parser.parse_known_args(arguments)
    more = next((name for name in ("overrides", "prompts") if hasattr(chosen, name)), None)
    plain = False  # behind "--" nothing is an option
    for text in rest:
        if text == "--" and not plain:
            plain = True
        elif more is None or (text.startswith("-") and " " not in text and not plain):
            raise _unknown(text, word, commands[word].format_help())
        else:  # argparse takes none of them behind an option
            setattr(chosen, more, [*getattr(chosen, more), text])
    return chosen


def _unknown(text: str, command: str, usage: str) -> UserError:
    hint = did_you_mean(text, re.findall(r"--[\w-]+", usage)) or f"`t2x {command} --help` shows what there is"
    if text.startswith("-") and "=" in text and "key=value" in usage:
        hint = f"a setting has no dashes: {text.lstrip('-')}"
    return UserError(f'"{text}" is not understood', where="command line", hint=hint)


if __name__ == "__main__":
    sys.exit(main())
