# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The addresses that a server binds: where it answers, who can reach it, what is in its way. Pure."""

from __future__ import annotations

import ipaddress

_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 - recognised, not bound


def reachable(bound: str) -> str:
    """Return the address at which a server bound to ``bound`` (an address, or several with commas) is reached on its
    own host."""
    first = bound.split(",")[0]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first)  # noqa: S104 - recognised, not bound


def is_one(address: str) -> bool:
    """Whether it is one address, and does not stand for all."""
    return address not in _WILDCARDS


def exposed(bound: str) -> bool:
    """Whether a server bound to ``bound`` (an address, several, or a socket's path) can be reached from elsewhere."""

    def loopback(address: str) -> bool:
        try:
            return ipaddress.ip_address(address).is_loopback
        except ValueError:
            return address == "localhost" or address.endswith(".sock")

    return bool(bound) and not all(loopback(address.strip()) for address in bound.split(","))


def overlaps(bound: str, wanted: str) -> bool:
    """Whether a listener on ``bound`` keeps another from binding ``wanted`` on the same port."""

    bound, wanted = (address.replace("localhost", "127.0.0.1") for address in (bound, wanted))
    return bound == wanted or bool(_WILDCARDS & {bound, wanted})


def local_url(host: str, port: int, *, tls: bool = False) -> str:
    """Return the URL of a server bound to ``host``, as seen from its own host; with ``tls`` it speaks HTTPS."""
    address = reachable(host)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"
