"""What a manifest calls a file, so that reading it finds the file, or the member of a shard, again."""

from __future__ import annotations

import os
from pathlib import Path

from t2x_core.media import ParquetCell, Place, container, is_remote


def path_in_manifest(place: Place, name: str, root: Path) -> str | None:
    """Its path below `root`, or, outside of it, its whole path or URL; `train-000.tar!a/b.jpg` for a member of a shard.

    `name`: what it is called in messages, which of a cell of a Parquet file ends in the number of its row. None: it has
    a name that no text can have.
    """
    path = container(place)
    if not is_remote(place):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        inside = os.path.relpath(path, root)
        path = Path(path if inside.startswith(os.pardir) else inside).as_posix()
    if not isinstance(place, str):
        path += f"!{name.rpartition('!')[2] if isinstance(place, ParquetCell) else place.name}"
    try:
        path.encode()
    except UnicodeEncodeError:
        return None
    return path
