"""Plugins that are broken in one way: the kit says which, and `t2x fit` does at the first step at the latest."""

from __future__ import annotations

import re

import pytest

from t2x_core.cli.main import main
from t2x_core.testing.run import check, checks_of
from tests.broken_plugins import BREAKS, CODEC, CODEC_BREAKS, CODEC_CONFIG, CONFIG, TASK, Break, line_of, write

ALL = [
    *(pytest.param(CONFIG, TASK, way, id=name) for name, way in BREAKS.items()),
    *(pytest.param(CODEC_CONFIG, CODEC, way, id=name) for name, way in CODEC_BREAKS.items()),
]


@pytest.fixture
def broken(tmp_path, monkeypatch):
    def make(config: str, plugin: str, way: Break):
        write(tmp_path, monkeypatch, config, plugin, way.old, way.new)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize(("config", "plugin", "way"), ALL)
def test_the_check_says_what_is_wrong_and_where(config, plugin, way, broken):
    folder = broken(config, plugin, way)
    with pytest.raises(Exception, match=way.says) as caught:
        getattr(checks_of("broken", []), way.check)()
    text = str(caught.value)
    assert "\n" not in text
    assert 'plugin "broken" of their 1.0: ' in text
    assert text.startswith(line_of(folder, way.line))


@pytest.mark.parametrize(("config", "plugin", "way"), [param for param in ALL if param.values[2].fit != "-"])
def test_fit_says_it_in_one_line_at_the_first_step(config, plugin, way, broken, capsys):
    folder = broken(config, plugin, way)
    task = plugin is TASK
    recipe = ["recipe.yaml"] if task else ["quickstart", "codec.name=broken", "trainer.global_batch=4"]
    assert main(["fit", *recipe, *way.settings]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("t2x: ")
    assert line_of(folder, way.line) in lines[0]
    assert 'plugin "broken" of their 1.0: ' in lines[0]
    assert re.search(way.fit or way.says, lines[0])


@pytest.mark.slow
@pytest.mark.parametrize(("config", "plugin", "way"), ALL)
def test_all_checks_together_find_it(config, plugin, way, broken):
    broken(config, plugin, way)
    found = [result.problem for result in check(checks_of("broken", [])) if result.problem]
    assert any(re.search(way.says, problem) for problem in found)


@pytest.mark.slow
def test_without_a_break_all_checks_pass(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, CONFIG, TASK, "import torch\n", "import torch\n")
    assert [result for result in check(checks_of("broken", [])) if result.problem] == []
