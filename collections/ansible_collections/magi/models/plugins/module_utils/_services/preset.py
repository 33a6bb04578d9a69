# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A section of the file from which llama-server in router mode reads its models (--models-preset). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_NO_OPTION = re.compile(r"MAGI_|OMP_WAIT_POLICY$")
_OF_THE_ROUTER = ("LLAMA_ARG_HOST", "LLAMA_ARG_PORT", "LLAMA_ARG_API_KEY_FILE")


def preset(name: str, environment: Mapping[str, str], arguments: Iterable[str], aliases: Iterable[str] = ()) -> str:
    """Return the section ``[name]`` for a server with this ``environment`` and these further ``arguments``.

    A key is an option's variable, or its flag without dashes; a flag alone is "true" (llama.cpp common/preset.cpp,
    load_from_ini). Raises ValueError for what such a file can't hold: the format knows no quotes and no escapes.
    """
    options = {
        key: value for key, value in environment.items() if not _NO_OPTION.match(key) and key not in _OF_THE_ROUTER
    }
    options["LLAMA_ARG_ALIAS"] = ",".join(aliases)
    flag = ""
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument[2:]
            options[flag] = "true"
        else:
            options[flag] = argument
    lines = [f"{key} = {_value(key, value)}" for key, value in sorted(options.items()) if value]
    return "\n".join([f"[{name}]", *lines, ""])


def _value(key: str, text: str) -> str:
    if re.search(r"[;#\r\n]", text) or text != text.strip(" \t"):
        raise ValueError(
            f"the file of a pool can't hold {text!a} ({key}): a value there has no ; and no #, no line breaks, and no "
            "spaces around it"
        )
    return text
