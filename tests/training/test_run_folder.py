import importlib.metadata
import json
import os
import re

import pytest

from t2x_core.errors import UserError
from t2x_core.recipe import find_recipe
from t2x_core.runs import find_run
from t2x_core.training import run_folder


def test_runs_never_share_a_folder(tmp_path):
    folders = [run_folder.new_run(tmp_path, "mine") for _ in range(3)]
    assert len(set(folders)) == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folders[0].name)
    assert sorted(folders) == folders


def test_a_run_is_found_by_folder_by_recipe_and_newest_first(tmp_path):
    for stamp in ("2026-01-01_00-00-00", "2026-01-02_00-00-00"):
        (tmp_path / "mine" / stamp).mkdir(parents=True)
        (tmp_path / "mine" / stamp / "recipe.yaml").write_text("{}")
    (tmp_path / "mine" / "2026-01-03_00-00-00").mkdir()  # no recipe: not a run
    newest = tmp_path / "mine" / "2026-01-02_00-00-00"
    assert find_run("mine", tmp_path) == newest
    assert find_run(str(tmp_path / "mine")) == newest
    assert find_run(str(newest)) == newest
    with pytest.raises(UserError, match='there is no run "other"'):
        find_run("other", tmp_path)


def test_the_newest_run_is_the_newest_by_time(tmp_path):
    """Not by name: a run may be called anything; a copy has other times than the run, but notes when it was begun."""
    for name, written, began in (("zebra", 300, 10.0), ("baseline", 200, 30.0), ("2026-01-01", 100, 20.0)):
        run = tmp_path / "mine" / name
        run.mkdir(parents=True)
        (run / "recipe.yaml").touch()
        os.utime(run / "recipe.yaml", (written, written))
        (run / "environment.json").write_text(json.dumps({"began": began}))
    assert find_run("mine", tmp_path).name == "baseline"
    for damaged in ("{", "[]", '{"began": "now"}'):
        for run in (tmp_path / "mine").iterdir():
            (run / "environment.json").write_text(damaged)
        assert find_run("mine", tmp_path).name == "zebra"


def test_what_is_allowed_may_differ_but_not_what_weights_depend_on():
    own = {
        "optimizer": {"lr": 1.0, "name": "adamw", "lr_scale": {}},
        "tasks": {"t": {"data": {"folder": "/a", "n": 1}}},
    }
    new = {
        "optimizer": {"lr": 2.0, "name": "adamw", "lr_scale": {}},
        "tasks": {"t": {"data": {"folder": "/b", "n": 2}}},
    }
    place = {"tasks.t.data.folder"}
    with pytest.raises(
        UserError, match=r"optimizer\.lr \(1\.0 → 2\.0\), tasks\.t\.data\.n \(1 → 2\); .*--allow what differs"
    ):
        run_folder.check_resume("run", own, new, place)
    with pytest.raises(UserError, match=r"recipe: tasks\.t\.data\.n \(1 → 2\);"):
        run_folder.check_resume("run", own, new, place, ["lr"])
    for allow in (["lr", "data"], ["optimizer", "tasks.t"], ["optimizer.lr", "n"]):
        run_folder.check_resume("run", own, new, place, allow)
    with pytest.raises(UserError, match="not possible here: the weights would not fit"):
        run_folder.check_resume(
            "run", own, {**own, "optimizer": {**own["optimizer"], "name": "lion"}}, (), ["optimizer"]
        )


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make .*file.*set logging\.runs_dir"):
        run_folder.new_run(tmp_path / "file", "mine")


def test_which_keys_may_change_on_resume():
    own = {"seed": 0, "trainer": {"max_steps": 5, "global_batch": 8}, "logging": {"samples": 3}}
    free = {"seed": 0, "trainer": {"max_steps": 9, "global_batch": 8}, "logging": {"samples": 4}}
    run_folder.check_resume("run", own, free)
    with pytest.raises(UserError, match=r"seed \(0 → 1\), trainer\.global_batch \(8 → 4\)"):
        run_folder.check_resume("run", own, {"seed": 1, "trainer": {"max_steps": 5, "global_batch": 4}, "logging": {}})


def test_the_environment_names_versions_machine_and_commit():
    found = run_folder.environment(["pluggy", "t2x", "no-such-package"])
    assert found["versions"]["pluggy"] == importlib.metadata.version("pluggy")
    assert found["versions"]["no-such-package"] == "not installed"
    assert found["versions"]["torch"]
    assert found["machine"]["cpu_threads"] >= 1
    assert set(found["git"]) == {"commit", "changed"}


def test_recipes_of_one_name_in_several_folders_keep_their_runs_apart(tmp_path):
    names = {name: run_folder.recipe_name(find_recipe(name)) for name in ("quickstart", "text_to_video/quickstart")}
    assert names == {"quickstart": "quickstart", "text_to_video/quickstart": "text_to_video_quickstart"}
    for name in names.values():
        (tmp_path / name / "2026-01-31_12-00-00").mkdir(parents=True)
        (tmp_path / name / "2026-01-31_12-00-00" / "recipe.yaml").touch()
    assert find_run("text_to_video/quickstart", tmp_path).parent.name == "text_to_video_quickstart"
    assert find_run("quickstart", tmp_path).parent.name == "quickstart"
    own = tmp_path / "text_to_video_quickstart" / "2026-01-31_12-00-00" / "recipe.yaml"
    assert run_folder.recipe_name(own) == "text_to_video_quickstart"
