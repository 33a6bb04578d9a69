# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Drift across hosts."""

from __future__ import annotations

import json

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.drift import Drift, find_drift
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import model


def variant(size=1, fingerprint="a", sha256=None):
    return model("x", size_bytes=size, fingerprint=fingerprint, sha256=sha256)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ({"a": variant(), "b": variant()}, []),
        ({"a": variant(), "b": variant(size=2), "c": variant(size=2)}, [["b", "c"], ["a"]]),
        ({"a": variant(), "b": variant(fingerprint="b")}, [["a"], ["b"]]),
        ({"a": variant(sha256="1"), "b": variant(sha256="2")}, [["a"], ["b"]]),
        ({"a": variant(sha256="1"), "b": variant(sha256=None)}, []),
        ({"a": variant()}, []),
    ],
)
def test_drift(hosts, expected):
    found = find_drift({host: [model] for host, model in hosts.items()})
    assert [[list(item.hosts) for item in each.variants] for each in found] == ([expected] if expected else [])
    assert all(each.id == "x" for each in found)
    assert [Drift.from_dict(json.loads(json.dumps(each.to_dict()))) for each in found] == found
