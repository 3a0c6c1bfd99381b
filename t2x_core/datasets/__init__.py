"""Captioned data sets that anyone may download: fetched, checked and written as a folder that a recipe can train on."""

from t2x_core.datasets.emoji import write_emoji
from t2x_core.datasets.npm import NpmPackage, fetch
from t2x_core.datasets.written import Written

__all__ = ["NpmPackage", "Written", "fetch", "write_emoji"]
