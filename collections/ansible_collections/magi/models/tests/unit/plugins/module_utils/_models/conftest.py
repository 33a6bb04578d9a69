# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import pytest


@pytest.fixture
def registry_path(tmp_path):
    return str(tmp_path / "state" / "registry.json")


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "state").mkdir()
