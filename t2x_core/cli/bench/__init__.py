"""`t2x bench WHAT`: one file a kind."""

from __future__ import annotations

import argparse

from t2x_core.cli.bench import backbone, data, fit, gpu, presets, samplers, start


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    fit.configure(kinds.add_parser("fit", help="time of a step of `t2x fit` against a bare PyTorch loop"))
    data.configure(kinds.add_parser("data", help="time of a clip as the loader reads it against decord alone"))
    backbone.configure(
        kinds.add_parser("backbone", help="proxy, fused and dense attention against each other and PixArt")
    )
    samplers.configure(
        kinds.add_parser("samplers", help="scores of a trained model by solver, evaluations and guidance")
    )
    start.configure(kinds.add_parser("start", help="time and memory of a start on many images, first and second"))
    presets.configure(kinds.add_parser("presets", help="parameters and FLOPs of the named sizes, as Markdown"))
    gpu.configure(kinds.add_parser("gpu", help="all that is measured on a GPU, in one go: tests, times, trainings"))
