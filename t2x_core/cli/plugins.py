"""`t2x plugins`."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.entry_points import installed, package

    points = installed()
    rows = [(name, package(point), point.value) for name, point in points.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for name, owner, module in rows:
        print(f"{name:<{widths[0]}}  {owner:<{widths[1]}}  {module}")
    return 0
