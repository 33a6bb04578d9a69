from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml
from ansible_collections.magi.models.plugins.plugin_utils._observe.dashboards import DASHBOARDS, dashboards
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import RECORDS

PROMTOOL = shutil.which("promtool")
QUERIES = [expr for dashboard in DASHBOARDS for panel in dashboard.panels for expr, _legend in panel.queries]


def made():
    files = dashboards("/srv/m")
    return {name: json.loads(text) for name, text in files.items() if name.endswith(".json")}


def test_grafana_finds_them():
    provider = yaml.safe_load(dashboards("/srv/m")["grafana.yml"])
    assert provider["providers"][0]["options"]["path"] == "/srv/m/dashboards"
    assert [*made()] == [f"dashboards/magi-{name}.json" for name in ("fleet", "model", "gateway", "capacity")]
    assert len({item["uid"] for item in made().values()}) == 4


def test_panels_lie_beside_each_other():
    for document in made().values():
        places = [(item["gridPos"]["x"], item["gridPos"]["y"]) for item in document["panels"]]
        assert len({*places}) == len(places)
        assert all(x + item["gridPos"]["w"] <= 24 for (x, _y), item in zip(places, document["panels"]))
        assert len({item["id"] for item in document["panels"]}) == len(places)


def test_what_a_query_takes_from_us_is_recorded():
    assert {*re.findall(r"\bmagi:[\w:]+", " ".join(QUERIES))} <= {item.name for item in RECORDS}


def test_a_query_uses_no_variable_that_is_not_there():
    names = {item["name"] for document in made().values() for item in document["templating"]["list"]}
    assert {*re.findall(r"\$(\w+)", " ".join(QUERIES))} <= names


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing (Debian: apt-get install prometheus)")
def test_prometheus_understands_each_query(tmp_path):
    rules = [{"record": f"query_{number}", "expr": expr} for number, expr in enumerate(QUERIES)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    command = [PROMTOOL, "check", "rules", tmp_path / "queries.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
