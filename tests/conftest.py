"""How workers of pytest-xdist share the slow tests: each takes the next one, or all at once that belong together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = ("test_ansible_versions", "test_readme", "test_gateway")


SHORT = pytest.StashKey[str]()
"""A folder of ours for those of the workers."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """The path of a socket may have 107 characters at most, and workers' folders are one level deeper."""
    ours = config.getoption("dist", "no") == "loadgroup" and not hasattr(config, "workerinput")
    if ours and not config.option.basetemp:
        config.option.basetemp = config.stash[SHORT] = tempfile.mkdtemp()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None]:
    yield
    if exitstatus == 0 and SHORT in session.config.stash:
        shutil.rmtree(session.config.stash[SHORT])


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
