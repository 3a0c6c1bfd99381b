"""What can be wrong: the kinds of findings, in the order in which they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from t2x_core.inventory import Entry
from t2x_core.media import ParquetCell, container
from t2x_core.remote import is_url, public_url


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    title: str
    advice: str
    """What it means, and what to do."""


KINDS = {
    "damaged": Kind("Cannot be read", "Training leaves these out. Mend or remove them."),
    "leak": Kind(
        "In training and held out",
        "The validation loss sees what was trained on. Remove one side, or give both one group, which is held "
        "out together.",
    ),
    "camera": Kind(
        "Cameras",
        "These cannot be cameras around an object. Correct the camera files, or set axes, poses, up and center.",
    ),
    "caption": Kind("Captions that cannot be read", "Save them as UTF-8 text; correct the rows of the manifest."),
    "no-caption": Kind("No caption", "Caption them (`t2x data caption`), or set missing_captions."),
    "mojibake": Kind("Wrong encoding", "UTF-8 was read as another encoding once. Convert the text back."),
    "cut": Kind(
        "Captions longer than the text encoder reads",
        "What is behind the end is not seen. Shorten them, or raise the encoder's length.",
    ),
    "repeated": Kind("One caption for many files", "Such a caption says little about each. Check where it comes from."),
    "duplicate": Kind(
        "The same bytes",
        "Each copy counts as a sample of its own. `--fix` keeps the first, with all captions.",
    ),
    "near-duplicate": Kind(
        "Look alike",
        "By their perceptual hash and colours. Judge by eye; a group keeps them on one side.",
    ),
    "count": Kind("Frames missing", "The header of the file says something else than its frames. Make the file anew."),
    "times": Kind("Times of frames", "Clips by frame rate cannot be right. Make the file anew, with rising times."),
    "decoding": Kind("Decoded with errors", "The decoder went on, but frames may be spoilt. Look at them."),
    "frozen": Kind("Stands still", "Little is to be learned of motion here. Cut the still part off, or remove them."),
    "black": Kind("Black frames", "Cut them off, or remove the file."),
    "cuts": Kind("Shot changes", "A clip across a cut shows a jump. Split the files at the cuts."),
    "small": Kind("Much smaller than the samples", "They are enlarged more than twice, and look soft."),
    "long": Kind(
        "Much longer than the longest samples",
        "More than half of each is cropped away. Crop them, or raise max_aspect_ratio.",
    ),
    "flat": Kind("Of one colour", "There is nothing to see. Remove them if that is not meant."),
    "grey": Kind("Without colours", "Captions should say so, or the model learns grey by chance."),
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a file, an object or a caption."""

    kind: str
    task: str
    name: str
    """The file, as it is called in messages, the object or the row."""
    detail: str
    entry: Entry | None = None
    """None: it is no file."""
    where: str = ""
    """Row of a manifest, camera file or line of a caption, if it is no file."""
    others: tuple[Entry, ...] = ()
    """Those that it is like."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        plain = {"kind": self.kind, "task": self.task, "file": self.name, "detail": self.detail}
        if self.entry is not None:
            place = self.entry.place
            plain["path"] = public_url(path) if is_url(path := container(place)) else path
            if not isinstance(place, str):
                plain["member"] = self.name.rpartition("!")[2] if isinstance(place, ParquetCell) else place.name
        if where := self.where or (self.entry.where if self.entry else ""):
            plain["where"] = where
        return {**plain, "like": [other.name for other in self.others]} if self.others else plain
