"""Writes a folder of images and captions: whole, or not at all; with the hashes of its files."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from t2x_core.errors import UserError

HASHES = "SHA256SUMS"
"""Hashes of all other files, as `sha256sum --check` reads them."""


@dataclass
class Written:
    """A folder while it is written."""

    folder: Path
    hashes: dict[str, str] = field(default_factory=dict)
    """File name → SHA-256, in hex."""

    def add(self, name: str, content: bytes) -> None:
        """Writes a file of the folder.

        Raises:
            ValueError: the name is more than the name of a file.
        """
        if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name:
            raise ValueError(f"{name!r} is no name of a file")
        (self.folder / name).write_bytes(content)
        self.hashes[name] = hashlib.sha256(content).hexdigest()


@contextmanager
def new_folder(out: Path) -> Iterator[Written]:
    """A folder beside `out` that takes its name at the end, with `HASHES` in it; gone again after an error.

    Raises:
        UserError: `out` is there already and not empty, or cannot be written.
    """
    check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", where="command line") from error
    try:
        written = Written(part)
        yield written
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(written.hashes.items()))
        (part / HASHES).write_text(lines, encoding="utf-8")
        part.chmod(0o755)
        if out.is_dir():
            out.rmdir()  # it is empty
        part.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", where="command line") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_free(out: Path) -> None:
    """UserError if there is something in the way of a new folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already", where="command line", hint="choose a new folder: --out FOLDER")
