"""A report as JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from magi.junit import junit_xml

from . import recorded
from .recorded import Q2, Q3


def report(*failed: dict, servers=(("gpu1", "a"),), profile: str = "p") -> dict:
    return {
        "servers": [{"host": host, "instance": instance} for host, instance in servers],
        "summary": {"profile": profile, "failed": list(failed)},
    }


def failure(detail: str = "no.", log=(), host: str = "gpu1", instance: str | None = "a") -> dict:
    return {"host": host, "instance": instance, "cause": "crashed", "detail": detail, "log": list(log)}


def test_a_recorded_report():
    suite = ElementTree.fromstring(junit_xml(recorded.run("up").last("report")))
    assert suite.tag == "testsuite"
    assert suite.attrib == {"name": "magi up p", "tests": "3", "failures": "2"}
    cases = {(case.get("classname"), case.get("name")): case.find("failure") for case in suite}
    assert list(cases) == [("localhost", Q2), ("localhost", Q3), ("gone", "deployment")]
    assert cases["localhost", Q2] is None
    assert cases["localhost", Q3].get("type") == "bad_option"
    assert "Unsupported cache type: madeup" in cases["localhost", Q3].get("message")
    assert "Unsupported cache type: madeup" in cases["localhost", Q3].text
    assert cases["gone", "deployment"].get("type") == "host_unreachable"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("</failure><x a='1'>&amp;", "</failure><x a='1'>&amp;"),
        ("]]><![CDATA[", "]]><![CDATA["),
        ("\x1b[31mred\x00\x08", "?[31mred??"),
        ("tab\tstays", "tab\tstays"),
        ("\ud800 half a pair, \uffff none", "? half a pair, ? none"),
        ("ünïcode 模型", "ünïcode 模型"),
    ],
)
def test_hostile_text_stays_text(text, shown):
    document = junit_xml(report(failure(text, [text], text, text), servers=[(text, text)], profile=text))
    suite = ElementTree.fromstring(document.encode())
    [case] = suite
    assert len(case) == 1
    assert case.get("classname").replace(" ", "\t") == shown.replace(" ", "\t")
    assert case.find("failure").text == shown


def test_a_character_beyond_the_basic_plane_is_kept():
    assert ElementTree.fromstring(junit_xml(report(profile="🚀"))).get("name") == "magi up 🚀"


def test_lines_of_a_log_stay_lines():
    [case] = ElementTree.fromstring(junit_xml(report(failure(log=["a", "b"]))))
    assert case.find("failure").text == "a\nb"
