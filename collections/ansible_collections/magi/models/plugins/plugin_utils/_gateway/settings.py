# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of a gateway. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


class GatewayError(ValueError):
    """There is no configuration, and nothing was touched. The message says what is wrong and the remedy."""


@dataclass(frozen=True)
class Gateway:
    """Where a gateway listens, and what it bears."""

    address: str = "127.0.0.1"
    """What it binds: an address, or several with commas."""
    port: int = 8000
    hold: int = 60
    """Seconds that a request waits for a server of its model to come up."""
    queue: int = 1000
    """Requests that may wait for a free slot, for each model."""
    queue_timeout: int = 600
    """Seconds that one of them waits at most."""
    stream_timeout: int = 600
    """The longest pause between two parts of an answer, in seconds; the processing of a long prompt is one."""
    max_body: int = 32
    """MiB."""
    max_connections: int = 4000

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Gateway:
        """Return the gateway with these settings of the module model_gateway. Raises GatewayError."""
        gateway = cls(**{item.name: values[item.name] for item in fields(cls)})
        for name in ("hold", "queue", "queue_timeout", "stream_timeout", "max_body", "max_connections", "port"):
            most = {"port": 65535, "max_body": 1024}.get(name, 1_000_000)
            if not 1 <= getattr(gateway, name) <= most:
                raise GatewayError(
                    f"model_gateway_{name} must be a whole number from 1 to {most}, but is {getattr(gateway, name)}; "
                    "correct it in the inventory."
                )
        for address in gateway.addresses:
            if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", address):
                raise GatewayError(
                    f"model_gateway_address must be an address such as 127.0.0.1, or several with commas, but has "
                    f"{address!a}; correct it in the inventory."
                )
        return gateway

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(item.strip() for item in self.address.split(","))
