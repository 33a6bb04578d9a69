"""A report as JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from magi.junit import failed_report, junit_xml

from . import recorded
from .recorded import Q2, Q3


def report(*failed: dict, servers=(("gpu1", "a"),), profile: str = "p", degraded=(), ready: bool = True) -> dict:
    return {
        "servers": [{"host": host, "instance": instance, "is_ready": ready} for host, instance in servers],
        "summary": {"profile": profile, "failed": list(failed), "degraded": list(degraded)},
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


def test_what_a_host_lacks_is_a_failed_case_of_that_host():
    lacks = ["entry 2 (x): no such model on gpu1.", "entry 3 (y): no such model on gpu1."]
    suite = ElementTree.fromstring(junit_xml(report(degraded=[{"host": "gpu1", "detail": text} for text in lacks])))
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    server, *others = suite
    assert server.find("failure") is None
    assert [(case.get("classname"), case.get("name")) for case in others] == [("gpu1", text) for text in lacks]
    assert [case.find("failure").attrib for case in others] == [{"type": "degraded", "message": text} for text in lacks]


def test_servers_fail_with_their_host():
    """If a host was held back, or lost after its plan, the report has no failure for each server."""
    lost = {"host": "gpu1", "instance": None, "cause": "held_back", "detail": "Host gpu1: too many hosts failed."}
    servers = [("gpu1", "a"), ("gpu1", "b")]
    suite = ElementTree.fromstring(junit_xml(report(lost, failure(), servers=servers, ready=False)))
    assert (suite.get("tests"), suite.get("failures")) == ("3", "3")
    assert {case.get("name"): case.find("failure").get("type") for case in suite} == {
        "a": "crashed",
        "b": "held_back",
        "deployment": "held_back",
    }
    # A server that ran there before and still serves is not a failure.
    suite = ElementTree.fromstring(junit_xml(report(lost, servers=servers)))
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")


def test_a_run_without_a_report_is_a_failed_case():
    [case] = ElementTree.fromstring(junit_xml(failed_report("p", "It can't be read.")))
    assert case.find("failure").get("message") == "It can't be read."


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
