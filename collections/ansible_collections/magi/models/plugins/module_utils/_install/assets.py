# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The archives of a llama.cpp release: which of them is for a host, by the names that upstream gives them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
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


def platform(system: str, machine: str, backend: str = "cpu") -> str:
    """Return the platform in the names of archives (llama.cpp .github/workflows/release.yml), with ``*`` for a version:
    ``ubuntu-x64``, ``ubuntu-vulkan-x64``, ``ubuntu-cuda-*-x64``. Kernel and machine are named as by uname(1). A Mac has
    one archive, which uses its GPU. Raises Unavailable."""
    kind = {"cpu": "", "vulkan": "vulkan-"}.get(backend, f"{backend}-*-")
    if system not in _SYSTEMS or machine.lower() not in _MACHINES or (system != "Linux" and kind):
        what = f"{system} on {machine}" + (f" for {backend}" if kind else "")
        raise Unavailable(f"llama.cpp publishes no archive for {what}", "set llama_server_install_method to source")
    return f"{_SYSTEMS[system]}-{kind}{_MACHINES[machine.lower()]}"


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


def pick(
    files: Sequence[Mapping[str, Any]], tag: str, wanted: str, suits: Callable[[tuple[int, ...]], bool] = lambda _: True
) -> tuple[Archive, ...]:
    """Return the archives of the platform ``wanted`` among the files of a release: the one of the newest version that
    ``suits``, where the platform has versions, and with it the CUDA libraries that upstream packs apart. Raises
    Unavailable without one."""
    by_name = {item["name"]: item for item in files}
    pattern = re.escape(f"llama-{tag}-bin-{wanted}").replace(r"\*", r"(\d+)\.(\d+)") + r"\.(?:zip|tar\.gz)"
    # Of a .zip and a .tar.gz the latter, which a dictionary meets last.
    matches = [
        match for name in sorted(by_name, key=lambda n: n.endswith(".tar.gz")) if (match := re.fullmatch(pattern, name))
    ]
    found = {tuple(map(int, match.groups())): match[0] for match in matches}
    if not found:
        raise Unavailable(f"release {tag} has no archive for {wanted.replace('-*', '')}", PIN)
    suited = [version for version in found if suits(version)]
    if not suited:
        listed = ", ".join(sorted(found.values()))
        raise Unavailable(f"none of {listed} suits the driver or libraries of this host", "update these")
    name = found[max(suited)]
    return tuple(_archive(by_name[item]) for item in (name, f"cudart-{name}") if item in by_name)


def _archive(item: Mapping[str, Any]) -> Archive:
    digest = re.fullmatch(r"sha256:([0-9a-f]{64})", str(item.get("digest")).lower())
    if digest is None:
        raise Unavailable(
            f"the release publishes no SHA-256 of {item['name']}", "set llama_server_release_sha256 to the right one"
        )
    if not re.match("https?://", item["browser_download_url"]):
        raise Unavailable(f"{item['name']} has an address that is not of the web", PIN)
    return Archive(item["name"], item["browser_download_url"], digest[1])
