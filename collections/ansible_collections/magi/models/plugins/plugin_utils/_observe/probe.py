# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The functional probe that a timer runs on a host: whom it asks, and what its unit needs. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import reachable
from ansible_collections.magi.models.plugins.module_utils._llama.options import OF_TASK
from ansible_collections.magi.models.plugins.module_utils._plan.values import Instance
from ansible_collections.magi.models.plugins.plugin_utils._observe.textfile import labelled

NAME = "magi-probe"
"""Of its units."""
FOUND = (f"{NAME}.prom", f"{NAME}.new")
"""The file with what it found, for node_exporter, and that while it is written."""
SERVERS = "servers.json"
"""Whom it asks; beside its code."""
CODE = (
    *("_base/addresses.py", "_base/text.py"),
    *("_llama/client.py", "_llama/metrics.py", "_llama/probe.py", "_llama/probe_all.py"),
)
"""The files of module_utils that it consists of: they need Python's own library alone."""
_ROOM = "ansible_collections/magi/models/plugins/module_utils"
_MAIN = "from ansible_collections.magi.models.plugins.module_utils._llama.probe_all import main\n\nmain()\n"
PROGRAM = ("__main__.py", SERVERS, f"{_ROOM}/_*/*.py")
"""Globs for all that it ever has in its folder."""
_TELLS = (
    *("LLAMA_ARG_HOST", "LLAMA_ARG_PORT", "LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING"),
    "LLAMA_ARG_MODELS_PRESET",
)
"""The variables of a server that say where it is and what it does; others may be secret."""


def asked(instances: Sequence[Instance]) -> list[Instance]:
    """Return those that it asks: not one that may sleep, since a question wakes it, or keeps it awake. A pool is asked
    whether it answers, which wakes none of its models."""
    return [item for item in instances if item.members or not _sleeps(item)]


def _sleeps(item: Instance) -> bool:
    return any("MAGI_IDLE" in each.environment for each in (item, *item.members))


def program(host: str, instances: Sequence[Instance], code: Mapping[str, str]) -> dict[str, str]:
    """Return the files of the program that asks ``instances`` of ``host``; ``code`` has the content of each of CODE."""
    servers: list[dict[str, Any]] = [
        {
            "name": item.name,
            "labels": labelled({"host": host, "instance": item.name, "model_id": part.model_id}),
            "environment": {
                **{name: item.environment[name] for name in _TELLS if name in item.environment},
                **({OF_TASK[part.task]: "on"} if part is not item and part.task in OF_TASK else {}),
            },
            "keyed": bool(item.api_key_file),
            "model": "" if part is item else part.model_id,
        }
        for item in instances
        for part in (item, *(() if _sleeps(item) else item.members))
    ]
    return {
        "__main__.py": _MAIN,
        SERVERS: json.dumps(servers, indent=1) + "\n",
        **{f"{_ROOM}/{name}": code[name] for name in CODE},
    }


def addresses(instances: Sequence[Instance]) -> list[str] | None:
    """Return the addresses at which they are asked, beside those of loopback; None where one has a name instead."""
    found = {reachable(item.address) for item in instances}
    try:
        return sorted(each for each in found if not ipaddress.ip_address(each).is_loopback)
    except ValueError:
        return None
