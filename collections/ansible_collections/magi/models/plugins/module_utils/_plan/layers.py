# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a profile, its host and an entry say about one instance, laid over each other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._config.profile import Entry, Profile
from ansible_collections.magi.models.plugins.module_utils._plan.options import IDLE, Layers, resolve_options
from ansible_collections.magi.models.plugins.module_utils._plan.select import Wanted


def option_layers(profile: Profile, host: str, of_host: Mapping[str, Any], item: Wanted) -> Layers:
    """Return the layers of one instance's options: the profile's < ``of_host`` < its entry's."""
    return (
        (f"Profile {profile.name}, options", profile.options),
        (f"Host {host}, model_server_options", of_host),
        (item.where, _own(item.entry)),
    )


def _own(entry: Entry) -> dict[str, Any]:
    """Return the options that an entry gives."""
    counted = {} if entry.devices is None else {"device": None}  # those of profile and host, which would win
    return {**({} if entry.idle is None else {IDLE: entry.idle}), **counted, **entry.options}


def variables_of(profile: Profile, of_host: Mapping[str, str | None], item: Wanted) -> dict[str, str]:
    """Return one instance's environment: the profile's < its entry's < ``of_host``; null takes a variable away.

    The host has the last word, other than on options: a driver's variables are about the machine.
    """
    given = {**profile.environment, **item.entry.environment, **of_host}
    return {name: value for name, value in given.items() if value is not None}


def option_set(layers: Layers) -> dict[str, Any]:
    """Return the options as they are given, without the API key file, which is checked where it is used."""
    given = resolve_options(None, layers)
    given.pop("api_key_file", None)
    return given


def option_sets(profile: Profile, of_host: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the options given for each entry, each set once: the host's build is asked whether it takes them."""
    found: list[dict[str, Any]] = []
    for entry in (item for each in profile.entries for item in each.each):
        given = option_set((("", profile.options), ("", of_host), ("", _own(entry))))
        if given and given not in found:
            found.append(given)
    return found
