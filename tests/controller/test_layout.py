"""What decides in magi does not act."""

from __future__ import annotations

import re

from ansible_collections.magi.models.tests.unit.plugins.layout import RANKS, impure, sources
from ansible_collections.magi.models.tests.unit.plugins.test_layout import CONTROLLER, EFFECTS, TARGET

from .known import ROOT

ACTING = {
    *(
        "__main__",
        "cli",
        "controller",
        "doctor.examination",
        "init",
        "profiles",
        "project",
        "remember",
        "runner",
        "session",
    ),
    *("state", "verbs"),
    *(f"web.{name}" for name in ("api", "app", "audit", "jobs", "looks", "profiles", "routing", "runs", "server")),
    *("web.changes", "web.service", "web.tokens"),
    *(f"web.console.{name}" for name in ("deployment", "editor", "pages", "render", "routing")),
}
"""The modules of magi that act on the world. All others only decide."""


def test_what_decides_does_not_act():
    files = [*TARGET, *CONTROLLER, *(item for item in sources(ROOT / "src" / "magi") if item.name != "domain")]
    assert impure(files, EFFECTS | ACTING) == []


def test_the_table_of_packages_has_a_row_for_each_rank():
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| subject |\n")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(_[a-z/_]+)`", row.split("|")[1]) for row in table.splitlines()[1:]]
    assert [{*row} for row in rows] == [
        {name.replace(".", "/") for name, rank in RANKS.items() if rank == at} for at in sorted({*RANKS.values()})
    ]
