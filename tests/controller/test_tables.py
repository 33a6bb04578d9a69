"""What people see on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from magi.cli import tables

from . import recorded
from .test_verdict import MISSING

REPORT = recorded.run("up").last("report")


def drawn(document: dict, *, terminal: bool) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=terminal, no_color=True, width=120, soft_wrap=True)
    console.print(tables.report(console, document))
    return [line.rstrip() for line in Text.from_ansi(console.file.getvalue()).plain.splitlines()]


@pytest.mark.parametrize(
    ("terminal", "said"),
    [
        (True, [f"✗ degraded: {MISSING[0]['detail']}", "! Mind this."]),
        (False, [f"Degraded: {MISSING[0]['detail']}", "Warning: Mind this."]),
    ],
)
def test_a_report_ends_with_what_is_missing_and_warnings(terminal, said):
    summary = {**REPORT["summary"], "degraded": MISSING, "warnings": ["Mind this."]}
    assert drawn({**REPORT, "summary": summary}, terminal=terminal)[-2:] == said
