# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tables for people. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ansible_collections.magi.models.plugins.module_utils._base.text import printable


def text_table(head: Sequence[str], rows: Sequence[Sequence[object]], numbers: Collection[str] = ()) -> list[str]:
    """Lines of a table with aligned columns; those with heads in ``numbers`` are aligned to the right."""
    cells = [[printable(str(cell)) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join(
            cell.rjust(width) if title in numbers else cell.ljust(width)
            for title, cell, width in zip(head, row, widths)
        ).rstrip()
        for row in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
