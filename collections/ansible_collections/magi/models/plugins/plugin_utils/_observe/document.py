# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files in YAML. Pure."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Ansible's strings and numbers, which know where they are from, are what they say."""


_Dumper.add_multi_representer(str, yaml.SafeDumper.represent_str)
_Dumper.add_multi_representer(int, yaml.SafeDumper.represent_int)


def document(content: Any, said: str) -> str:
    """Return a file whose first line tells what was ``said`` of who writes it."""
    return f"# Written by magi.models{said}\n" + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=10_000)
