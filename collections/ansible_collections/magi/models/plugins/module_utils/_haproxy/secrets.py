# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What only the gateway's host knows: its clients' keys, the servers' key, its certificate. They become files beside
the configuration that nobody else reads, and no result of a task has them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import maps, parse
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import BACKEND_KEY, CERTIFICATE


class SecretError(ValueError):
    """A file of the host can't be used, and nothing was touched; the message says which, why, and the remedy."""


@dataclass(frozen=True)
class Sources:
    """The files on the host, by absolute path; empty where there is none."""

    keys_file: str = ""
    backend_key_file: str = ""
    tls_certificate: str = ""


def read_secrets(sources: Sources, files: Mapping[str, str]) -> dict[str, str]:
    """Return the secret files, content by name, for the configuration ``files``. Raises SecretError and KeysError."""
    found = {}
    if sources.keys_file:
        keys = parse(read_keys(sources.keys_file), sources.keys_file)
        found.update(maps(keys, files["names.txt"], files["models.json"]))
    if sources.backend_key_file:
        found[BACKEND_KEY] = f"key {_backend_key(sources.backend_key_file)}\n"
    if sources.tls_certificate:
        found[CERTIFICATE] = _certificate(sources.tls_certificate)
    return found


def read_keys(path: str) -> str:
    """Return the content of the file of keys; without the file, there is no key yet. Raises SecretError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError) as error:
        raise SecretError(f"model_gateway_keys_file {path} can't be read ({_why(error)}); correct it.") from None


def _backend_key(path: str) -> str:
    """Return the first key of an API key file, as llama-server reads one."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise SecretError(f"model_gateway_backend_key_file {path} can't be read ({_why(error)}); correct it.") from None
    key = next((line for line in lines if line and not line.startswith("#")), "")
    if not re.fullmatch(r"[!-~]{1,4096}", key):
        raise SecretError(
            f"model_gateway_backend_key_file {path} must have the servers' key in its first line, in printable ASCII "
            "without spaces; write it there."
        )
    return key


def _certificate(path: str) -> str:
    """Return the certificate with its key, once it is sure that both are there and belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise SecretError(
            f"model_gateway_tls_certificate {path} is no certificate with its private key ({_why(error)}); put both "
            "into this file as PEM, the certificate first and the key without a passphrase."
        ) from None


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "no PEM").replace("_", " ").lower()
    return error.strerror or str(error) if isinstance(error, OSError) else "it is no text"
