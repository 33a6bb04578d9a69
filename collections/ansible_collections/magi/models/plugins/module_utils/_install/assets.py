# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The archives of a llama.cpp release: which of them is for a host, by the names that upstream gives them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._install.step import Unavailable

DOWNLOADS = "https://github.com/ggml-org/llama.cpp/releases/download"
PIN = "set llama_server_release_url and llama_server_release_sha256 to an archive that has it"
_SYSTEMS = {"Linux": "ubuntu", "Darwin": "macos"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64", "s390x": "s390x"}


@dataclass(frozen=True)
class Archive:
    """A file to download, and its SHA-256 in 64 hexadecimal digits."""

    name: str
    url: str
    sha256: str


def platform(system: str, machine: str) -> str:
    """Return the platform in the names of archives (llama.cpp .github/workflows/release.yml), ``ubuntu-x64``, for a
    kernel and a machine as uname(1) names them. Raises Unavailable."""
    try:
        return f"{_SYSTEMS[system]}-{_MACHINES[machine.lower()]}"
    except KeyError:
        raise Unavailable(
            f"llama.cpp publishes no archive for {system} on {machine}", "set llama_server_install_method to source"
        ) from None


def read(answer: bytes) -> list[dict[str, Any]]:
    """Return the files of a release from the answer of GitHub's API. Raises Unavailable for anything else: a portal
    that wants a login answers, too."""
    try:
        found = json.loads(answer)["assets"]
        return [
            item for item in found if isinstance(item["name"], str) and isinstance(item["browser_download_url"], str)
        ]
    except (ValueError, LookupError, TypeError):
        raise Unavailable("what answers there does not list a release", "set llama_server_release_api") from None


def pick(files: list[dict[str, Any]], tag: str, wanted: str) -> tuple[Archive, ...]:
    """Return the archives of the platform ``wanted`` among the files of a release. Raises Unavailable without one."""
    by_name = {item["name"]: item for item in files}
    for kind in ("tar.gz", "zip"):
        name = f"llama-{tag}-bin-{wanted}.{kind}"
        if name in by_name:
            return (_archive(by_name[name]),)
    raise Unavailable(f"release {tag} has no archive for {wanted}", PIN)


def _archive(item: Mapping[str, Any]) -> Archive:
    digest = re.fullmatch(r"sha256:([0-9a-f]{64})", str(item.get("digest")).lower())
    if digest is None:
        raise Unavailable(
            f"the release publishes no SHA-256 of {item['name']}", "set llama_server_release_sha256 to the right one"
        )
    if not re.match("https?://", item["browser_download_url"]):
        raise Unavailable(f"{item['name']} has an address that is not of the web", PIN)
    return Archive(item["name"], item["browser_download_url"], digest[1])
