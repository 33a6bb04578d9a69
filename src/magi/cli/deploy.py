"""up, plan, status, stop, down and discover: the verbs that run a playbook and show what came of it."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
