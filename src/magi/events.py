"""What happens in a run of a playbook: from ansible-runner's events to ours. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# ansible-runner's names (its callback awx_display) and ours.
_KINDS = {
    "playbook_on_play_start": "play",
    "playbook_on_task_start": "task",
    "playbook_on_no_hosts_matched": "no_hosts",
    "playbook_on_stats": "stats",
    "runner_on_start": "start",
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_skipped": "skipped",
    "error": "message",
    "warning": "message",
    "deprecated": "message",
    "verbose": "message",
}
ENDS = ("ok", "failed", "unreachable")
"""The kinds that hold a task's result on a host."""


@dataclass(frozen=True)
class Event:
    kind: str
    """play, task, start, ok, failed, unreachable, skipped, no_hosts, stats or message."""
    play: str = ""
    task: str = ""
    action: str = ""
    """Name of the module or action, as in the playbook: ``magi.models.llama_instances``."""
    host: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    """What the task returned on the host; for ``stats``, the hosts by their outcome."""
    ignored: bool = False
    """The run goes on after the failure."""
    text: str = ""
    """Ansible's output for it, with colours."""

    @property
    def step(self) -> int | None:
        """The number of the step, from 1 to 5, that the task belongs to."""
        match = re.match(r"(?:\S+ : )?\[(\d)/5\]", self.task)
        return int(match.group(1)) if match else None


def event(raw: Mapping[str, Any]) -> Event | None:
    """Return the event that ansible-runner hands to its handler as ``raw``; None if it says nothing."""
    kind = _KINDS.get(raw.get("event", ""))
    text = raw.get("stdout") or ""
    if kind is None:
        return Event("message", text=text) if text.strip() else None
    data = raw.get("event_data") or {}
    result = data if kind == "stats" else data.get("res")
    return Event(
        kind,
        str(data.get("play") or data.get("name") or "") if kind == "play" else str(data.get("play") or ""),
        str(data.get("task") or ""),
        str(data.get("resolved_action") or data.get("task_action") or ""),
        str(data.get("host") or ""),
        result if isinstance(result, Mapping) else {},
        bool(data.get("ignore_errors")),
        text,
    )


@dataclass(frozen=True)
class Run:
    """How a run of a playbook ended."""

    rc: int | None
    """Exit status of ansible-playbook; None: it never had one."""
    events: tuple[Event, ...]
    interrupted: bool = False
    output: str = ""
    """Path of the file with all that Ansible printed."""

    def results(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Yield host, kind (ok, failed, unreachable) and result of every task that ended: the hosts in the order of the
        inventory, in which Ansible starts them, whoever is faster; the tasks of a host in their own order."""
        hosts = {name: number for number, name in enumerate(dict.fromkeys(item.host for item in self.events))}
        for item in sorted(self.events, key=lambda item: hosts[item.host]):
            if item.kind in ENDS:
                yield item.host, item.kind, item.result

    def of(self, *keys: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield host and result of every task that returned all of ``keys``."""
        for host, _kind, result in self.results():
            if all(key in result for key in keys):
                yield host, result

    def last(self, key: str) -> Any:
        """Return what the last task that returned ``key`` returned for it, or None."""
        return next((result[key] for _host, result in reversed(list(self.of(key)))), None)

    @property
    def ended(self) -> bool:
        """Whether Ansible finished; if not, nothing about the run can be believed."""
        return self.rc is not None and any(item.kind == "stats" for item in self.events)

    @property
    def unreachable(self) -> dict[str, str]:
        """The message for each host that could not be reached."""
        return {host: said(result) for host, kind, result in self.results() if kind == "unreachable"}

    @property
    def failures(self) -> list[Event]:
        """The failures that ended a host's run: neither ignored nor rescued."""
        stats = next((item.result for item in self.events if item.kind == "stats"), None)
        ended = stats.get("failures") if stats is not None else None
        return [
            item
            for item in self.events
            if item.kind == "failed" and not item.ignored and (ended is None or item.host in ended)
        ]

    @property
    def no_hosts(self) -> bool:
        return not any(item.kind == "task" for item in self.events)


def line(text: str) -> str:
    """Return ``text`` as one line that is harmless to a terminal: it may come from a host."""
    from magi.domain import printable

    return printable(" ".join(text.split()))


def said(result: Mapping[str, Any]) -> str:
    """Return a task's message as one line; if the module could not even run, with its interpreter's output."""
    message = line(str(result.get("msg") or "it did not say why")).removeprefix("Task failed: ")
    printed = str(result.get("module_stderr") or "").strip()
    return f"{message} ({line(printed.splitlines()[0])})" if printed else message


def complaints(events: Iterable[Event], kind: str = "ERROR|WARNING") -> list[str]:
    """Return Ansible's own errors and warnings, or those of one kind alone, one line each, without their context and
    without colours."""
    found = []
    for item in events:
        text = re.sub(r"\x1b\[[0-9;]*m", "", item.text)
        for match in re.finditer(rf"^\[?(?:{kind})\]?[!:]*:?\s*(.+)", text, re.MULTILINE):
            complaint = line(match.group(1))
            if complaint not in found:
                found.append(complaint)
    return found
