"""A plan as Markdown: text from hosts and profiles can't become markup."""

from __future__ import annotations

import pytest

from magi.cli.tables import plan_markdown
from magi.verdict import deployments

from . import recorded
from .recorded import Q2


def document(
    host="gpu1",
    instance="a",
    reason="new in this profile",
    warning="",
    profile="p",
    unreachable=(),
    clients="",
    need=None,
) -> dict:
    plan = {
        "profile": profile,
        "instances": [{"name": instance, "port": 8080, "need": need}],
        "actions": [{"instance": instance, "action": "start", "reason": reason, "clients": clients}],
        "memory": [],
        "degraded": [],
        "warnings": [warning] if warning else [],
        "notes": [],
    }
    return {"hosts": {host: plan}, "changes": 1, "unreachable": list(unreachable)}


def test_a_plan():
    assert plan_markdown(document(warning="Port 8081 is busy.", unreachable=["gpu2"])) == (
        "### magi plan: profile `p`\n"
        "\n"
        "1 to change on 1 host.\n"
        "\n"
        "| host | action | instance | port | memory | reason |\n"
        "|---|---|---|---|---|---|\n"
        "| `gpu1` | `start` | `a` | `8080` |  | `new in this profile` |\n"
        "\n"
        "- `Port 8081 is busy.`\n"
        "- `gpu2: not reachable`\n"
    )


def test_a_plan_says_what_it_needs_and_what_happens_to_clients():
    given = document(need={"own": {"Host": 1 << 30}}, clients="beside")
    given["hosts"]["gpu1"]["memory"] = [{"device": "Host", "total": 4 << 30, "room": 3 << 30, "given": 1 << 30}]
    lines = plan_markdown(given).splitlines()
    assert lines[6] == "| `gpu1` | `start` | `a` | `8080` | `1.0 GiB` | `new in this profile; clients: beside` |"
    assert lines[8].startswith("- `gpu1: ")
    assert "1.0 GiB needed of 3.0 GiB" in lines[8]


def test_a_plan_says_what_it_does_at_gateways():
    given = {
        **document(),
        "gateways": [{"host": "gw1", "actions": ["write", "reload"]}, {"host": "gw2", "actions": []}],
    }
    assert plan_markdown(given).endswith("|\n\n- `Gateway gw1: writes its configuration, reloads`\n")


def test_a_recorded_plan():
    text = plan_markdown(deployments.planned(recorded.run("plan", 4)).document)
    assert f"| `localhost` | `keep` | `{Q2}` | `18140` |" in text
    assert text.endswith("- `gone: not reachable`\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a`b", "`a'b`"),
        ("``` x", "`''' x`"),
        # The marks of tables and of code can't be escaped everywhere in Markdown, so they are replaced.
        ("a | b", "`a ¦ b`"),
        (r"a \| b", r"`a \¦ b`"),
        ("a\n\n# Owned", r"`a\n\n# Owned`"),
        ("<img src=x onerror=y>", "`<img src=x onerror=y>`"),
        ("[x](javascript:y)", "`[x](javascript:y)`"),
        ("\x1b[2J", r"`\x1b[2J`"),
        ("\u202eevil", r"`\u202eevil`"),
        ("@everyone", "`@everyone`"),
    ],
)
def test_hostile_text_is_code(text, shown):
    given = document(host=text, instance=text, reason=text, warning=text, profile=text, unreachable=[text])
    lines = plan_markdown(given).splitlines()
    assert len(lines) == 10
    assert lines[0] == f"### magi plan: profile {shown}"
    assert lines[6] == f"| {shown} | `start` | {shown} | `8080` |  | {shown} |"
    assert lines[8] == f"- {shown}"
    # Two marks around each cell and none inside: no cell ends early.
    assert lines[6].count("`") == 2 * 5
