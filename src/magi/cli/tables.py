"""What verbs found, for people: tables on a terminal, aligned text elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from magi import lines
from magi.cli.live import STYLES
from magi.progress import FAILED, READY, STARTING

GAP = 2  # cells between two columns


def _since(seconds: float | None) -> str:
    if not seconds:
        return "–"
    age = max(0, int(time.time() - seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if age >= length:
            return f"{age // length} {unit}"
    return f"{age} s"


def _ready(state: str) -> str:
    from magi.domain import State

    return state if state == State.ASLEEP else "ready"


def _unready(state: str) -> str:
    from magi.domain import State

    return "not ready" if state == State.RUNNING else state


class _Servers:
    """The table of servers. Where the terminal is narrow it has fewer columns, then shorter names; mark, port and state
    always stay."""

    LEFT_OUT = ("model", "pid", "tier", "up", "memory", "host")  # in this order

    def __init__(self, items: Sequence[Mapping[str, Any]]):
        self._rows = [_server(item) for item in items]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {
            head: max(cell_len(head), *(row[head].cell_len for row in self._rows), 0) + GAP for head in self._rows[0]
        }
        for head in self.LEFT_OUT:
            if sum(widths.values()) - GAP > options.max_width:
                del widths[head]
        over = max(0, sum(widths.values()) - GAP - options.max_width)
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, GAP, 0, 0))
        for head, width in widths.items():
            justify: JustifyMethod = "right" if head in ("port", "pid", "memory", "up") else "left"
            cut = over if head == "instance" else 0
            table.add_column(head, justify=justify, no_wrap=True, width=max(1, width - GAP - cut))
        for row in self._rows:
            table.add_row(*(row[head] for head in widths))
        yield table


def _server(item: Mapping[str, Any]) -> dict[str, Text]:
    from magi.domain import State, memory_shown, printable

    coming = item["state"] in (State.RUNNING, State.STARTING)
    mark, style = STYLES[READY if item["is_ready"] else STARTING if coming else FAILED]
    return {
        "": Text(mark, style=style),
        **{
            head: Text(printable(str("–" if item[head] is None else item[head])))
            for head in ("instance", "tier", "host", "port", "pid")
        },
        "state": Text((_ready if item["is_ready"] else _unready)(item["state"]), style=style),
        "memory": Text(printable(memory_shown(item) or "–")),
        "up": Text(_since(item["started_at"] if item["pid"] else None)),
        "model": Text(printable(item["display_name"]), style="dim"),
    }


def servers(items: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the table of servers of a report or a status."""
    return _Servers(items) if items else Text()


def ready_line(document: Mapping[str, Any]) -> Text:
    """Return the sentence that sums up a report or a status."""
    ready, total = document["ready_servers"], document["total_servers"]
    style = "bold green" if ready == total else "bold yellow" if ready else "bold red"
    profile = document["summary"]["profile"]
    if not total:
        return Text("Nothing runs.", style="bold")
    return Text.assemble((f"{ready}/{total} ready", style), (f"  profile {profile or 'none'}", "dim"))


def report(document: Mapping[str, Any]) -> RenderableType:
    """Return a report: the servers, what failed and why, what is missing, warnings, the gateways, and what to try."""
    from magi.domain import gateway_lines, printable

    parts: list[RenderableType] = [Text(), servers(document["servers"]), Text(), ready_line(document)]
    for item in document["summary"]["failed"]:
        parts.append(Text(f"✗ {item['cause']}: ", style="red").append(printable(item["detail"]), style="default"))
        parts += [Text(f"  │ {printable(line)}", style="dim") for line in item.get("log", ())[-5:]]
    for item in document["summary"]["degraded"]:
        parts.append(Text("✗ degraded: ", style="yellow").append(printable(item["detail"]), style="default"))
    for line in document["summary"]["warnings"]:
        parts.append(Text("! ", style="yellow").append(printable(line), style="default"))
    for lines_ in (gateway_lines(document.get("gateways", ())), document.get("example", ())):
        parts += [Text(), *map(Text, lines_)] if lines_ else []
    return Group(*parts)


def status(document: Mapping[str, Any]) -> RenderableType:
    """Return what runs, and why the rest does not where that is known, and what the gateways route to."""
    return Group(_status(document), *([Text(), routes(document)] if "gateways" in document else []))


def health(document: Mapping[str, Any]) -> RenderableType:
    """Return what serves, and why the rest does not."""
    from magi.domain import gateway_lines

    through = gateway_lines(document.get("gateways", ()))
    return Group(_status(document), *([Text(), *map(Text, through)] if through else []))


def _status(document: Mapping[str, Any]) -> RenderableType:
    from magi.domain import printable

    parts: list[RenderableType] = [servers(document["servers"]), Text()] if document["servers"] else []
    parts.append(ready_line(document))
    parts += [Text(f"✗ {name}: not reachable", style="red") for name in document["summary"]["unreachable"]]
    for item in document["summary"]["failed"]:
        parts.append(Text(f"✗ {item['cause']}: ", style="red").append(printable(item["detail"]), style="default"))
    return Group(*parts)


def routes(document: Mapping[str, Any]) -> RenderableType:
    """Return what the gateways route to."""
    from magi.domain import ROUTES_HEAD, ROUTES_NUMBERS, gateway_title, printable, route_rows

    parts: list[RenderableType] = []
    for entry in document["gateways"]:
        style = "red" if entry["cause"] else "bold" if entry["is_ready"] else "dim"
        parts += [*([Text()] if parts else []), Text(gateway_title(entry), style=style)]
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for head in ROUTES_HEAD:
            table.add_column(head, justify="right" if head in ROUTES_NUMBERS else "left", no_wrap=head != "names")
        for row in route_rows(entry):
            cells = (Text(printable(str(cell)), style=STATES.get(str(cell), "")) for cell in row)
            table.add_row(*cells)
        parts += [Text(), table] if entry["routes"] else []
    return Group(*parts)


STATES = {"up": "green", "down": "red", "down, held": "red"}
STATES |= {"drained": "yellow", "drained, held": "yellow", "disabled": "yellow"}


def plan(document: Mapping[str, Any]) -> RenderableType:
    """Return what a deployment would do on each host, with reasons and warnings."""
    from magi.domain import ActionKind, printable

    colours = {
        ActionKind.START: "green",
        ActionKind.RESTART: "yellow",
        ActionKind.STOP: "red",
        ActionKind.KEEP: "dim",
        ActionKind.QUARANTINE: "magenta",
    }
    fleet = lines.fleet_rows(document)
    parts: list[RenderableType] = [_fleet(fleet), Text()] if fleet else []
    for host, item in document["hosts"].items():
        parts.append(Text.assemble((host, "bold"), (f"  {lines.plan_summary(item)}", "dim")))
        parts += [] if fleet else [Text(f"  {line}", style="dim") for line in lines.plan_memory(item)]
        grid = Table.grid(padding=(0, 2))
        for width in (None, None, 5, None, None):  # where the terminal is narrow, the port is whole
            grid.add_column(min_width=width)
        for action, name, port, need, reason in lines.plan_rows(item):
            shown = Text(f"  {action}", style=colours[ActionKind(action)])
            grid.add_row(shown, Text(name), Text(port), Text(need), Text(printable(reason), style="dim"))
        parts.append(grid)
        for line in (*item["degraded"], *item["warnings"]):
            parts.append(Text("  ! ", style="yellow").append(printable(line), style="default"))
        parts += [Text(f"  {printable(note)}", style="dim") for note in item["notes"]]
    parts += map(Text, lines.plan_gateways(document))
    return Group(*parts, Text(), Text(lines.plan_end(document), style="bold"))


def _fleet(rows: Sequence[Sequence[str]]) -> Table:
    """Return the memory of all hosts: what the instances need of what there is."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for head in lines.FLEET_HEAD:
        table.add_column(head, justify="right" if head in lines.FLEET_HEAD[3:] else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def plan_markdown(document: Mapping[str, Any], profile: str | None = None) -> str:
    """Return a plan as Markdown, for a comment on a merge request. Text from hosts is code, never markup."""
    from magi.domain import counted, printable

    def code(text: Any) -> str:
        shown = printable(str(text)).replace("|", "¦").replace("`", "'")
        return f"`{shown}`" if shown else ""

    hosts = document["hosts"]
    names = {item["profile"] for item in hosts.values()} or ({profile} if profile else set())
    title = f"### magi plan: profile {', '.join(code(name) for name in sorted(names))}"
    head = ("host", *lines.PLAN_HEAD)
    table = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    rows = [(host, *row) for host, item in hosts.items() for row in lines.plan_rows(item)]
    table += [f"| {' | '.join(map(code, row))} |" for row in rows]
    fleet = lines.fleet_rows(document)
    if fleet:
        table += ["", f"| {' | '.join(lines.FLEET_HEAD)} |", f"|{'---|' * len(lines.FLEET_HEAD)}"]
        table += [f"| {' | '.join(map(code, row))} |" for row in fleet]
    notes = [f"{host}: {line}" for host, item in hosts.items() for line in lines.plan_memory(item) if not fleet]
    notes += [line for item in hosts.values() for line in (*item["degraded"], *item["warnings"])]
    notes += lines.plan_gateways(document)
    notes += [f"{name}: not reachable" for name in document["unreachable"]]
    summary = f"{document['changes']} to change on {counted(len(hosts), 'host')}."
    end = ["", *(f"- {code(note)}" for note in notes)] if notes else []
    return "\n".join([title, "", summary, "", *table, *end, ""])
