"""Files on the Hugging Face hub, by the URLs of huggingface_hub: hf://owner/name[@revision][/path]. Without torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from t2x_core.errors import UserError

SCHEME = "hf://"
WANTED = (
    *("*.safetensors", "*.safetensors.index.json", "recipe.yaml"),
    *(f"parts/*{ending}" for ending in (".json", ".txt", ".model", ".jinja")),
)
"""Files of a repository that are fetched: weights, and what an exported model needs; no pickle and no code."""


@dataclass(frozen=True)
class HubPlace:
    """A repository on the hub, or a file or folder in it."""

    repository: str
    revision: str | None
    path: str
    """Inside the repository; "" is all of it."""

    def fetch(self) -> tuple[Path, str]:
        """The file or folder on this machine, and its URL with the commit that it is of. Downloads what the
        cache does not hold (`HF_HUB_OFFLINE` is honoured).

        Raises:
            UserError: it cannot be fetched, or there is no such path.
        """
        from huggingface_hub import snapshot_download

        patterns = [self.path, *(f"{self.path}/{name}" for name in WANTED)] if self.path else list(WANTED)
        try:
            root = Path(snapshot_download(self.repository, revision=self.revision, allow_patterns=patterns))
        except Exception as error:  # the hub's library raises errors of many classes, those of its HTTP client too
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{self.repository} cannot be fetched from the hub: {first}") from error
        if not self.path and not any(root.rglob("*.safetensors")):
            hint = "pickles and code of a repository are not read"
            raise UserError(f"{self.repository} has no safetensors on the hub", hint=hint)
        place = root / self.path if self.path else root
        if not place.exists():
            raise UserError(f"there is no {self.path} in {self.repository} on the hub")
        return place, f"{SCHEME}{self.repository}@{root.name}" + (f"/{self.path}" if self.path else "")


def parse_hub(url: str) -> HubPlace | None:
    """What a hub's URL names; None if the text is none. UserError if it is one, and names nothing."""
    if not url.startswith(SCHEME):
        return None
    part = r"[\w.-]+"
    if not (found := re.fullmatch(rf"hf://({part}/{part})(?:@([^/@]+))?(?:/(.+?))?/?", url)):
        raise UserError(f"{url} names nothing on the hub", hint="write hf://owner/name/file.safetensors")
    return HubPlace(found[1], found[2], found[3] or "")


def hub_model(name: str) -> HubPlace | None:
    """What `hf://owner/name`, or `owner/name` where no such folder begins here, names; None if it is neither."""
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) and not os.path.exists(name.partition("/")[0]):
        return parse_hub(SCHEME + name)
    return parse_hub(name)
