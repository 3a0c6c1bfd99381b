"""`t2x bench gpu`: a part that fails or hangs loses nothing; without a GPU, one line."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch

from t2x_core.bench import gpu
from t2x_core.cli.main import main


def test_a_part_that_fails_or_hangs_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 1)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    file = tmp_path / "x.json"
    codes = {
        "fails": "raise SystemExit(3)",
        "hangs": deaf,
        "writes": f"open({str(file)!r}, 'w').write('{{\"ratio\": 2}}')",
        "half": f"open({str(file)!r}, 'w').write('{{')",
    }
    todo = [gpu.Part(name, (sys.executable, "-c", code), 0.5, file) for name, code in codes.items()]
    todo.append(gpu.Part("fills", (sys.executable, "-c", "import time; time.sleep(60)"), 0.5, fills=True))
    todo.append(gpu.Part("lacks", ("none",), 0.5, needs=("no_such_package",)))
    found = {}
    began = time.monotonic()
    gpu.run_parts(todo, 0.2, tmp_path, lambda name, result: found.update({name: result}))
    assert time.monotonic() - began < 50
    assert found["fails"]["state"] == "failed (3)"
    assert found["hangs"]["state"] == "failed (time was up)"
    assert found["fills"]["state"] == "time was up"
    assert found["writes"]["figures"] == {"ratio": 2}
    assert found["half"]["figures"] == {}
    assert "JSONDecodeError" in found["half"]["unread"]
    assert found["lacks"]["state"] == "left out: no_such_package is not installed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert main(["bench", "gpu", "--out", str(tmp_path / "x")]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_all_parts_work(tmp_path):
    assert main(["bench", "gpu", "--device", "cpu", "--smoke", "--minutes", "15", "--out", str(tmp_path / "x")]) == 0
    report = json.loads((tmp_path / "x" / "gpu.json").read_text())
    assert {name: part["state"] for name, part in report["parts"].items()} == dict.fromkeys(
        ("tests", "backbone", "fit", "stalls", "shapes", "joint"), "done"
    )
    assert all(part["figures"] for name, part in report["parts"].items() if name != "tests")
    assert (tmp_path / "x" / "gpu.png").exists()
