"""Who may ask for what: the tokens, and the addresses from which browsers may ask. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from urllib.parse import urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Role(str, Enum):
    """What a token allows."""

    VIEW = "view"
    DEPLOY = "deploy"
    """All that VIEW does, and changes."""

    def __str__(self) -> str:
        return self.value

    def includes(self, needed: Role) -> bool:
        return self is Role.DEPLOY or needed is Role.VIEW


class Tokens:
    """Which token has which role; compared in the same time whether one is right, nearly right, or wrong."""

    def __init__(self, tokens: Iterable[tuple[Role, str]]):
        self._tokens = [(role, _digest(token)) for role, token in tokens]

    def role(self, given: str) -> Role | None:
        """Return the role of a token, or None if there is no such token."""
        digest, found = _digest(given), None
        for role, token in self._tokens:
            if hmac.compare_digest(token, digest):
                found = role
        return found

    def session(self, given: str, until: int) -> str:
        """Return what stands for a token in the cookie of a browser until then, in seconds since the epoch: who reads
        it has no token, and it ends with the token."""
        return f"{until}.{_proof(_digest(given), until)}"

    def role_of_session(self, given: str, now: float) -> Role | None:
        """Return the role of the token for which a session stands, or None: it is over, or none of ours."""
        begin, _dot, proof = given.partition(".")
        if not re.fullmatch(r"[0-9]{1,15}", begin) or int(begin) <= now:
            return None
        found = None
        for role, token in self._tokens:
            if hmac.compare_digest(_proof(token, int(begin)).encode(), proof.encode("utf-8", "surrogatepass")):
                found = role
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _proof(digest: bytes, until: int) -> str:
    return hmac.new(digest, f"console {until}".encode(), hashlib.sha256).hexdigest()


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of the header Authorization (RFC 6750), or None."""
    scheme, _space, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def stranger(headers: Mapping[str, str], hosts: Collection[str]) -> str | None:
    """Return why a request comes from a page of another site, or by a name that is not ours (DNS rebinding), else None.

    ``hosts`` are names besides those of the loopback interface by which clients may ask.
    """
    host = headers.get("host", "")
    name = _name(f"//{host}")
    if name not in LOOPBACK and name not in hosts:
        return f"This service is not called {host!a}: start it with --allowed-host NAME if it shall be."
    origin = headers.get("origin")
    if origin is not None and not _same(origin, host) and not _by_tls(origin, hosts):
        return f"A page of {origin!a} may not ask this service: ask from a page of {host}, or without a browser."
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):  # another port of this machine is the same site
        return "A page of another site may not ask this service: ask from its own, or without a browser."
    return None


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _same(origin: str, host: str) -> bool:
    """Whether an origin is the address that a request was sent to."""
    try:
        page, here = urlsplit(origin), urlsplit(f"{urlsplit(origin).scheme}://{host}")
        default = {"http": 80, "https": 443}.get(page.scheme)
        return default is not None and (page.hostname, page.port or default) == (here.hostname, here.port or default)
    except ValueError:
        return False


def _by_tls(origin: str, hosts: Collection[str]) -> bool:
    """Whether an origin is that of a proxy which speaks TLS for us, and asks by whatever address."""
    try:
        page = urlsplit(origin)
        return page.scheme == "https" and page.port is None and page.hostname in {*hosts} - LOOPBACK
    except ValueError:
        return False
