"""The plugins that are installed: entry points of the group `t2x`. Nothing here imports one."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from t2x_core.errors import UserError

GROUP = "t2x"


def installed() -> dict[str, EntryPoint]:
    """Entry points by name, which is the name of the task, codec or text encoder; two of one name are an error."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f'two installed packages register "{point.name}": {package(other)} and {package(point)}',
                hint="uninstall one",
            )
    return dict(sorted(found.items()))


def package(point: EntryPoint) -> str:
    """Name and version of the package that an entry point belongs to."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value
