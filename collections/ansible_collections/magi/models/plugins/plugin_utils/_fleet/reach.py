# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What to do about a host that Ansible did not reach, or where it is not root and may not become it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What ssh(1) and Ansible say, first match wins, and what to do.
_WAYS = (
    (
        "Host key verification failed|HOST IDENTIFICATION HAS CHANGED",
        "compare its host key with the one in known_hosts, and record the right one there",
    ),
    (
        "bad permissions|UNPROTECTED PRIVATE KEY FILE|invalid format",
        "make the private key file readable for you alone (chmod 600), or name another (ansible_ssh_private_key_file)",
    ),
    (
        r"Permission denied \(|Too many authentication failures|Invalid/incorrect password",
        "let your key in there (ssh-copy-id), or correct ansible_user and ansible_ssh_private_key_file",
    ),
    (
        "Could not resolve hostname|Name or service not known",
        "correct its name, or set ansible_host to its address",
    ),
    (
        "[Nn]o matching (host key type|key exchange method|cipher)",
        "update its SSH server, or allow what it offers in your ssh_config",
    ),
    ("Connection refused", "start its SSH server, or correct ansible_host and ansible_port"),
    # ssh had ended, and Ansible did not wait for what it said (_send_initial_data in its connection plugin).
    (
        "Data could not be sent to remote host(?!.*ssh: connect to host)",
        "connect to it by ssh, which says why that fails, mend that",
    ),
)
_ROOT = (
    (
        r"Missing (sudo|become|su|doas) password|: a password is required|[Ii]ncorrect (sudo|su|doas) password"
        "|waiting for privilege escalation prompt|Premature end of stream waiting for become success",
        "give the right password (--ask-become-pass, or a file: ANSIBLE_BECOME_PASSWORD_FILE), or let the user become "
        "root without one",
    ),
    (
        r"(sudo|doas): (command )?not found|not in the sudoers file|not allowed to (execute|run)",
        "let the user become root there, or connect as root (ansible_user: root)",
    ),
    (
        r"^\[Errno 13\] Permission denied: ",  # what a module raised; where one of ours expects that, it says more
        "let the user read and write there, or become root (become: true),",
    ),
)


def said_of(host: str, result: Mapping[str, Any]) -> str:
    """Return why a task failed on ``host``, from its ``result``: in one line, without a full stop, and without the
    words that Ansible and our actions put before it."""
    said = " ".join(str(result.get("msg", "")).split()).rstrip(".")
    for words in ("Task failed: ", "Module failed: ", f"Host {host}: "):  # Ansible's own come first
        said = said.removeprefix(words)
    return said


def way_to_reach(said: str, otherwise: str) -> str:
    """Return what to do about a host that Ansible did not reach; ``said`` is its message, in the words of ssh(1)."""
    return next((way for pattern, way in _WAYS + _ROOT if re.search(pattern, said)), otherwise)


def way_to_root(said: str) -> str:
    """Return what to do where a task failed with ``said`` since it may not become root, or is not; else an empty
    string."""
    return next((way for pattern, way in _ROOT if re.search(pattern, said)), "")
