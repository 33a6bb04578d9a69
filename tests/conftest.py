"""How workers of pytest-xdist share the slow tests: each takes the next one, or all at once that belong together."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = ("test_ansible_versions", "test_readme", "test_gateway")


@cache
def shares_a_fixture(module: str) -> bool:
    return 'scope="module"' in (ROOT / module).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests on the hosts belong together, and those of a module that shares a fixture. (The marker xdist_group, which
    could say so, has no effect with pytest 9.2 and pytest-xdist 3.8.) Unit tests are shared as pytest-xdist does it."""
    if config.getoption("dist") != "loadgroup":
        return None

    from xdist.scheduler import LoadScopeScheduling  # not everywhere where tests run

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            if module.startswith("tests/fleet/"):
                return "tests/fleet/"
            return module if shares_a_fixture(module) else nodeid

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first, so that no worker has one of them left when the others have ended."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)
