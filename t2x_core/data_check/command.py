"""What `t2x data check` does: looks, reports and writes a cleaned manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from t2x_core.data_check.check import Check
from t2x_core.data_check.kinds import KINDS
from t2x_core.data_check.page import Summary, render_page
from t2x_core.plain_files import write_whole
from t2x_core.terminal import command, printable
from t2x_core.wording import counted

FINDINGS, PAGE = "findings.jsonl", "index.html"
"""Names of the files that are written."""
EXAMPLES, LONGEST = 2, 120
"""Findings of a kind that the terminal shows, and characters of each."""


def run_check(check: Check, out: Path, fix: Path | None, words: Sequence[str]) -> int:
    """Checks, reports and mends. The exit code: 0 nothing is wrong, 1 something is, 130 stopped.

    `words`: the recipe and its settings, as they were given.
    """
    began = time.monotonic()
    check.look()
    findings = check.findings()
    when = time.strftime("%Y-%m-%d %H:%M")
    summary = Summary(check.name, len(check.files), len(check.seen), findings, when)
    lines = "".join(json.dumps(finding.plain(), ensure_ascii=False) + "\n" for finding in findings)
    write_whole(out / FINDINGS, lines.encode("utf-8", "backslashreplace"))
    page = render_page(summary, check.thumbnails(summary))
    write_whole(out / PAGE, page.encode("utf-8", "backslashreplace"))
    if findings:
        check.console.print(_table(summary), soft_wrap=False)
    checked = f"{summary.checked:,} of {counted(summary.files, 'file')}"
    print(f"checked    {checked} in {time.monotonic() - began:.1f} s; {counted(len(findings), 'finding')}")
    print(f"report     {out / PAGE}, {out / FINDINGS}")
    if check.stopped:
        print("stopped    the same command goes on where it was")
        return 130
    if fix is not None:
        settings = check.fix(findings, fix)
        if settings:
            replaced = {setting.partition("=")[0] for setting in settings}
            kept = [word for word in words if word.partition("=")[0] not in replaced]
            print(f"use        {command('t2x', 'fit', *kept, *settings)}")
    return 1 if findings else 0


def _table(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("finding", no_wrap=True)
    table.add_column("count", justify="right")
    table.add_column("first", overflow="fold")
    for kind, findings in summary.by_kind.items():
        first = [printable(f"{finding.name}: {finding.detail}", LONGEST) for finding in findings[:EXAMPLES]]
        table.add_row(KINDS[kind].title, f"{len(findings):,}", Text("\n".join(first)))
    return table
