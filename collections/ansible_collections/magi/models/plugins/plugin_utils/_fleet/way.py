# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the controller gets to a host, and from where its servers can be asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.magi.models.plugins.module_utils._base.addresses import exposed, is_one, local_url

CONTROLLER, HOST = "controller", "host"
_OVER_THE_NETWORK = ("ssh", "paramiko", "paramiko_ssh", "smart")
"""Ansible's connections that go to an address of the host."""


@dataclass(frozen=True)
class Way:
    """How the controller gets to a host."""

    address: str = ""
    """The host's address in the inventory."""
    connection: str = "local"
    """Ansible's connection plugin."""

    @property
    def over_the_network(self) -> bool:
        return self.connection.rpartition(".")[2] in _OVER_THE_NETWORK

    @property
    def is_local(self) -> bool:
        """Whether the host is the controller's own machine."""
        return self.connection.rpartition(".")[2] == "local"

    def url(self, bound: str, port: int, *, tls: bool = False) -> tuple[str, str]:
        """Return the URL of a server that binds ``bound``, and who can ask there: CONTROLLER if the controller can,
        HOST if only the host can."""
        if self.over_the_network and exposed(bound):
            first = bound.split(",")[0].strip()
            return local_url(first if is_one(first) and exposed(first) else self.address, port, tls=tls), CONTROLLER
        return local_url(bound, port, tls=tls), CONTROLLER if self.is_local else HOST
