"""`t2x bench backbone`."""

from __future__ import annotations

import argparse
from pathlib import Path

from t2x_core.bench.backbone.options import add_arguments, missing_pixart, read
from t2x_core.cli.bench.output import check_writable, write_json
from t2x_core.cli.options import path


def configure(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument("--json", type=path, metavar="FILE", help="also write all times to FILE, after each cell")
    parser.add_argument("--plot", type=path, metavar="FILE", help="also draw cost against N (PNG)")
    parser.add_argument(
        "--from", type=path, metavar="FILE", dest="earlier", help="measure nothing: show what --json wrote"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    request = read(arguments)
    for file in (arguments.json, arguments.plot):
        if file:
            check_writable(file)
    if arguments.earlier:
        return _show(arguments.earlier, arguments.plot)

    import torch

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    options = request.on(torch.cuda.is_available())

    from t2x_core.bench.backbone.attention_cost import attention_costs
    from t2x_core.bench.backbone.measure import Bench
    from t2x_core.bench.backbone.report import cell_table, header, summary, title

    bench = Bench(options)
    results = bench.results
    print(header(results))
    if arguments.variants is None and missing_pixart():
        print('pixart is left out: diffusers is not installed (pip install "t2x[bench]")')
    results.attention = attention_costs(options)
    for grid, pass_ in options.cells():
        print(f"\n{title(grid, pass_)}", flush=True)
        print(cell_table(bench.measure(grid, pass_)), flush=True)
        if arguments.json:
            write_json(arguments.json, results.as_json())
    print(f"\n{summary(results)}")
    if arguments.plot:
        from t2x_core.bench.backbone.plot import plot

        plot(results, arguments.plot)
    return 0


def _show(earlier: Path, image: Path | None) -> int:
    from t2x_core.bench.backbone.report import cell_table, header, summary, title
    from t2x_core.bench.backbone.results import Results

    results = Results.read(earlier)
    print(header(results))
    for cell in results.cells:
        print(f"\n{title(cell.grid, cell.pass_)}\n{cell_table(cell)}")
    print(f"\n{summary(results)}")
    if image:
        from t2x_core.bench.backbone.plot import plot

        plot(results, image)
    return 0
