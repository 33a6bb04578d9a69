# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from ansible.plugins.lookup.inventory_hostnames import LookupModule
from ansible_collections.magi.models.plugins.module_utils._base.addresses import exposed
from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way


class ActionModule(ControllerAction):
    """Show the profile and place its replicas; see the module of the same name."""

    SPEC = {
        "profile": {"type": "dict", "required": True},
        "hosts": {"type": "dict", "default": {}},
        "all_hosts": {"type": "list", "elements": "str", "default": []},
    }

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        profile = Profile.from_dict(arguments["profile"])
        self.show([f"Profile {profile.name}: {printable(profile.description) or 'no description'}"])
        if not any(entry.is_placed for entry in profile.entries):
            return {"placement": {}}
        # Each worker imports its action anew, and few profiles need these.
        from ansible_collections.magi.models.plugins.plugin_utils._fleet.look import Fleet, Look
        from ansible_collections.magi.models.plugins.plugin_utils._fleet.placement import placing

        hosts = {name: seen.get("registry") or {} for name, seen in arguments["hosts"].items()}
        every = arguments["all_hosts"] or list(hosts)
        fleet = Fleet(
            hosts=tuple(every),
            looks={
                name: Look.of(registry, arguments["hosts"][name]["settings"]["settings"])
                for name, registry in hosts.items()
                if registry.get("host")
            },
            allowed=[entry.hosts and self._matching(entry.hosts, task_vars) for entry in profile.entries],
            away=[name for name, registry in hosts.items() if registry.get("unreachable")],
            left_out=[name for name in every if name not in hosts],
            addresses=_addresses(profile, arguments["hosts"]),
        )
        found = placing(profile, fleet)
        return {
            "placement": {
                name: {
                    "refused": "" if name in found.failing else found.refused,
                    "notes": list(found.notes),
                    **({"rpc": found.rpc[name].to_dict()} if name in found.rpc else {}),
                    "shares": [
                        None if share is None else {model: asdict(item) for model, item in share.items()}
                        for share in shares
                    ],
                }
                for name, shares in found.shares.items()
            }
        }

    def _matching(self, pattern: str, task_vars: Mapping[str, Any]) -> Collection[str]:
        """Return the hosts that an Ansible pattern matches."""
        lookup = LookupModule(loader=self._loader, templar=self._templar)
        return {*lookup.run([pattern], variables=task_vars)}


def _addresses(profile: Profile, hosts: Mapping[str, Any]) -> dict[str, str]:
    """Return by host the address at which others reach its workers: that of its setting, else that of the inventory,
    if that is no loopback address of another machine.

    llama.cpp takes a name for an address; what such a name stands for is looked up here, as it may be public.
    """
    with_workers = {name for entry in profile.entries for name in entry.rpc}
    found = {}
    for name, seen in hosts.items() if with_workers else ():
        settled = seen.get("settings") or {}
        way = Way(**(settled.get("way") or {}))
        given = (settled.get("settings") or {}).get("rpc_address")
        address = given or (way.address if way.over_the_network else "127.0.0.1" if way.is_local else "")
        if name in with_workers and address:
            with contextlib.suppress(OSError, UnicodeError):
                address = socket.gethostbyname(address)
        forwarded = not given and not way.is_local and not exposed(address)
        found[name] = "" if forwarded else address
    return found
