"""What a verb says: to people on the terminal, to programs as one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """If standard output is piped, or with ``--json``, it belongs to programs, and people read standard error."""

    def __init__(self, as_json: bool = False):
        self.as_json = as_json

    @cached_property
    def people(self) -> Console:
        """The console that people read. Without a terminal it has no colours and no animation."""
        from rich.console import Console

        return Console(stderr=self.as_json or not sys.stdout.isatty(), highlight=False, soft_wrap=True)

    def say(self, text: str = "") -> None:
        """Print a line for people; control characters and markup in it are shown as they are."""
        self.people.print(text, markup=False, emoji=False)

    def document(self, value: Mapping[str, Any]) -> None:
        """Give programs their one document, with ``--json``."""
        if self.as_json:
            print(json.dumps(value, indent=2, default=str))
