# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One llama-server instance: its options as environment and arguments, and the hash of all that defines it."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.text import is_utf8
from ansible_collections.magi.models.plugins.module_utils._host.values import Binary, Option, reachable


def local_url(host: str, port: int) -> str:
    """Return where a server bound to ``host`` answers, as its own host reaches it."""
    address = reachable(host)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


class InstanceError(ValueError):
    """An instance can't be built from its settings; the message names where the setting is and the remedy."""


LEFT_ALONE = ("keep", "quarantine")
"""The actions of a plan that do nothing to an instance."""


@dataclass(frozen=True)
class Instance:
    """A desired instance. ``name`` is ``<model id>`` or ``<model id>-<n>`` from the second on."""

    name: str
    model_id: str
    display_name: str
    tier: str
    model_path: str
    address: str
    """What it binds: an address, or several with commas."""
    port: int
    options: Mapping[str, Any]
    """The resolved options by canonical name, for people; what the process gets is environment and extra_args."""
    environment: Mapping[str, str]
    extra_args: tuple[str, ...] = ()
    """Arguments for options that have no variable in this build."""
    url: str = ""
    """Where it is reached on its own host, without a slash at the end."""
    config_hash: str = ""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Limits that the service manager sets: memory_max, cpu_quota, nice."""
    threads: int | None = field(default=None)
    """Threads shared out by us; None where the profile decides or a GPU does the work."""

    @property
    def api_key_file(self) -> str | None:
        """The file of API keys, as the options name it."""
        return self.environment.get("MAGI_API_KEY_FILE")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Instance:
        return cls(**{**data, "extra_args": tuple(data["extra_args"])})


# What the plan decides, and what must not be given as an option, each with the remedy.
_RESERVED = {
    "alias": "the instance's name is its alias",
    "api_key": "a key in a variable is readable; put it into a file and set api_key_file",
    "hf_token": "instances serve local files and get no tokens",
    "host": "set model_server_host",
    "model": "the entry's model decides it",
    "port": "set the entry's port, or model_server_port_range",
    "reuse_port": "it would hide that a port is taken",
    **dict.fromkeys(
        ("docker_repo", "hf_file", "hf_repo", "model_url", "models_dir", "models_preset"),
        "instances serve the local file that the entry names",
    ),
    **dict.fromkeys(
        ("agent", "mcp_servers_config", "mcp_servers_json", "tools", "tools_runtime", "ui_mcp_proxy"),
        "it gives tools of the host, its files or its network to whoever reaches the port",
    ),
    **dict.fromkeys(
        ("api_prefix", "ssl_cert_file", "ssl_key_file"),
        "a deployment asks each server over plain HTTP at /health whether it is ready; put a reverse proxy in front of "
        "the server for this",
    ),
    **dict.fromkeys(("cache_list", "completion_bash", "help", "list_devices", "usage", "version"), "it exits"),
}

# What may change while a server that people use runs on: the share of the cores, and the label.
_NOT_HASHED = ("LLAMA_ARG_THREADS", "MAGI_THREADS", "MAGI_DISPLAY_NAME")


def _find(binary: Binary, key: str) -> Option | None:
    return next((option for option in binary.options if key in option.names), None)


def resolve_options(binary: Binary, layers: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the options by canonical name, later layers over earlier ones; a layer is (where it is, options).

    ``no_x: true`` becomes ``x: false``. Raises InstanceError for a reserved or unknown option, naming the build and
    the nearest name it knows.
    """
    known = {name for option in binary.options for name in option.names}
    resolved: dict[str, Any] = {}
    for where, options in layers:
        for given, value in options.items():
            key = given.replace("-", "_")
            option = _find(binary, key)
            for name in option.names if option else (key,):
                if name in _RESERVED:
                    raise InstanceError(f"{where}: option {given} can't be set: {_RESERVED[name]}.")
            if option is None:
                near = difflib.get_close_matches(key, sorted(known - set(_RESERVED)), 1, 0.5)
                hint = f"did you mean {near[0]}?" if near else "see llama-server --help."
                raise InstanceError(f"{where}: llama-server ({binary.version}) has no option {given}; {hint}")
            if value is None:
                resolved.pop(option.name, None)
                continue
            if key != option.name and key.startswith("no_") and not option.takes_value:
                value = not _truth(where, given, value)
            elif not option.takes_value:
                value = _truth(where, given, value)
            resolved[option.name] = _text(where, given, value) if option.takes_value else value
    return resolved


def _truth(where: str, name: str, value: Any) -> bool:
    text = str(value).strip().lower()
    # The words that llama-server itself takes for its variables (common/arg.cpp, is_truthy and is_falsey).
    if text in ("1", "on", "true", "enabled", "yes"):
        return True
    if text in ("0", "off", "false", "disabled", "no"):
        return False
    raise InstanceError(f"{where}: option {name} is a switch; give true or false, not {value!r}.")


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def checked_text(what: str, text: str) -> str:
    """Return ``text`` if every service manager can hand it to a process unchanged, else raise InstanceError.

    systemd reads no variable at all of a file with something that it does not take for UTF-8 (is_utf8). A variable with
    control characters reaches the service on systemd 252, and was dropped by older ones (src/basic/env-util.c,
    ``env_value_is_valid``).
    """
    if _CONTROL.search(text) or not is_utf8(text):
        raise InstanceError(
            f"{what} has control characters or is not UTF-8 ({text!a}), which no service file can hold: rename it."
        )
    return text


def _text(where: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        value = "on" if value else "off"  # options such as flash_attn take words; YAML reads a bare on as true
    elif isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    elif isinstance(value, Mapping):
        value = json.dumps(value)
    return checked_text(f"{where}: the value of option {name}", str(value))


def key_file_path(where: str, path: str) -> str:
    """Return ``path`` if it is absolute, else raise InstanceError: a service has no folder that it could start from."""
    if not path.startswith("/"):
        raise InstanceError(f"{where}: option api_key_file must be an absolute path on the host, not {path!r}.")
    return path


def check_api_keys(where: str, text: str) -> None:
    """Raise InstanceError unless ``text``, the content of an API key file, protects a server.

    llama-server (common/arg.cpp, --api-key-file) takes each line that is not empty and has no # at its start for a key,
    as it stands; without any it asks for none, and whoever reaches the port can use it. A header of HTTP holds nothing
    but printable ASCII for sure (RFC 9110, 5.5).
    """
    keys = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line and not line.startswith("#")]
    for number, line in keys:
        if line != line.strip() or line.startswith("\ufeff"):
            what = "ends in a carriage return (CRLF line ends)" if line.endswith("\r") else "has white space at an end"
            raise InstanceError(
                f"{where}: line {number} {what}, which llama-server would take for a part of the key: save the file as "
                "plain text, one key in each line."
            )
        if not (line.isascii() and line.isprintable()):
            raise InstanceError(
                f"{where}: line {number} has a character that is not printable ASCII, which clients can't send in a "
                "header: make a key of letters and digits, for example by openssl rand -hex 32."
            )
    if not keys:
        raise InstanceError(
            f"{where} holds no key (it is empty, or has comments only), and llama-server would ask nobody for one: "
            "write a key into it, or remove the option api_key_file."
        )


def environment_and_args(binary: Binary, options: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables of the options that have one, and the arguments of those that don't."""
    environment: dict[str, str] = {}
    arguments: list[str] = []
    for name, value in options.items():
        option = _find(binary, name)
        if option is None:
            raise InstanceError(f"llama-server ({binary.version}) has no option {name}.")
        if option.environment:
            environment[option.environment] = value if option.takes_value else str(int(value))
        elif option.takes_value:
            if "\n" in value:
                raise InstanceError(f"Option {name} has no variable in this build, and a newline can't be an argument.")
            arguments += [option.flags[-1], value]
        else:
            negations = [flag for flag in option.flags if flag.startswith("--no-")]
            flags = [flag for flag in option.flags if flag not in negations] if value else negations
            arguments += flags[-1:]
    return environment, tuple(arguments)


def config_hash(
    environment: Mapping[str, str],
    extra_args: Iterable[str],
    files: Iterable[Mapping[str, Any]],
    binary: Binary,
) -> str:
    """Return 16 hexadecimal digits over what a running process was made of: environment (without the shared-out
    threads and the label), arguments, files of the model and its projector (path, size in bytes, mtime in nanoseconds),
    the binary's identity.
    """
    content = {
        "environment": {key: value for key, value in environment.items() if key not in _NOT_HASHED},
        "extra_args": list(extra_args),
        "files": [[item["path"], item["size"], item["mtime_ns"]] for item in files],
        "binary": binary.identity,
    }
    if "MAGI_THREADS" not in environment and "LLAMA_ARG_THREADS" in environment:
        content["threads"] = environment["LLAMA_ARG_THREADS"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
