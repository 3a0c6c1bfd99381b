"""`t2x new-plugin NAME --kind task|codec|text-encoder|source`."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shutil
import string
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from t2x_core.cli.options import path
from t2x_core.errors import UserError
from t2x_core.terminal import command, printable

KINDS = ("task", "codec", "text-encoder", "source")
TESTS = {"task": "TaskTests", "codec": "CodecTests", "text-encoder": "TextEncoderTests", "source": "SourceTests"}
TEMPLATES = Path(__file__).parents[1] / "templates"
LONGEST = 40
WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""What YAML reads as something else than text."""
DEVICES = ("aux", "con", "nul", "prn", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10)))
"""What Windows allows as the name of no file."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="its name in a recipe: small letters, digits and dashes")
    parser.add_argument("--kind", choices=KINDS, default="task", help="what it brings (default task)")
    parser.add_argument("--folder", type=path, help="the package's folder, which is made (default: NAME)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    name: str = arguments.name
    check_name(name)
    folder = arguments.folder or Path(name)
    written = write(name, arguments.kind, folder)
    print("\n".join(f"wrote {file}" for file in written))
    print(f"next: {command('pip', 'install', '-e', folder)} && {command('t2x', 'check-plugin', name)}")
    return 0


def check_name(name: str) -> None:
    """UserError if a plugin of this name could not be installed, imported or named in a recipe."""
    shown, module = printable(name, 60), name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        hint = f"small letters, digits and single dashes, at most {LONGEST}, a letter first: edge-to-image, say"
        raise _mistake(f'"{shown}" is no name of a plugin', hint)
    reason = ""
    if name in WORDS:
        reason = "is a word of YAML"
    elif keyword.iskeyword(module) or keyword.issoftkeyword(module):
        reason = "is a word of Python"
    elif name in DEVICES:
        reason = "is no name of a file on Windows"
    elif module in sys.stdlib_module_names:
        reason = "is a module of Python"
    elif module in ("t2x", "test", "tests", "recipes"):
        reason = "is taken"
    elif (word := "".join(part.title() for part in name.split("-"))) in _names_of_templates():
        reason = f"gives its class a name, {word}, that is one of t2x"
    if reason:
        raise _mistake(f'"{shown}" {reason}', f"add a word: {name}-task, say")
    from t2x_core.entry_points import installed

    for plugin in installed():
        if plugin.name == name:
            raise _mistake(f'"{shown}" is a plugin of {plugin.package} already', "choose another name, or uninstall it")
    if importlib.util.find_spec(module) is not None:
        raise _mistake(f'there is a package "{module}" already', "choose another name")


def write(name: str, kind: str, folder: Path) -> list[Path]:
    """The files of a new package; UserError if there is something where it shall be."""
    if folder.exists() or folder.is_symlink():
        raise _mistake(f"{folder} is there already", "nothing is overwritten: choose another --folder")
    module = name.replace("-", "_")
    values = {
        **{"name": name, "module": module, "Class": "".join(word.title() for word in name.split("-"))},
        **{"kind": "data source" if kind == "source" else kind.replace("-", " "), "Tests": TESTS[kind]},
        "versions": _versions(),
    }
    values["Kind"] = values["kind"].capitalize()
    own, shared = TEMPLATES / kind.replace("-", "_"), TEMPLATES / "shared"
    files = {
        "pyproject.toml": shared / "pyproject.toml",
        "README.md": shared / "README.md",
        f"{module}/__init__.py": shared / "init.py",
        f"{module}/config.py": own / "config.py",
        f"{module}/plugin.py": own / "plugin.py",
        f"tests/test_{module}.py": shared / "test.py",
        f"{module}.yaml": own / "recipe.yaml",
    }
    written = []
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise _mistake(f"cannot make {folder}: {error.strerror}", "choose another --folder") from error
    try:
        for place, template in files.items():
            text = template.with_name(f"{template.name}.template").read_text()
            file = folder / place
            file.parent.mkdir(exist_ok=True)
            file.write_text(string.Template(text).substitute(values))
            written.append(file)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _mistake(f"cannot write into {folder}: {error.strerror}", "choose another --folder") from error
    return written


def _names_of_templates() -> set[str]:
    """Classes that the new files import."""
    return {
        word.removesuffix("Config")
        for file in TEMPLATES.rglob("*.py.template")
        for line in file.read_text().splitlines()
        if "import" in line
        for word in re.findall(r"\b[A-Z]\w+", line)
    }


def _versions() -> str:
    """Of t2x, that a plugin made today is made for: while it is 0.x, a new minor version may change the interfaces."""
    try:
        major, minor, *_ = version("t2x").split(".")
    except (PackageNotFoundError, ValueError):
        return ""
    after = f"{int(major) + 1}" if int(major) else f"0.{int(minor) + 1}"
    return f">={major}.{minor},<{after}"


def _mistake(message: str, hint: str) -> UserError:
    return UserError(message, where="command line", hint=hint)
