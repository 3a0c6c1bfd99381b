"""All that is measured on a GPU, in one go: each part is a process with a time limit, so a failure loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

T2X = (sys.executable, "-m", "t2x_core.cli.main")
GRACE = 45
"""Seconds that a part has to end after it was asked to, as by Ctrl-C."""

MODEL_512 = (
    *("backbone.preset=XL", "backbone.attention=proxy", "backbone.patch_size=2", "backbone.window=[1,4,4]"),
    *("text_encoders.bytes.dim=4096", "text_encoders.bytes.depth=0", "text_encoders.bytes.max_words=119"),
    *("trainer.precision=bf16-mixed", "trainer.gradient_checkpointing=selective", "trainer.compile=true"),
    *("trainer.global_batch=64", "trainer.accumulation=4", "logging.log_every=5"),
)
"""Makes of `text_to_image/shapes` the network of `text_to_image/512`: as many tokens of an image (1,024) and of text,
of the same width. Images of 64 × 64 pixels stand for its latents, so nothing has to be downloaded."""
TINY = (
    *("backbone.preset=null", "backbone.width=32", "backbone.depth=2", "backbone.heads=2", "backbone.attention=fused"),
    *("text_encoders.bytes.dim=16", "text_encoders.bytes.depth=1", "text_encoders.bytes.heads=2"),
    *("diffusion.sampler.steps=2", "trainer.global_batch=4", "trainer.accelerator=cpu", "trainer.precision=32-true"),
    *("trainer.threads=1", "trainer.workers=0", "optimizer.warmup_steps=2", "logging.log_every=1", "logging.samples=2"),
    *("logging.score_samples=2", "logging.final_score_samples=2"),
)


@dataclass(frozen=True)
class Part:
    """One command."""

    name: str
    command: tuple[str, ...]
    share: float
    """Of the minutes that are left when it begins."""
    json: Path | None = None
    """What it writes, if it writes figures."""
    run: Path | None = None
    """The folder of its run, if it trains."""
    needs: tuple[str, ...] = ()
    """Packages without which it is left out."""
    environment: Mapping[str, str] = field(default_factory=dict)
    fills: bool = False
    """Whether it is to work until its time is up; another that did not end in its time has failed."""


def parts(out: Path, smoke: bool) -> list[Part]:
    """The parts in their order; `smoke`: tiny, on a CPU, to see that all of them work."""
    train = ("trainer.max_steps=4", *TINY, "logging.sample_every=2", "logging.validate_every=4") if smoke else ()
    scored = train or ("logging.sample_every=1000", "logging.validate_every=1000")
    shapes = ("tasks.text-to-image.data.shapes.size=16", "tasks.text-to-image.data.shapes.val_count=6")
    model = (*shapes, *TINY) if smoke else MODEL_512
    widths = ("--width", "32", "--depth", "1", "--tokens", "64,256", "--clips", "4x8x8", "--device", "cpu")
    if not smoke:
        tokens, clips = "1024,4096,16384,65536", "16x16x16,64x16x16"
        widths = ("--width", "1152", "--depth", "2", "--tokens", tokens, "--clips", clips, "--device", "cuda")
    backbone = (*widths, "--budget", "1" if smoke else "6", "--variants")
    variants = "fused,proxy,dense" + (",pixart" if find_spec("diffusers") else "")
    blocks = ("--blocks", "2" if smoke else "5", "--steps", "2")
    quiet = ("logging.sample_every=0", "logging.validate_every=1000", "logging.final_score_samples=0")
    steps = "trainer.max_steps=4" if smoke else "trainer.max_steps=60"
    tests = ("-k", "keyed") if smoke else ()
    kind = {"T2X_TEST_DEVICE": "cpu" if smoke else "cuda"}
    fits = {name: out / "runs" / name for name in ("stalls", "shapes", "joint")}
    joint = "joint/quickstart" if smoke else "joint/shapes"
    small = ("trainer.tokens_per_step=null",) if smoke else ()
    fit_json, backbone_json = out / "fit.json", out / "backbone.json"
    return [
        Part("tests", (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", *tests), 0.2, None, None,
             ("pytest", "hypothesis"), kind),
        Part("backbone", (*T2X, "bench", "backbone", *backbone, variants, "--json", str(backbone_json)), 0.3,
             backbone_json),
        Part("fit", (*T2X, "bench", "fit", "text_to_image/shapes", *model, *blocks, "--in-memory",
                     "--json", str(fit_json)), 0.25, fit_json),
        Part("stalls", (*T2X, "fit", "text_to_image/shapes", "--folder", str(fits["stalls"]), *model, *quiet, steps),
             0.3, None, fits["stalls"]),
        Part("shapes", (*T2X, "fit", "text_to_image/shapes", "--folder", str(fits["shapes"]), *scored,
                        *(shapes if smoke else ())), 0.5, None, fits["shapes"], fills=True),
        Part("joint", (*T2X, "fit", joint, "--folder", str(fits["joint"]), *scored, *small), 1.0, None, fits["joint"],
             fills=True),
    ]  # fmt: skip


def run_parts(todo: list[Part], minutes: float, out: Path, done: Callable[[str, Mapping[str, Any]], None]) -> None:
    """Runs the parts one after another and gives what came of each to `done`."""
    deadline = time.monotonic() + 60 * minutes
    for part in todo:
        left = deadline - time.monotonic() - GRACE
        done(part.name, _run(part, max(5.0, left * part.share), out))


def _run(part: Part, limit: float, out: Path) -> dict[str, Any]:
    result: dict[str, Any] = {"command": " ".join(part.command), "limit": limit}
    lacking = [name for name in part.needs if find_spec(name) is None]
    if part.name == "tests" and not Path("tests/gpu").is_dir():
        return result | {"state": "left out: there is no tests/gpu here; start it in the folder of the sources"}
    if lacking:
        return result | {"state": f"left out: {', '.join(lacking)} is not installed"}
    log = out / f"{part.name}.log"
    began = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            part.command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **part.environment},
            start_new_session=True,  # so that what it started ends with it
        )
        late = False
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = True
            _end(process)
        except BaseException:
            _end(process)
            raise
    ended = "time was up" if part.fills else "failed (time was up)"
    state = ended if late else "done" if process.returncode == 0 else f"failed ({process.returncode})"
    result |= {"state": state, "seconds": time.monotonic() - began, "log": log.name}
    result["last_lines"] = log.read_text(errors="replace").splitlines()[-12:]
    from t2x_core.bench.gpu_report import read_figures

    try:
        result["figures"] = read_figures(part.json, part.run)
    except Exception as error:  # what one part left half-written must not end the others
        result["figures"], result["unread"] = {}, f"{type(error).__name__}: {error}"
    return result


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks as Ctrl-C does, so that a run saves and stops; then ends the process and what it started."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
