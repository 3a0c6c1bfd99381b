"""A package of the npm registry as one archive: by `npm pack` if there is npm, else by its address."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from t2x_core.errors import UserError
from t2x_core.plain_files import sha256_of

REGISTRY = "https://registry.npmjs.org"
TIMEOUT = 60
"""Seconds without an answer after which a download is given up."""
LONGEST_PACK = 1800
"""Seconds that `npm pack` may take."""


@dataclass(frozen=True)
class NpmPackage:
    """One version of a package, and what its archive must be."""

    name: str
    version: str
    sha256: str
    """Of the .tgz, in hex."""

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}.tgz"

    @property
    def url(self) -> str:
        return f"{REGISTRY}/{self.name}/-/{self.file_name}"


def fetch(package: NpmPackage, folder: Path) -> Path:
    """Downloads the archive of a package into a folder.

    Raises:
        UserError: it cannot be fetched, or is not the archive that was expected.
    """
    file = folder / package.file_name
    npm = shutil.which("npm")
    if npm is not None:
        _pack(npm, package, folder)
    else:
        _download(package.url, file)
    if not file.is_file():
        raise _failed(package, "npm pack wrote no archive")
    found = sha256_of(file)
    if found != package.sha256:
        raise UserError(
            f"{package.file_name} is not the archive that was expected: its SHA-256 is {found}, not {package.sha256}",
            hint="a proxy or a mirror may have changed it",
        )
    return file


def _pack(npm: str, package: NpmPackage, folder: Path) -> None:
    wanted = f"{package.name}@{package.version}"
    command = [npm, "pack", wanted, "--pack-destination", str(folder), "--ignore-scripts", "--silent"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LONGEST_PACK, cwd=folder
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(package, f"npm pack: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise _failed(package, f"npm pack: {lines[0] if lines else f'exit code {done.returncode}'}")


def _download(url: str, file: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, file.open("wb") as out:
            shutil.copyfileobj(answer, out)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise UserError(
            f"{url} cannot be fetched: {getattr(error, 'reason', None) or error}",
            hint="download it elsewhere and name the file: --archive FILE",
        ) from error


def _failed(package: NpmPackage, why: str) -> UserError:
    return UserError(
        f"{package.name} {package.version} cannot be fetched ({why})",
        hint=f"download {package.url} and name the file: --archive FILE",
    )
