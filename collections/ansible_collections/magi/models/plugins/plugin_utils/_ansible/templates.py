# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The environment in which files for hosts are rendered."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2


def plain_environment(folders: Sequence[str]) -> jinja2.Environment:
    """Return a plain Jinja2 environment, not Ansible's: text from hosts and model files is only ever a value in it.

    Each template comes from the first of ``folders`` that has it.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - no HTML; each value goes through the filter of its format
    )
