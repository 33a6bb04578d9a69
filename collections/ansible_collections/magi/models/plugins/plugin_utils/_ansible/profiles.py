# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The default folders for a play's profiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def profile_folders(task_vars: Mapping[str, Any]) -> list[Path]:
    """Return the folders to look for, of which the first that exists counts: ``profiles`` beside the host's inventory,
    beside ansible.cfg, and in the working directory."""
    configuration = task_vars.get("ansible_config_file")
    beside = [task_vars.get("inventory_dir"), configuration and Path(configuration).parent, Path.cwd()]
    return list(dict.fromkeys(Path(folder).absolute() / "profiles" for folder in beside if folder))
