"""The controller as an object: what its values say. What it does is tested end to end."""

from __future__ import annotations

import pytest

from magi import Report

from . import recorded
from .test_verdict import MISSING, report


@pytest.mark.parametrize(
    ("document", "degraded"),
    [
        ({"summary": {}}, False),
        (report(), False),
        (report("host_failed"), True),
        (report(degraded=MISSING), True),
        (recorded.run("status").last("status"), True),
    ],
)
def test_what_counts_as_degraded(document, degraded):
    assert Report.of(document).is_degraded is degraded


def test_servers_are_those_of_the_document():
    document = recorded.run("status").last("status")
    assert [(server.instance, server.url) for server in Report.of(document).servers] == [
        (recorded.Q2, "http://127.0.0.1:18140"),
        (recorded.Q3, "http://127.0.0.1:18141"),
    ]
