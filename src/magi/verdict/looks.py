"""What the verbs that look at settings and instances found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from magi import config, instances, lines
from magi.activity import Sort, document
from magi.domain import counted, printable
from magi.errors import ExitCode, MagiError
from magi.events import Run, said
from magi.result import Result
from magi.verdict.lost import beside, lost

UNKNOWN_MODEL = 404
"""The HTTP status with which a gateway says that it routes no such name."""
Results = Iterable[tuple[str, Mapping[str, Any]]]
"""Host and result of each successful task."""


def _found(run: Run, key: str, view: Callable[[Results], Result]) -> Result:
    """Return the results through ``view``, and what happened to hosts that were lost in the run.

    Raises DeploymentFailed or HostUnreachable if hosts were lost and no other returned ``key``.
    """
    error = lost(run)
    good = [(host, result) for host, how, result in run.results() if how == "ok"]
    if error and all(result.get(key) is None for _host, result in good):
        raise error
    return beside(error, view(good))


def settings(run: Run) -> Result:
    """Return the merged settings of the hosts, with their sources."""
    return _found(run, "settings", _settings)


def _settings(results: Results) -> Result:
    from magi.domain import text_table  # slow to import: once Ansible is done

    hosts = config.config(results)
    rows = [
        (
            row.setting if row.everywhere else f"{row.setting} ({', '.join(row.hosts)})",
            _shown(row.value.value),
            row.value.source if row.value.source == "default" else f"{row.value.source} {row.value.name}",
        )
        for row in config.rows(hosts)
    ]
    data = {host: {name: asdict(value) for name, value in values.items()} for host, values in hosts.items()}
    return Result.of({"hosts": data}, text_table(("setting", "value", "from"), rows))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_shown(part)}" for key, part in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def routes(run: Run) -> Result:
    """Return what the gateways route to; the exit code is DEGRADED where one does not run, or a server is not up."""
    return _found(run, "gateway", _routes)


def _routes(results: Results) -> Result:
    gateways = [result["gateway"] for _host, result in results if "gateway" in result]
    states = {server["state"] for item in gateways for route in item["routes"] for server in route["servers"]}
    good = all(item["is_ready"] for item in gateways) and states <= {"up"}
    return Result({"gateways": gateways}, ExitCode.OK if good else ExitCode.DEGRADED, told=lines.routes)


def top(run: Run, sort: Sort) -> Result:
    """Return what servers and gateways do."""

    def view(results: Results) -> Result:
        seen = {host: result["activity"] for host, result in results if "activity" in result}
        return Result(document(seen, sort), told=lines.top)

    return _found(run, "activity", view)


def logs(name: str, run: Run) -> Result:
    """Return what an instance printed, on each host that has it. Raises InstanceNameError if none has it."""
    return _found(run, "log", lambda results: _logs(name, results))


def answer(name: str, run: Run) -> Result:
    """Return what a model or an instance answered. Raises InstanceNameError if the gateway, or no host, knows it."""
    for item in run.failures:
        if item.result.get("status") == UNKNOWN_MODEL:
            raise instances.InstanceNameError(said(item.result))
    return _found(run, "text", lambda results: _answer(name, results))


def _logs(name: str, results: Results) -> Result:
    found = {host: result for host, result in results if "instances" in result and "log" in result}
    printed = {host: result["log"] for host, result in found.items() if result["log"] is not None}
    if not printed:
        raise instances.missing(name, {host: result["instances"] for host, result in found.items()})
    several = len(printed) > 1
    shown = [
        f"{host} | {printable(line.expandtabs())}" if several else printable(line.expandtabs())
        for host, log in printed.items()
        for line in log
    ]
    return Result.of({"instance": name, "hosts": printed}, shown)


def _answer(name: str, results: Results) -> Result:
    present: dict[str, list[str]] = {}
    for host, result in results:
        for item in (result.get("host") or {}).get("instances") or ():
            present.setdefault(host, []).append(item["name"])
        if "finish_reason" in result:
            others = [other for other in result.get("serving") or () if other != host]
            speed = result["tokens_per_second"]
            through = bool(result.get("reached"))
            line = f"through the gateway on {host}" if through else host
            line += f": {counted(result['tokens'], 'token')}" + (f", {speed:.1f} tokens/s" if speed else "")
            if result["finish_reason"] == "length":
                line += "; cut at --max-tokens"
            if others:
                line += f"; also served on {', '.join(others)} (use --limit to ask there)"
            keys = ("text", "reasoning", "finish_reason", "tokens", "tokens_per_second")
            way = {"model": name, "instance": None if through else name, "gateway": host if through else None}
            data = {**way, "host": host, "also_on": others, **{key: result[key] for key in keys}}
            return Result.of(data, [line])
    if any(name in names for names in present.values()):
        where = ", ".join(host for host, names in present.items() if name in names)
        raise MagiError(f"Instance {name} on {where} does not answer; magi status and magi doctor say why.")
    raise instances.missing(name, present)
