#!/usr/bin/env python3
"""Write docs/magi-up.svg and docs/magi-status.svg: what `magi` shows of a real deployment, which stays up.

docs/pictures.py -i INVENTORY [--profile NAME] [--to FOLDER]

The README's pictures come from three of the test hosts (`make hosts`).
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, RenderableType

from magi import verbs
from magi.progress import Progress
from magi.runner.options import Options
from magi.session import Session

ROOT = Path(__file__).parents[1]
# The reader's own monospaced font: the picture loads no font from elsewhere.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def draw(path: Path, command: str, show: Callable[[Console], list[RenderableType]]) -> None:
    """Write the output of ``command`` as a picture."""
    console = Console(record=True, force_terminal=True, width=116, highlight=False, file=io.StringIO())
    for part in show(console):
        console.print(part)
    console.save_svg(str(path), title=command, code_format=FORMAT, unique_id=path.stem)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-i", "--inventory", required=True)
    parser.add_argument("--profile", default="production")
    parser.add_argument("--to", type=Path, default=ROOT / "docs", help="folder (default: docs)")
    given = parser.parse_args()
    session = Session.of(ROOT, Options((given.inventory,)), profile=given.profile)
    from magi.cli import live, tables  # they import the collection, which a session finds

    progress = Progress()
    deployed = verbs.up(replace(session, on_event=progress.add)).document
    command = f"magi up {given.profile}"
    draw(
        given.to / "magi-up.svg",
        command,
        lambda console: [live.picture(progress, command), tables.report(deployed)],
    )
    running = verbs.status(session).document
    draw(given.to / "magi-status.svg", "magi status", lambda console: [tables.status(running)])


if __name__ == "__main__":
    main()
