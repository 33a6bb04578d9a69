# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Making a host run a gateway: the one place that changes it. The controller has decided what it should be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import overlaps
from ansible_collections.magi.models.plugins.module_utils._base.files import (
    content_of,
    diff_of,
    make_folder,
    write_atomic,
    writing,
)
from ansible_collections.magi.models.plugins.module_utils._base.locked import locked
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import (
    RefusedError,
    enable,
    routed_keys,
    running_revision,
    servers,
)
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import SECRETS
from ansible_collections.magi.models.plugins.module_utils._haproxy.service import GatewayService
from ansible_collections.magi.models.plugins.module_utils._host.procfs import read_listeners
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceFile

LOCK = "lock"
"""Held by who changes the gateway; in its home."""
KEPT = 3
"""Configurations that stay on the host."""
PATIENCE = 20
"""Seconds in which HAProxy takes a configuration; opening the listeners takes it some milliseconds."""


class ProxyError(RuntimeError):
    """HAProxy refuses its configuration, or does not start; the message says why, and the remedy."""


class PortTakenError(ProxyError):
    """Somebody else listens where the gateway would; nothing was touched."""


@dataclass(frozen=True)
class WantedGateway:
    """What a host should run."""

    home: str
    program: str
    """The path of HAProxy."""
    revision: str
    files: Mapping[str, str]
    """The configuration: content by name."""
    service_files: Sequence[ServiceFile]
    addresses: Sequence[str]
    """What it binds."""
    port: int
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Files that only HAProxy may read, beside the configuration: content by name."""
    all_serve: bool = True
    """No server is about to come."""


@dataclass(frozen=True)
class Outcome:
    changed: bool
    actions: tuple[str, ...] = ()
    """write, start, reload and ready, as far as they were done."""
    diff: tuple[dict[str, str], ...] = ()


def present(service: GatewayService, want: Callable[[], WantedGateway], *, check_mode: bool) -> Outcome:
    """Make the host run the gateway that ``want`` returns, which reads files of the host. A configuration that HAProxy
    refuses never replaces one that works.

    Raises ProxyError, FileWriteError and ServiceError, and what ``want`` raises.
    """
    try:
        return _present(service, want, check_mode=check_mode)
    except RefusedError as error:
        raise ProxyError(f"HAProxy did not take {error}; run again, and see its log") from None


def _present(service: GatewayService, want: Callable[[], WantedGateway], *, check_mode: bool) -> Outcome:
    wanted = want()
    outcome = _foreseen(service, wanted)
    if not outcome.changed:
        return outcome
    _check(service, wanted, outcome)
    if check_mode:
        return outcome
    with locked(Path(wanted.home) / LOCK):
        before, wanted = wanted, want()  # again: whoever had the lock has changed things
        outcome = _foreseen(service, wanted)
        if wanted != before:
            _check(service, wanted, outcome)
        _write(wanted)
        if "start" in outcome.actions:
            service.start()
        elif "reload" in outcome.actions:
            service.reload()
        elif "ready" in outcome.actions:
            enable(service.sockets.stats, _kept_from_requests(service, wanted))
        _await(service, wanted)
        _prune(wanted)
    return outcome


def _foreseen(service: GatewayService, wanted: WantedGateway) -> Outcome:
    """Return what is to be done. Changes nothing."""
    current = Path(wanted.home) / "current"
    before = {path.name: content_of(path) or "" for path in _files(current)}
    diff = [
        diff_of(str(current / name), before.get(name, ""), wanted.files.get(name, ""))
        for name in sorted({*before} | {*wanted.files})
        if before.get(name) != wanted.files.get(name)
    ]
    diff += _secret_diff(Path(wanted.home) / SECRETS, wanted.secrets)
    configured = not diff
    for file in wanted.service_files:
        path = Path(file.path)
        content = content_of(path)
        if content != file.content or path.stat().st_mode & 0o7777 != file.mode:
            diff.append(diff_of(file.path, content or "", file.content))
    actions = ["write"] if diff else []
    if not service.running():
        actions.append("start")
    elif not configured or running_revision(service.sockets.stats) != wanted.revision or _forgot(service, wanted):
        actions.append("reload")
    elif _kept_from_requests(service, wanted):
        actions.append("ready")
    return Outcome(bool(actions), tuple(actions), tuple(diff))


def _forgot(service: GatewayService, wanted: WantedGateway) -> bool:
    """Whether a deployment let HAProxy forget a name, and ended before what has it ended."""
    now = routed_keys(service.sockets.stats)
    return now is not None and now != {line.split()[0] for line in wanted.files.get("routes.map", "").splitlines()}


def _kept_from_requests(service: GatewayService, wanted: WantedGateway) -> list[str]:
    """Return the places of servers that a deployment kept from requests, and ended before it gave them any again."""
    wrong = ("drained", "disabled") if wanted.all_serve else ("drained",)  # what comes is disabled until it is there
    return [f"{item.backend}/{item.server}" for item in servers(service.sockets.stats) if item.state in wrong]


def _secret_diff(folder: Path, secrets: Mapping[str, str]) -> list[dict[str, str]]:
    """Return an entry for each secret file that changes, without its content."""
    before = {path.name: content_of(path) for path in _files(folder)}
    return [
        diff_of(str(folder / name), *("(not shown)\n" if name in side else "" for side in (before, secrets)))
        for name in sorted({*before} | {*secrets})
        if before.get(name) != secrets.get(name)
    ]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())


def _check(service: GatewayService, wanted: WantedGateway, outcome: Outcome) -> None:
    """Raise ProxyError if HAProxy refuses the configuration, PortTakenError if somebody else has its port."""
    with tempfile.TemporaryDirectory(prefix="magi-gateway-") as folder:
        for name, content in wanted.files.items():
            (Path(folder) / name).write_bytes(content.encode("utf-8", "surrogateescape"))
        _write_secrets(Path(folder) / SECRETS, wanted.secrets)
        said = _refused(wanted.program, folder)
    if said:
        raise ProxyError(
            f"HAProxy ({wanted.program}) refuses the configuration, so the one before stays: {said}; correct the "
            "template (model_gateway_templates_dir), or update HAProxy (2.4 of 2022 or later)"
        )
    if "start" in outcome.actions:
        for address in wanted.addresses:
            for item in read_listeners([wanted.port], {}):
                if overlaps(item.address, address):
                    whose = f"process {item.pid}, {item.command}" if item.pid else "a process of another user"
                    raise PortTakenError(
                        f"port {wanted.port} of {address} is taken by {whose}; end it, or set model_gateway_port"
                    )


def _refused(program: str, folder: str) -> str:
    """Return why HAProxy refuses the configuration in ``folder``; empty if it takes it."""
    done = subprocess.run(
        [program, "-c", "-C", folder, "-f", f"{folder}/haproxy.cfg"],
        env={**os.environ, "MAGI_SECRETS": SECRETS},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return ""
    return _alert((done.stderr + done.stdout).splitlines(), folder) or f"exit status {done.returncode}"


def _alert(lines: Sequence[str], folder: str = "") -> str:
    """Return the first thing that HAProxy complains of in ``lines``, in one line, but for that there were some."""
    that = re.compile(r"\[ALERT\]\s+\(\d+\) : (?!config : (?:Error\(s\)|Fatal errors) found )(?:config : )?(.*)")
    alerts = [match[1] for line in lines if (match := that.match(line))]
    return " ".join(alerts[0].replace(f"{folder}/" if folder else "", "").split()).rstrip(".") if alerts else ""


def _write(wanted: WantedGateway) -> None:
    """Write the files: the configuration into a folder of its own, which becomes the current one all at once."""
    home = Path(wanted.home)
    _write_secrets(home / SECRETS, wanted.secrets)
    folder = home / "configurations" / wanted.revision
    make_folder(folder)
    for name, content in wanted.files.items():
        write_atomic(folder / name, content.encode("utf-8", "surrogateescape"), 0o644)
    with writing(folder):
        for path in _files(folder):
            if path.name not in wanted.files:
                path.unlink()
        os.utime(folder)
        link = home / ".current"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("configurations") / wanted.revision)
        link.replace(home / "current")
    for file in wanted.service_files:
        make_folder(Path(file.path).parent)
        write_atomic(file.path, file.content.encode("utf-8", "surrogateescape"), file.mode)


def _write_secrets(folder: Path, secrets: Mapping[str, str]) -> None:
    """Make the folder hold these files, for its owner alone; without any, there is no folder."""
    if secrets:
        make_folder(folder.parent)
        with writing(folder):
            folder.mkdir(0o700, exist_ok=True)
            folder.chmod(0o700)
    for name, content in secrets.items():
        write_atomic(folder / name, content.encode("utf-8", "surrogateescape"), 0o600)
    with writing(folder):
        for path in _files(folder):
            if path.name not in secrets:
                path.unlink()
        if folder.exists() and not secrets:
            folder.rmdir()


def _await(service: GatewayService, wanted: WantedGateway) -> None:
    deadline = time.monotonic() + PATIENCE
    while running_revision(service.sockets.stats) != wanted.revision:
        if time.monotonic() > deadline or not service.running():
            lines = service.logs(50)
            said = _alert(lines[::-1]) or next((line for line in reversed(lines) if line.strip()), "it said nothing")
            raise ProxyError(f"HAProxy did not take the configuration in {wanted.home}/current: {said}")
        time.sleep(0.05)


def _prune(wanted: WantedGateway) -> None:
    """Remove all but the last configurations."""
    folders = sorted((Path(wanted.home) / "configurations").iterdir(), key=lambda path: path.stat().st_mtime)
    for folder in folders[:-KEPT]:
        if folder.name != wanted.revision:
            shutil.rmtree(folder, ignore_errors=True)


def settled_at(history: Sequence[Mapping[str, Any]]) -> float:
    """Return when the deployment began, of those in ``history`` (the oldest first), that gave the gateway its present
    settings, in seconds since the epoch; 0 if none did, or none was before it."""
    for before, made in zip(history[-2::-1], history[::-1]):
        then, now = before["settings"], made["settings"]
        if any(then[name] != now[name] for name in then.keys() & now.keys()):  # a later version may have more
            return float(made["began_at"])
    return 0


def remembered(home: str) -> list[dict[str, Any]]:
    """Return the servers that the gateway routes to now, as its configuration has them; [] without one."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((Path(home) / "current" / "servers.json").read_text())
        return list(found)
    return []


def configured(home: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files of the configuration that the gateway works with, and its secret files; none without one."""
    place = Path(home)
    current, secrets = (
        {path.name: content_of(path) or "" for path in _files(place / folder)} for folder in ("current", SECRETS)
    )
    return current, secrets


def absent(service: GatewayService, home: str, *, check_mode: bool) -> Outcome:
    """Stop the gateway and remove what is ours. Raises FileWriteError and ServiceError."""
    outcome = _removal(service, home)
    if check_mode or not outcome.changed:
        return outcome
    place = Path(home)
    with locked(place / LOCK):
        outcome = _removal(service, home)  # again: whoever had the lock has changed things
        service.remove()
        with writing(home):
            for path in _ours(place):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            with contextlib.suppress(OSError):
                place.rmdir()  # only when nothing else is in it
    return outcome


def _removal(service: GatewayService, home: str) -> Outcome:
    """Return what ``absent`` is to do. Changes nothing."""
    place = Path(home)
    owned = service.owned()
    if not (_ours(place) or owned):
        return Outcome(False)
    files = [*_files(place / "current"), *owned]
    return Outcome(True, ("remove",), tuple(diff_of(str(path), content_of(path) or "", "") for path in files))


def _ours(home: Path) -> list[Path]:
    """Return what is ours in the folder, the lock as the last."""
    names = ("current", "configurations", "generations", SECRETS, LOCK)
    return [path for path in map(home.joinpath, names) if os.path.lexists(path)]
