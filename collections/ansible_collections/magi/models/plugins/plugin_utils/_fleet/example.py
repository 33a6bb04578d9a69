# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A command to copy that asks a server what it is for. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import HOST

_ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    # The answer is limited: otherwise a small model that wanders off may fill its whole context, for many minutes.
    "chat": (
        "chat/completions",
        {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 64},
    ),
    "embedding": ("embeddings", {"input": "What is the capital of France?"}),
    "rerank": ("rerank", {"query": "capital of France", "documents": ["Paris", "a red apple"]}),
}
"""By task: path below /v1 and body."""


def example_lines(report: Mapping[str, Any], hosts: Sequence[HostResult]) -> list[str]:
    """Return the command for one ready server of ``report``, of a chat model where there is one; nothing without any.
    It asks through a gateway that routes to it, if there is one.

    It works where the report is read, or the first line says where else; ``$KEY`` in it is a key of the server, or
    of the gateway. ``hosts`` are those of the report.
    """
    ready = [server for server in report["servers"] if server["is_ready"]]
    if not ready:
        return []
    server = next((item for item in ready if item["task"] == "chat"), ready[0])
    host = next(item for item in hosts if item.name == server["host"])
    members = [
        part
        for item in (host.plan.served if host.plan else ())
        if item.name == server["instance"]
        for part in item.members
    ]
    asked_for = next((part for part in members if part.task == "chat"), members[0] if members else None)
    model, task = (asked_for.model_id, asked_for.task) if asked_for else (server["model_id"], server["task"])
    path, body = _ASKED.get(task, _ASKED["chat"])
    body = {"model": model, **body} if members else body  # a pool has several
    gateway = next((item for item in report.get("gateways", ()) if model in item["names"]), None)
    base = f"{server['url']}/v1"
    where = f" on {host.name} itself" if server["url_from"] == HOST else ""
    key = ""
    for instance in host.plan.instances if host.plan else ():
        if instance.name == server["instance"] and instance.api_key_file:
            here = where or not host.way.over_the_network  # the key file is where the command runs
            bearer = f"$(head -n 1 {shlex.quote(instance.api_key_file)})" if here else "$KEY"
            key = f' -H "Authorization: Bearer {bearer}"'
    client = []
    if gateway and gateway["is_ready"]:
        key = ' -H "Authorization: Bearer $KEY"' if gateway["asks_key"] else key
        base, body = gateway["url"], {"model": model, **body}
        where = f" on {gateway['host']} itself" if gateway["url_from"] == HOST else ""
        client = [f"Clients of OpenAI's API need two lines: base_url={base} and model={model}"]
    asked = f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    return [f"Try it{where}:", f"  curl -s {base}/{path}{key} {asked}", *client]
