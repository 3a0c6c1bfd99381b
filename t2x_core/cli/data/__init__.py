"""`t2x data WHAT`: one file a kind."""

from __future__ import annotations

import argparse

from t2x_core.cli.data import caption, check, get, index


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    get.configure(kinds.add_parser("get", help="download a captioned data set into a folder"))
    check.configure(kinds.add_parser("check", help="look at every file of a recipe, and say what is wrong"))
    caption.configure(kinds.add_parser("caption", help="caption images by a model on this machine, into a manifest"))
    index.configure(kinds.add_parser("index", help="look at a recipe's files once, so that training starts at once"))
