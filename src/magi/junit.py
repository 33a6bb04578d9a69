"""A report as JUnit XML, which CI systems show: a test case for each server, and for whatever else failed. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree


def _text(value: Any) -> str:
    """Return a string without what XML can't hold."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", str(value))


def failed_report(profile: str | None, problem: str) -> dict[str, Any]:
    """Return the document for a run that ended without a report."""
    failed = [{"host": "magi", "instance": None, "cause": "failed", "detail": problem}]
    return {"servers": [], "summary": {"profile": profile or "", "failed": failed, "degraded": []}}


def junit_xml(report: Mapping[str, Any]) -> str:
    """Return the document; a server or host that is not well is a failure with its cause and last log lines, and so is
    each thing that the profile enables and a host can't give. A server that failed with its host has the host's."""
    summary = report["summary"]
    failed = {(item["host"], item["instance"]): item for item in summary["failed"]}
    for server in report["servers"]:
        key = server["host"], server["instance"]
        if not server["is_ready"] and key not in failed:
            failed[key] = failed[server["host"], None]
    failed |= {(item["host"], item["detail"]): {**item, "cause": "degraded"} for item in summary["degraded"]}
    cases = [(server["host"], server["instance"]) for server in report["servers"]]
    cases += [key for key in failed if key not in cases]
    suite = ElementTree.Element(
        "testsuite",
        name=f"magi up {_text(summary['profile'])}",
        tests=str(len(cases)),
        failures=str(len(failed)),
    )
    for host, name in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=_text(host), name=_text(name or "deployment"))
        item = failed.get((host, name))
        if item:
            failure = ElementTree.SubElement(case, "failure", type=_text(item["cause"]), message=_text(item["detail"]))
            failure.text = _text("\n".join(item.get("log", ())))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
