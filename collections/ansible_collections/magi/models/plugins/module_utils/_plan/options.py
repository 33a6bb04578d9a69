# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of an instance: laid over each other, checked, and turned into variables and arguments. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.text import is_utf8, shown
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary, Option


class InstanceError(ValueError):
    """An instance can't be built from its settings; the message names where the setting is and the remedy."""


# What the plan decides, and what can't be given as an option, each with the remedy.
_RESERVED = {
    "alias": "the instance's name is its alias",
    "api_key": "a key in a variable is readable; put it into a file and set api_key_file",
    "hf_token": "instances serve local files and get no tokens",
    "host": "set model_server_host",
    "model": "the entry's model decides it",
    "models_autoload": "a pool loads a model when it is asked for",
    "models_max": "set loaded of the pool",
    "port": "set the entry's port, or model_server_port_range",
    "reuse_port": "it would hide that a port is taken",
    **dict.fromkeys(
        ("docker_repo", "hf_file", "hf_repo", "model_url", "models_dir", "models_preset"),
        "instances serve the local file that the entry names",
    ),
    **dict.fromkeys(
        ("agent", "mcp_servers_config", "mcp_servers_json", "tools", "tools_runtime", "ui_mcp_proxy"),
        "it gives tools of the host, its files or its network to anyone who reaches the port",
    ),
    **dict.fromkeys(
        ("api_prefix", "ssl_cert_file", "ssl_key_file"),
        "a deployment asks each server over plain HTTP at /health whether it is ready; put a reverse proxy in front of "
        "the server for this",
    ),
    **dict.fromkeys(("cache_list", "completion_bash", "help", "list_devices", "usage", "version"), "it exits"),
}


IDLE = "sleep_idle_seconds"
"""The option for ``idle``. It has no variable."""


def _find(binary: Binary, key: str) -> Option | None:
    return next((option for option in binary.options if key in option.names), None)


Layers = Iterable[tuple[str, Mapping[str, Any]]]
"""Pairs of where options are given and the options; later ones win."""


def resolve_options(binary: Binary | None, layers: Layers) -> dict[str, Any]:
    """Return the options by canonical name, later layers over earlier ones; without a ``binary``, as they are given.

    ``no_x: true`` becomes ``x: false``; an option that is null is not set. Raises InstanceError for a reserved or
    unknown option; its message names the build and the nearest name that it knows.
    """
    if binary is None:
        merged = {key.replace("-", "_"): value for _where, options in layers for key, value in options.items()}
        return {key: value for key, value in merged.items() if value is not None}
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
                import difflib  # a host imports all anew in each call, and has few typing errors

                near = difflib.get_close_matches(key, sorted(known - set(_RESERVED)), 1, 0.5)
                hint = f"did you mean {near[0]}?" if near else "see llama-server --help."
                hint = "idle needs it: install a later build, or take idle out." if key == IDLE else hint
                raise InstanceError(f"{where}: llama-server ({binary.version}) has no option {given}; {hint}")
            if value is None:
                resolved.pop(option.name, None)
                continue
            if key != option.name and key.startswith("no_") and not option.takes_value:
                value = not _truth(where, given, value)
            elif not option.takes_value:
                value = _truth(where, given, value)
            if option.takes_value:
                value = _as_string(where, given, value)
                value = _as_number(where, given, value, option) if option.number else value
            resolved[option.name] = value
    return resolved


def _truth(where: str, name: str, value: Any) -> bool:
    text = str(value).strip().lower()
    # The words that llama-server itself takes for its variables (common/arg.cpp, is_truthy and is_falsey).
    if text in ("1", "on", "true", "enabled", "yes"):
        return True
    if text in ("0", "off", "false", "disabled", "no"):
        return False
    raise InstanceError(f"{where}: option {name} is a switch; give true or false, not {shown(value)}.")


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def checked_string(what: str, text: str) -> str:
    """Return ``text`` if every service manager can hand it to a process unchanged, else raise InstanceError.

    systemd reads no variable at all from a file that has anything it does not take for UTF-8 (is_utf8). systemd 252
    passes a variable with control characters to the service; older ones dropped it (src/basic/env-util.c,
    ``env_value_is_valid``).
    """
    if _CONTROL.search(text) or not is_utf8(text):
        raise InstanceError(
            f"{what} has control characters or is not UTF-8 ({text!a}), which no service file can hold: rename it."
        )
    return text


def _as_string(where: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        value = "on" if value else "off"  # options such as flash_attn take words; YAML reads a bare on as true
    elif isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    elif isinstance(value, Mapping):
        value = json.dumps(value)
    elif isinstance(value, float):
        value = format(Decimal(repr(value)), "f")  # 1e-05 as 0.00001
    if not str(value).strip():
        raise InstanceError(f"{where}: option {name} is empty; give it a value, or null to leave it unset.")
    return checked_string(f"{where}: the value of option {name}", str(value))


def _as_number(where: str, name: str, value: str, option: Option) -> str:
    """Return a number written out in digits: llama-server ignores what it can't read at the end, and takes 32k and
    32.768 for 32.

    Raises InstanceError.
    """
    words = option.words
    if value in words:
        return value
    plain = re.sub(r"(?<=\d)_(?=\d)", "", value.strip())
    if not re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)", plain, re.ASCII):
        other = f", or {' or '.join(words)}" if words else ""
        raise InstanceError(f"{where}: option {name} is a number{other}; write it out in digits, not {shown(value)}.")
    if not option.whole:
        return plain
    whole = Decimal(plain).to_integral_value()  # of any length
    if Decimal(plain) != whole:
        raise InstanceError(f"{where}: option {name} is a whole number; write it without a point, not {shown(value)}.")
    return f"{whole:f}"


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
                raise InstanceError(
                    f"Option {name} has no variable in this build, so its value can't contain a newline."
                )
            arguments += [option.flags[-1], value]
        else:
            negations = [flag for flag in option.flags if flag.startswith("--no-")]
            flags = [flag for flag in option.flags if flag not in negations] if value else negations
            arguments += flags[-1:]
    return environment, tuple(arguments)
