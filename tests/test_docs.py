"""The pages say what is: the settings are those of the code, links lead somewhere, recipes in them are good."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t2x_core.recipe import Recipe, commented

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def settings_in(page: str) -> str:
    return page.split("## All settings", 1)[1].split("```yaml\n", 1)[1].split("```", 1)[0]


def test_the_settings_in_the_page_are_those_of_the_code():
    """To write them anew: python -m tests.test_docs"""
    assert settings_in((ROOT / "docs/recipes.md").read_text()).rstrip("\n") == commented(Recipe)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_page_is_reached_from_the_readme():
    linked = re.findall(r"\(docs/(\w+\.md)\)", (ROOT / "README.md").read_text())
    assert sorted(set(linked)) == sorted(page.name for page in PAGES if page.parent.name == "docs")


if __name__ == "__main__":
    page = ROOT / "docs/recipes.md"
    text = page.read_text()
    head, rest = text.split("## All settings", 1)
    before = rest.split("```yaml\n", 1)[0]
    page.write_text(f"{head}## All settings{before}```yaml\n{commented(Recipe)}\n```\n")
