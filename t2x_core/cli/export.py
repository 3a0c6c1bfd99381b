"""`t2x export RUN --out FOLDER`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from t2x_core.cli.options import path
from t2x_core.cli.sample_arguments import check_which, mistake
from t2x_core.terminal import command


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run, or name of a recipe (its newest run)")
    parser.add_argument("--out", type=path, required=True, help="new folder for the model, its recipe and its card")
    parser.add_argument("--checkpoint", default="last", help="last, best, or the number of a step (default last)")
    parser.add_argument("--license", metavar="NAME", help="for the model card, as the hub writes it: apache-2.0, mit …")
    what = "t2x (default), or diffusers: a pipeline of text to image that diffusers opens"
    parser.add_argument("--format", choices=("t2x", "diffusers"), default="t2x", help=what)
    merge = "of a run that trained a LoRA: write the whole model, the LoRA added, in place of the LoRA alone"
    parser.add_argument("--merge", action="store_true", help=merge)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.runs import find_run

    check_which(arguments.checkpoint)
    out: Path = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise mistake(f"{out} is there already", "choose a new folder")
    run = find_run(arguments.run_folder)

    from t2x_core.fine_tuned import lora_of

    tuned = lora_of(run) is not None
    if arguments.merge and not tuned:
        raise mistake(f"--merge: {run} was not trained with a LoRA", "leave --merge out")
    if tuned and not arguments.merge and arguments.format == "t2x":  # a pipeline of diffusers is a whole model
        return _export_lora(run, arguments)

    from t2x_core.generation import T2XPipeline
    from t2x_core.model_card import check_license
    from t2x_core.runs import MODEL_FILE

    if arguments.license is not None:
        check_license(arguments.license)
    try:
        pipeline = T2XPipeline.from_pretrained(run, arguments.checkpoint, "cpu")
        if arguments.format == "diffusers":
            from t2x_core.to_diffusers import export_diffusers

            export_diffusers(pipeline.assembly, pipeline.module, out, license=arguments.license)
            print(
                f"a pipeline of diffusers → {out}; t2x_core.diffusers_pipeline.PTDiTPipeline.from_pretrained opens it"
            )
            return 0
        pipeline.save_pretrained(out, license=arguments.license)
    except OSError as error:
        raise mistake(f"cannot write {out}: {error.strerror}") from error
    size = (out / MODEL_FILE).stat().st_size
    again = command("t2x", "sample", out)
    print(f"averaged weights → {out / MODEL_FILE} ({size / 1e6:.1f} MB); {again} takes it like a run")
    licence = "" if arguments.license else "; it names no licence (--license apache-2.0, say)"
    print(f"model card → {out / 'README.md'}: read it before you share the folder{licence}")
    return 0


def _export_lora(run: Path, arguments: argparse.Namespace) -> int:
    from t2x_core.fine_tuned import open_lora
    from t2x_core.lora.files import MODEL, SINGLE, WHOLE, public_name, write_lora

    out: Path = arguments.out
    lora, made = open_lora(run, arguments.checkpoint), not out.exists()
    try:
        write_lora(lora, out)
    except OSError as error:
        if made:
            shutil.rmtree(out, ignore_errors=True)
        raise mistake(f"cannot write {out}: {error.strerror}") from error
    size = (out / MODEL).stat().st_size
    print(
        f"LoRA of {public_name(lora.origin)} → {out} ({size / 1e6:.2f} MB, for peft), and {out / SINGLE} (for ComfyUI)"
    )
    if lora.whole:
        print(f"{len(lora.whole)} parameters that were trained whole → {out / WHOLE}; {SINGLE} has them not")
    print(f"{command('t2x', 'sample', 'BASE', '--lora', out)} adds it to its base")
    return 0
