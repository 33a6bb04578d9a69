# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of a gateway. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import MAPS
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import BACKEND_KEY, CERTIFICATE


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
    max_body: int = 30
    """MiB."""
    max_connections: int = 4000
    keys_file: str = ""
    """The clients' keys, on the gateway; empty: the gateway asks for none."""
    backend_key_file: str = ""
    """The key that the gateway shows to servers that ask for one, on the gateway; empty: it has none."""
    tls_certificate: str = ""
    """Certificate and key, on the gateway; empty: it speaks plain HTTP."""
    affinity: bool = True
    """A conversation goes on at the server that has its beginning in its cache."""
    metrics_address: str = "127.0.0.1"
    """What the metrics for Prometheus bind."""
    metrics_port: int = 8405
    """0: there are none."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Gateway:
        """Return the gateway with these settings of the module model_gateway. Raises GatewayError."""
        gateway = cls(**{item.name: values[item.name] for item in fields(cls)})
        for name, least, most in (
            *((name, 1, 1_000_000) for name in ("hold", "queue", "queue_timeout", "stream_timeout", "max_connections")),
            *(("max_body", 1, 1024), ("port", 1, 65535), ("metrics_port", 0, 65535)),
        ):
            if not least <= getattr(gateway, name) <= most:
                raise GatewayError(
                    f"model_gateway_{name} must be a whole number from {least} to {most}, but is "
                    f"{getattr(gateway, name)}; correct it in the inventory."
                )
        if gateway.hold >= gateway.stream_timeout:  # a request that is held would be given up before
            raise GatewayError(
                f"model_gateway_hold ({gateway.hold}) must be less than model_gateway_stream_timeout "
                f"({gateway.stream_timeout}); correct one of them in the inventory."
            )
        for name in ("keys_file", "backend_key_file", "tls_certificate"):
            if not re.fullmatch(r"(?:/[^\x00-\x1f]*)?", getattr(gateway, name)):
                raise GatewayError(
                    f"model_gateway_{name} must be an absolute path on the host; correct it in the inventory."
                )
        for name, address in (
            *(("address", item) for item in gateway.addresses),
            ("metrics_address", gateway.metrics_address),
        ):
            if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", address):
                raise GatewayError(
                    f"model_gateway_{name} must be an address such as 127.0.0.1, or several with commas, but has "
                    f"{address!a}; correct it in the inventory."
                )
        return gateway

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the secret files that HAProxy needs for it."""
        return (
            *(MAPS if self.keys_file else ()),
            *((BACKEND_KEY,) if self.backend_key_file else ()),
            *((CERTIFICATE,) if self.tls_certificate else ()),
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(item.strip() for item in self.address.split(","))
