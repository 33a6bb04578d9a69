"""What people see on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from magi import lines
from magi.cli import tables
from magi.cli.live import STYLES
from magi.cli.output import Output
from magi.cli.pipeline import show
from magi.progress import READY
from magi.result import Result

from . import recorded
from .test_verdict import MISSING

REPORT = recorded.run("up").last("report")


def drawn(result: Result, picture, *, terminal: bool, width: int = 120) -> list[str]:
    """Return the lines that a person sees of a result."""
    console = Console(file=io.StringIO(), force_terminal=terminal, no_color=True, width=width, soft_wrap=True)
    output = Output()
    output.people = console
    show(output, result, lambda _console, document: picture(document))
    return [line.rstrip() for line in Text.from_ansi(console.file.getvalue()).plain.splitlines()]


def styles(text: Text) -> list[tuple[str, str]]:
    """Return the pieces of a text, each with its whole style."""
    return [(piece.text, str(piece.style)) for piece in Console().render(text) if piece.text.strip()]


@pytest.mark.parametrize(
    ("ready", "total", "shown"),
    [
        (2, 2, [("2/2 ready", "bold green"), ("  profile p", "dim")]),
        (1, 2, [("1/2 ready", "bold yellow"), ("  profile p", "dim")]),
        (0, 2, [("0/2 ready", "bold red"), ("  profile p", "dim")]),
        (0, 0, [("Nothing runs.", "bold")]),
    ],
)
def test_the_sentence_that_sums_up(ready, total, shown):
    document = {"ready_servers": ready, "total_servers": total, "summary": {"profile": "p"}}
    assert styles(tables.ready_line(document)) == shown


def test_the_head_of_a_plan_s_host():
    plan = {"actions": [], "instances": [], "degraded": [], "warnings": [], "notes": [], "memory": []}
    head = tables.plan({"hosts": {"gpu1": plan}, "changes": 0}).renderables[0]
    assert styles(head) == [("gpu1", "bold"), ("  nothing to do", "dim")]


def test_a_report_ends_with_the_gateway_and_what_to_try():
    gateway = {"host": "gw1", "url": "http://127.0.0.1:8000/v1", "url_from": "controller", "names": ["a"]}
    gateway |= {"is_ready": True, "cause": None, "detail": ""}
    example = ["Try it:", f"  curl -s http://127.0.0.1:8000/v1/chat/completions -d '{'x' * 200}'"]
    result = Result({**REPORT, "gateways": [gateway], "example": example}, told=lines.report)
    last = ["Gateway: http://127.0.0.1:8000/v1 routes 1 name: a", "", *example]
    for terminal in (True, False):
        assert drawn(result, tables.report, terminal=terminal)[-4:] == last


NEED = {"own": {"Host": 2 << 30, "CUDA0": 512 << 20}, "mapped": 1 << 30, "parts": {}, "estimated": ""}


def test_a_plan_without_a_terminal_cuts_nothing():
    name, reason = (
        "deepseek-r1-distill-llama-70b-q4_k_m-2",
        "its port changes from 8080 to 8081, " * 5 + "so it restarts.",
    )
    action = {"instance": name, "action": "restart", "reason": reason}
    plan = {
        "actions": [action],
        "instances": [{"name": name, "port": 8081, "need": NEED}],
        "degraded": [],
        "warnings": [],
        "notes": [],
        "memory": [{"device": "Host", "total": 16 << 30, "room": 15 << 30, "given": 3 << 30}],
    }
    result = Result({"hosts": {"gpu1": plan}, "changes": 1}, told=lines.plan)
    shown = drawn(result, tables.plan, terminal=False, width=80)
    assert shown[0] == "gpu1  restart 1"
    assert shown[1] == "  memory: 3.0 GiB needed of 15.0 GiB that instances can have, 16.0 GiB in all"
    assert shown[2].split() == ["action", "instance", "port", "memory", "reason"]
    assert shown[4:] == [f"  restart  {name}  8081  3.0 GiB, CUDA0 512 MiB  {reason}", "", "1 to change: run magi up."]


def test_the_plans_of_several_hosts_begin_with_the_memory_of_all():
    empty = {"profile": "p", "actions": [], "instances": [], "degraded": [], "warnings": [], "notes": []}
    memory = {
        "gpu1": [("Host", 16, 15, 3), ("CUDA0", 24, 20, 20)],
        "gpu2": [("Host", 16, 15, 0)],
    }
    hosts = {
        host: {
            **empty,
            "memory": [dict(zip(("device", "total", "room", "given"), (x[0], *(n << 30 for n in x[1:])))) for x in own],
        }
        for host, own in memory.items()
    }
    result = Result({"hosts": hosts, "changes": 0, "unreachable": []}, told=lines.plan)
    for terminal in (True, False):
        shown = [line.split() for line in drawn(result, tables.plan, terminal=terminal) if "GiB" in line]
        assert shown == [
            ["gpu1", "memory", "████░░░░░░░░░░░░░░░░", "3.0", "GiB", "15.0", "GiB", "16.0", "GiB"],
            ["gpu1", "CUDA0", "████████████████████", "20.0", "GiB", "20.0", "GiB", "24.0", "GiB"],
            ["gpu2", "memory", "░░░░░░░░░░░░░░░░░░░░", "0", "MiB", "15.0", "GiB", "16.0", "GiB"],
        ]
    assert (
        "| `gpu1` | `CUDA0` | `████████████████████` | `20.0 GiB` | `20.0 GiB` | `24.0 GiB` |"
        in tables.plan_markdown(result.document)
    )


@pytest.mark.parametrize(
    ("part", "whole", "full"),
    [(0, 10, 0), (1, 1000, 1), (5, 10, 10), (10, 10, 20), (20, 10, 20), (1, 0, 20), (0, -1, 0)],
)
def test_a_bar_shows_all_that_is_more_than_nothing(part, whole, full):
    assert lines.bar(part, whole) == "█" * full + "░" * (20 - full)


def test_at_60_columns_a_plan_cuts_no_port():
    name = "deepseek-r1-distill-llama-70b-instruct-q4_k_m"
    action = {"instance": name, "action": "restart", "reason": "its options change"}
    plan = {"actions": [action], "instances": [{"name": name, "port": 18080, "need": None}]}
    plan |= {"degraded": [], "warnings": [], "notes": [], "memory": []}
    shown = drawn(Result({"hosts": {"gpu1": plan}, "changes": 1}), tables.plan, terminal=True, width=60)
    assert any("18080" in line.split() for line in shown)


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (40, "instance port state"),
        (80, "instance host port state"),
        (90, "instance host port state memory up"),
        (150, "instance tier host port pid state memory up model"),
    ],
)
def test_a_narrow_terminal_leaves_columns_out_and_cuts_names_alone(width, columns):
    name = "deepseek-r1-distill-llama-70b-instruct-q4_k_m"
    servers = [{**server, "instance": name, "port": 18080} for server in REPORT["servers"]]
    shown = drawn(Result({**REPORT, "servers": servers}), tables.report, terminal=True, width=width)
    at = next(number for number, line in enumerate(shown) if "instance" in line)
    assert shown[at].split() == columns.split()
    for server, line in zip(servers, shown[at + 1 :]):
        assert line[0] == ("●" if server["is_ready"] else "✗")
        assert {"18080", "ready" if server["is_ready"] else server["state"]} <= set(line.split())


@pytest.mark.parametrize(
    ("terminal", "said"),
    [
        (True, [f"✗ degraded: {MISSING[0]['detail']}", "! Mind this."]),
        (False, [f"Degraded: {MISSING[0]['detail']}", "Warning: Mind this."]),
    ],
)
def test_a_report_ends_with_what_is_missing_and_warnings(terminal, said):
    summary = {**REPORT["summary"], "degraded": MISSING, "warnings": ["Mind this."]}
    result = Result({**REPORT, "summary": summary}, told=lines.report)
    assert drawn(result, tables.report, terminal=terminal)[-2:] == said


def test_one_that_sleeps_is_well_and_asleep():
    servers = [{**server, "state": "asleep", "is_ready": True} for server in REPORT["servers"]]
    shown = drawn(Result({**REPORT, "servers": servers}), tables.report, terminal=True)
    assert sum(line.startswith(STYLES[READY][0]) and "  asleep  " in line for line in shown) == len(servers)
