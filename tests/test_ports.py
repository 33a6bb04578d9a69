"""End-to-end tests run side by side, so none has a port that is the same for all workers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

E2E = Path(__file__).with_name("e2e")


@pytest.mark.parametrize("path", sorted(E2E.glob("test_*.py")), ids=lambda path: path.name)
def test_a_port_is_taken_from_those_of_the_worker(path: Path):
    found = re.findall(r"(?<!ports\()(?<![\w.])1[89]\d{3}(?!\w)", path.read_text())
    assert found == [], "take it from ports() of tests/e2e/conftest.py"
