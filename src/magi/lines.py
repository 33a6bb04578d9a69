"""What verbs found or did, as lines for people, without colours. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
FLEET_HEAD = ("host", "device", "", "needed", "instances can have", "in all")
PLAN_HEAD = ("action", "instance", "port", "memory", "reason")


def prepared(document: Document) -> list[str]:
    return [f"Ready to deploy on: {', '.join(document['hosts'])}"]


def report(document: Document) -> Sequence[str]:
    """Return the report of a deployment, and what to try."""
    from magi.domain import report_lines

    example = document.get("example", ())
    return [*report_lines(document), *([""] if example else []), *example]


def status(document: Document) -> Sequence[str]:
    """Return what runs, and why the rest does not where that is known."""
    from magi.domain import status_lines

    return [*status_lines(document), *(["", *routes(document)] if "gateways" in document else [])]


def health(document: Document) -> list[str]:
    """Return what serves, and why the rest does not."""
    from magi.domain import gateway_lines, status_lines

    through = gateway_lines(document.get("gateways", ()))
    return [*status_lines(document), *([""] if through else []), *through]


def routes(document: Document) -> list[str]:
    """Return what the gateways of a document route to."""
    from magi.domain import routes_lines

    lines = [line for entry in document["gateways"] for line in ("", *routes_lines(entry))]
    return lines[1:]


def looked(document: Document) -> list[str]:
    """Return what a deployment that only looked, or did a part, saw."""
    plans = plan(document) if document["hosts"] else []
    return [*plans, only_tagged(document["tags"])] if "tags" in document else plans


def plan(document: Document) -> list[str]:
    """Return what a deployment would do on each host, with reasons and warnings: whole lines, however long."""
    from magi.domain import printable, text_table

    fleet = fleet_rows(document)
    lines = [*text_table(FLEET_HEAD, fleet), ""] if fleet else []
    for host, item in document["hosts"].items():
        lines.append(f"{host}  {plan_summary(item)}")
        lines += [] if fleet else [f"  {line}" for line in plan_memory(item)]
        if rows := plan_rows(item):
            lines += [f"  {line}" for line in text_table(PLAN_HEAD, rows)]
        lines += [f"  ! {printable(line)}" for line in (*item["degraded"], *item["warnings"])]
        lines += [f"  {printable(note)}" for note in item["notes"]]
    return [*lines, *plan_gateways(document), "", plan_end(document)]


_GATEWAY_ACTIONS = {
    "install": "installs HAProxy",
    "write": "writes its configuration",
    "start": "starts",
    "reload": "reloads",
    "ready": "gives servers requests again",
}


def plan_gateways(document: Document) -> list[str]:
    """Return what a deployment would do at each gateway that it changes."""
    return [
        f"Gateway {item['host']}: {', '.join(_GATEWAY_ACTIONS[action] for action in item['actions'])}"
        for item in document.get("gateways", ())
        if item["actions"]
    ]


def plan_summary(plan_of_host: Document) -> str:
    """Return how many instances each kind of action has on a host."""
    from magi.domain import ActionKind

    counts = {kind: sum(action["action"] == kind for action in plan_of_host["actions"]) for kind in ActionKind}
    return ", ".join(f"{kind} {count}" for kind, count in counts.items() if count) or "nothing to do"


def plan_memory(plan_of_host: Document) -> Sequence[str]:
    """Return what there is of a host's memory and devices, and what the instances need of it."""
    from magi.domain import Account, account_lines

    return account_lines([Account(**item) for item in plan_of_host["memory"]])


def fleet_rows(document: Document) -> list[tuple[str, str, str, str, str, str]]:
    """Return the cells of ``FLEET_HEAD`` for the memory and each device of all hosts, where there are several."""
    from magi.domain import Account, bytes_shown, device_name

    accounts = [(host, Account(**x)) for host, item in document["hosts"].items() for x in item["memory"]]
    if len({host for host, _account in accounts}) < 2:
        return []
    return [
        (host, device_name(x.device), bar(x.given, x.room), *map(bytes_shown, (x.given, max(x.room, 0), x.total)))
        for host, x in accounts
    ]


def bar(part: int, whole: int, width: int = 20) -> str:
    """Return a bar that shows a part of a whole; all that is more than nothing is seen."""
    full = min(width, -(-part * width // whole)) if whole > 0 else width if part else 0
    return "█" * full + "░" * (width - full)


def plan_rows(plan_of_host: Document) -> list[tuple[str, str, str, str, str]]:
    """Return the cells of ``PLAN_HEAD`` for each action on a host; the reason says what happens to clients, too."""
    from magi.domain import Need, need_line

    planned = [*plan_of_host["instances"], *plan_of_host.get("workers", ())]
    ports = {instance["name"]: str(instance["port"]) for instance in planned}
    needs = {x["name"]: need_line(Need.from_dict(x["need"])) for x in planned if x["need"]}
    return [
        (action["action"], name, ports.get(name, ""), needs.get(name, ""), _reason(action))
        for action in plan_of_host["actions"]
        for name in (action["instance"],)
    ]


def _reason(action: Document) -> str:
    clients = action.get("clients")
    return f"{action['reason']}; clients: {clients}" if clients else action["reason"]


def plan_end(document: Document) -> str:
    changes = document["changes"]
    return f"{changes} to change: run magi up." if changes else "Nothing to change."


def only_tagged(tags: str) -> str:
    return f"Only tasks with a tag of {tags} ran: there is no report."


def models(document: Document) -> list[str]:
    """Return the models of each host, what was set aside, and drift."""
    from magi.domain import Drift, Inventory, drift_lines, inventory_lines

    lines: list[str] = []
    for host, registry in document["hosts"].items():
        lines += [f"{host}:", *(f"  {line}" for line in inventory_lines(Inventory.from_dict(registry))), ""]
    lines += drift_lines(map(Drift.from_dict, document["drift"]))
    while lines and not lines[-1]:
        lines.pop()
    return lines


def actions(document: Document, done: str) -> Sequence[str]:
    """Return what was ``done`` (stopped, removed) on each host."""
    hosts = document["hosts"].items()
    lines = [f"{host}: {item['action']} {item['instance']}" for host, items in hosts for item in items]
    return [*(lines or [f"Nothing was {done}."]), *(f"Warning: {said}" for said in document.get("warnings", ()))]


_DOING = ("tok/s", "busy", "queue", "first p50", "p95", "memory")
TOP_NAMES = ("model", "server", "host")
"""The heads of columns that have names; all others but the state have numbers."""


def top(document: Document) -> list[str]:
    """Return what servers and gateways do."""
    from magi.domain import text_table

    if not document["servers"]:
        return ["Nothing runs."]
    tables = [[*text_table(head, rows), ""] for head, rows in top_tables(document)]
    return [*(line for table in tables for line in table), first_token_source(document["gateways"])]


def top_tables(document: Document) -> Iterator[tuple[Sequence[str], Sequence[Sequence[str]]]]:
    """Yield heads and rows of the models, if one has several servers, of the servers, and of the hosts, if there are
    several."""
    models, servers, hosts = (document[name] for name in ("models", "servers", "hosts"))
    if len(models) < len(servers):
        yield ("model", *_DOING, "servers"), [_model_doing(row) for row in models]
    if servers:
        yield ("server", "host", *_DOING, "state"), [_server_doing(row) for row in servers]
    if len(hosts) > 1:
        yield ("host", "tok/s", "busy", "memory", "free", "of", "servers"), [_host_doing(row) for row in hosts]


def first_token_source(gateways: Sequence[Mapping[str, Any]]) -> str:
    """Return where the times to the first token come from."""
    from magi.domain import printable

    if not gateways:
        return "No gateway runs, and servers do not tell the time to the first token."
    requests = sum(item["requests"] for item in gateways)
    names = ", ".join(printable(item["host"]) for item in gateways)
    return f"First token: {requests} requests of the last 5 minutes, from the log of {names}."


def _doing(row: Mapping[str, Any]) -> tuple[str, ...]:
    first = row["first_token"]
    return (
        _rate(row),
        _busy(row),
        _or_dash(row["queue"]),
        *((f"{first[key]:.2f} s" for key in ("p50", "p95")) if first else ("–", "–")),
        _memory(row["memory"]),
    )


def _model_doing(row: Mapping[str, Any]) -> tuple[str, ...]:
    from magi.domain import printable

    asleep = f", {row['asleep']} asleep" if row["asleep"] else ""
    return (printable(row["model_id"]), *_doing(row), f"{row['servers']}{asleep}")


def _server_doing(row: Mapping[str, Any]) -> tuple[str, ...]:
    from magi.domain import printable

    return (printable(row["instance"]), printable(row["host"]), *_doing(row), row["state"])


def _host_doing(row: Mapping[str, Any]) -> tuple[str, ...]:
    from magi.domain import printable

    return (
        printable(row["host"]),
        _rate(row),
        _busy(row),
        *(_memory(row[key]) for key in ("memory", "memory_available", "memory_total")),
        str(row["servers"]),
    )


def _rate(row: Mapping[str, Any]) -> str:
    return "–" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.1f}"


def _busy(row: Mapping[str, Any]) -> str:
    return "–" if row["busy"] is None else f"{row['busy']}/{_or_dash(row['slots'])}"


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)


def _memory(value: int | None) -> str:
    from magi.domain import bytes_shown

    return bytes_shown(value) if value else "–"
