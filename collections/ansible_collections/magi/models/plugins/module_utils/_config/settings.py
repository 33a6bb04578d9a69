# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of a deployment: their table, and the one place that decides which source of a value wins."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.managers import SERVER_CHOICES
from ansible_collections.magi.models.plugins.module_utils._config.environment import environment
from ansible_collections.magi.models.plugins.module_utils._config.resources import resources

PREFIX = "model_server_"


class SettingError(ValueError):
    """A setting has a wrong value; the message names the setting, its source and what is expected."""


@dataclass(frozen=True)
class Setting:
    """One setting. The role's variable is ``model_server_<name>``; ``environment`` is the variable that beats it."""

    name: str
    type: str
    environment: str | None = None
    alias: str | None = None


# Defaults live in roles/model_server/defaults/main.yml alone; a unit test compares the two and argument_specs.yml.
SETTINGS = (
    Setting("profile", "slug", "MAGI_PROFILE", alias="profile"),
    Setting("profiles_dir", "path"),
    Setting("scan_paths", "paths", "MODEL_SCAN_PATH"),
    Setting("registry_path", "host_path", "REGISTRY_PATH"),
    Setting("llama_server_path", "host_path", "LLAMA_SERVER_PATH"),
    Setting("port_range", "port_range", "MODEL_PORT_RANGE"),
    Setting("host", "str", "MODEL_HOST"),
    Setting("rpc_address", "address"),
    Setting("max_startup_time", "seconds", "MODEL_MAX_STARTUP_TIME"),
    Setting("readiness_check_interval", "seconds", "MODEL_READINESS_CHECK_INTERVAL"),
    Setting("concurrent_starts", "bool", "MODEL_CONCURRENT_STARTS"),
    Setting("health_from", "health_from"),
    Setting("stop_timeout", "seconds", "MODEL_STOP_TIMEOUT"),
    Setting("options", "options"),
    Setting("environment", "environment"),
    Setting("resources", "resources"),
    Setting("manager", "manager"),
    Setting("image", "image", "MODEL_SERVER_IMAGE"),
    Setting("home", "host_path"),
    Setting("supervisord_path", "path"),
    Setting("templates_dir", "path"),
    Setting("report_path", "path"),
    Setting("refresh", "bool"),
    Setting("checksum", "bool"),
    Setting("strict", "bool"),
    Setting("missing", "missing"),
    Setting("memory", "memory"),
    Setting("serial", "serial"),
    Setting("max_fail_percentage", "percentage"),
    Setting("retry_quarantined", "bool"),
)

MERGED = tuple(setting.name for setting in SETTINGS if setting.type in ("environment", "options", "resources"))
"""Mappings that several levels of an inventory may add to: variables that begin with ``model_server_<name>_`` are laid
over the plain one, in the order of their names."""

_TRUE = {"1", "on", "true", "yes", "y", "enabled"}
_FALSE = {"0", "off", "false", "no", "n", "disabled"}


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def _seconds(value: Any) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 86400:
        raise ValueError("a whole number of seconds from 1 to 86400 (a day)")
    return int(text)


def _port_range(value: Any) -> list[int]:
    text = "-".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    ends = re.fullmatch(r"\[?\s*([0-9]{1,5})\s*[-,]\s*([0-9]{1,5})\s*\]?", text)
    if ends is None:
        raise ValueError("two ports, such as 8080-8099 or [8080, 8099]")
    first, last = (int(end) for end in ends.groups())
    if not 1 <= first <= last <= 65535:
        raise ValueError("two ports from 1 to 65535, the first not above the last")
    return [first, last]


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or any(ord(c) < 32 for c in value):
        raise ValueError("a string without control characters")
    return value


def _slug(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("a name of letters, digits, '.', '_' and '-'")
    return value


def _host_path(value: Any) -> str:
    if not _string(value).startswith(("/", "~", "$")):
        raise ValueError("an absolute path")
    return str(PurePosixPath(value))  # it is compared with what is found there: /srv//magi/ is /srv/magi


def _paths(value: Any) -> list[str]:
    paths = [_host_path(item) for item in _split(value) if item]
    if not paths:
        raise ValueError("a list of folders (in the environment: separated by colons)")
    return paths


def _split(value: Any) -> Sequence[Any]:
    items = value.split(":") if isinstance(value, str) else value
    return items if isinstance(items, (list, tuple)) else []


def _placed(setting: Setting, value: Any, folder: str | None) -> Any:
    """Return a value whose relative paths start at ``folder``; None: they stay as they are."""
    if folder is None or setting.type not in ("host_path", "path", "paths"):
        return value
    return _absolute(_split(value) if setting.type == "paths" else value, folder)


def _absolute(value: Any, folder: str) -> Any:
    """Return a path, or a list of paths, with those that are relative below ``folder``."""
    if isinstance(value, str) and value and not value.startswith(("/", "~", "$")):
        return posixpath.normpath(posixpath.join(folder, value))
    return [_absolute(item, folder) for item in value] if isinstance(value, (list, tuple)) else value


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("a mapping of llama-server options")
    return dict(value)


def _manager(value: Any) -> str:
    if value not in SERVER_CHOICES:
        raise ValueError(" or ".join([", ".join(SERVER_CHOICES[:-1]), SERVER_CHOICES[-1]]))
    return str(value)


def _image(value: Any) -> str:
    """Return a reference to an image (github.com/distribution/reference): a name with a tag, a digest or both."""
    if value == "":
        return ""
    name = r"(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    if not isinstance(value, str) or not re.fullmatch(
        rf"{name}(?::\w[\w.-]{{0,127}}|(?::\w[\w.-]{{0,127}})?@sha256:[0-9a-f]{{64}})", value, re.ASCII
    ):
        raise ValueError("an image with its tag or digest, such as ghcr.io/ggml-org/llama.cpp:server-b11434")
    return value


def _address(value: Any) -> str:
    if value != "" and not (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}", value)):
        raise ValueError("an IPv4 address, or a name of one")
    return str(value)


def _health_from(value: Any) -> str:
    if value not in ("auto", "controller", "host"):
        raise ValueError("auto, controller or host")
    return str(value)


def _missing(value: Any) -> str:
    if value not in ("keep", "stop"):
        raise ValueError("keep or stop")
    return str(value)


def _memory(value: Any) -> str:
    value = "off" if value is False else value  # YAML reads a bare off as false
    if value not in ("refuse", "warn", "off"):
        raise ValueError("refuse, warn or off")
    return str(value)


def _serial(value: Any) -> list[int | str]:
    """Return the sizes of batches: numbers of hosts or percentages, as Ansible's serial takes them."""
    items = value if isinstance(value, (list, tuple)) else str(value).split(",")
    sizes: list[int | str] = []
    for item in items:
        size = re.fullmatch(r"([1-9][0-9]{0,4})(%?)", str(item).strip())
        if size is None or (size.group(2) and int(size.group(1)) > 100):
            raise ValueError("a number of hosts (2), a percentage of them (25%), or a list of these (1,25%)")
        sizes.append(size.group() if size.group(2) else int(size.group()))
    if not sizes:
        raise ValueError("a number of hosts (2), a percentage of them (25%), or a list of these (1,25%)")
    return sizes


def _percentage(value: Any) -> int:
    percent = re.fullmatch(r"([0-9]{1,3})%?", str(value).strip())
    if percent is None or int(percent.group(1)) > 100:
        raise ValueError("a whole number from 0 to 100")
    return int(percent.group(1))


_CONVERT = {
    "address": _address,
    "bool": _bool,
    "environment": environment,
    "health_from": _health_from,
    "host_path": _host_path,
    "image": _image,
    "manager": _manager,
    "memory": _memory,
    "missing": _missing,
    "options": _options,
    "path": _string,
    "paths": _paths,
    "percentage": _percentage,
    "port_range": _port_range,
    "resources": resources,
    "seconds": _seconds,
    "serial": _serial,
    "slug": _slug,
    "str": _string,
}


def resolve(
    inventory: Mapping[str, Any],
    environment: Mapping[str, str],
    extra: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    folder: str = "/",
    dotenv: Mapping[str, str] | None = None,
    dotenv_folder: str = "/",
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings and where each came from: extra vars over environment over ``dotenv`` (what a file .env sets)
    over inventory over default.

    ``inventory`` has the role's variables that the inventory gives the host, ``extra`` those of ``-e``, and
    ``defaults`` those of a play or the role (all templated already); each also has the variables that are laid over
    one of MERGED. An empty environment variable counts as not set. A relative path in ``-e`` or the environment starts
    at ``folder``, one in ``dotenv`` at ``dotenv_folder``.

    Raises SettingError.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        variable = PREFIX + setting.name
        candidates = (
            (f"-e {variable}", extra.get(variable), folder),
            (f"-e {setting.alias}", extra.get(setting.alias) if setting.alias else None, folder),
            (f"environment {setting.environment}", environment.get(setting.environment or "") or None, folder),
            (f".env {setting.environment}", (dotenv or {}).get(setting.environment or "") or None, dotenv_folder),
            (f"inventory {variable}", inventory.get(variable), None),
            (f"default {variable}", (defaults or {}).get(variable), None),
        )
        layers = [(origin, _placed(setting, value, start)) for origin, value, start in candidates if value is not None][
            :1
        ]
        if setting.name in MERGED:
            plain_is_extra = bool(layers) and layers[0][0].startswith("-e ")
            below = [*_laid_over("default", variable, defaults or {}), *_laid_over("inventory", variable, inventory)]
            above = _laid_over("-e", variable, extra)
            layers = [*below, *layers, *above] if plain_is_extra else [*layers, *below, *above]
        converted = [_converted(setting, *layer) for layer in layers]
        if not layers:
            continue
        values[setting.name] = converted[0]
        if len(layers) > 1:
            values[setting.name] = {key: value for part in converted for key, value in part.items()}
        origins[setting.name] = " + ".join([layers[0][0], *(origin.partition(" ")[2] for origin, _value in layers[1:])])
    return values, origins


def _laid_over(source: str, variable: str, given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    names = sorted(name for name in given if name.startswith(f"{variable}_") and given[name] is not None)
    return [(f"{source} {name}", given[name]) for name in names]


def _converted(setting: Setting, origin: str, value: Any) -> Any:
    try:
        return _CONVERT[setting.type](value)
    except ValueError as error:
        variable = origin.partition(" ")[2] if setting.name in MERGED else PREFIX + setting.name
        raise SettingError(
            f"Setting {variable} must be {error}, but {origin} is {value!r}; correct it there."
        ) from None
