"""A report as JUnit XML, which CI systems show: one test case for each server, and one for each host. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree


def _text(value: Any) -> str:
    """Return a text without what XML can't hold."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd]", "?", str(value))


def failed_report(profile: str | None, problem: str) -> dict[str, Any]:
    """Return the report of a run that ended before there was one."""
    failed = [{"host": "magi", "instance": None, "cause": "failed", "detail": problem}]
    return {"servers": [], "summary": {"profile": profile or "", "failed": failed}}


def junit_xml(report: Mapping[str, Any]) -> str:
    """Return the document; a server or host that is not well is a failure with its cause and last log lines."""
    failed = {(item["host"], item["instance"]): item for item in report["summary"]["failed"]}
    cases = [(server["host"], server["instance"]) for server in report["servers"]]
    cases += [key for key in failed if key not in cases]
    suite = ElementTree.Element(
        "testsuite",
        name=f"magi up {_text(report['summary']['profile'])}",
        tests=str(len(cases)),
        failures=str(len(failed)),
    )
    for host, instance in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=_text(host), name=_text(instance or "deployment"))
        item = failed.get((host, instance))
        if item:
            failure = ElementTree.SubElement(case, "failure", type=_text(item["cause"]), message=_text(item["detail"]))
            failure.text = _text("\n".join(item.get("log", ())))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
