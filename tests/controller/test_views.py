"""The result of a verb: its document, its lines, its exit code."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from magi.cli import tables
from magi.controller import Report
from magi.doctor.checks import OK, PROBLEM, WARNING, Finding
from magi.doctor.examination import diagnosis
from magi.errors import DeploymentFailed, ExitCode, MagiError, ProfileError
from magi.events import Event, Run
from magi.instances import InstanceNameError
from magi.profiles import files, verbs
from magi.verdict import deployments, looks

from .known import BINARY, Q2, Q3, Q4, host

KNOWN = {"gpu1": host(binary=BINARY), "gpu2": host("gpu2", Q4)}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "good.yml").write_text("description: One\nenabled_models: [{tier: Q2}]\noptions: {ctx_size: 8}\n")
    (folder / "bad.yml").write_text("enabled_model: ['*']\n")
    return folder


class FakeBench:
    """Profiles in a folder, and hosts that are known."""

    def __init__(self, folder, hosts=KNOWN):
        self.folder, self.hosts = folder, hosts

    def find(self, name):
        return files.find(self.folder, name)

    def paths(self, names):
        return [self.find(name) for name in names] or files.files(self.folder)


def text(outcome):
    json.dumps(outcome.document)  # always one document
    assert all("\n" not in line for line in outcome.lines)
    return "\n".join(outcome.lines)


def test_profile_list(folder):
    outcome = verbs.list_(FakeBench(folder))
    assert [(item["name"], item["valid"]) for item in outcome.document["profiles"]] == [("bad", False), ("good", True)]
    assert "good     1        One" in text(outcome)
    assert "broken: " in text(outcome)


def test_profile_show(folder):
    outcome = verbs.show(FakeBench(folder), "good")
    assert f"{Q2['id']}  Q2    free  ctx_size=8" in text(outcome)
    assert "gpu2 (options as given: its llama-server is not known yet):" in text(outcome)
    assert "entry 1 (tier Q2): matches no model on gpu2." in text(outcome)
    assert outcome.document["hosts"][0]["instances"][0]["options"] == {"ctx_size": "8"}
    assert "No host is known yet: run magi discover, or name a registry with --registry." in text(
        verbs.show(FakeBench(folder, {}), "good")
    )


@pytest.mark.parametrize(
    ("names", "code"), [(["good"], ExitCode.OK), (["bad"], ExitCode.USAGE), (["good", "bad"], ExitCode.USAGE)]
)
def test_profile_validate(folder, names, code):
    outcome = verbs.validate(FakeBench(folder), names)
    assert outcome.exit_code == code
    assert [item["valid"] for item in outcome.document["profiles"]] == [name == "good" for name in names]
    if "bad" in names:
        assert 'bad.yml, line 1: unknown key "enabled_model": did you mean "enabled_models"?' in text(outcome)


def test_profile_new(folder):
    outcome = verbs.new(FakeBench(folder), "mine")
    assert outcome.document["models"] == sorted([Q2["id"], Q3["id"], Q4["id"]])
    assert verbs.validate(FakeBench(folder), ["mine"]).exit_code == ExitCode.OK
    with pytest.raises(ProfileError, match="exists and stays"):
        verbs.new(FakeBench(folder), "mine")


def test_migrated(folder, tmp_path):
    source = tmp_path / "legacy.yml"
    source.write_text(f"models:\n  A: {{name: {Q2['id']}, port: 8080}}\n  B: {{name: gone}}\n")
    outcome = verbs.migrated(FakeBench(folder), source, "old")
    assert [(item["key"], item["model"]) for item in outcome.document["entries"]] == [("A", Q2["id"]), ("B", None)]
    assert "with 1 of 2 entries" in text(outcome)
    assert "legacy.yml, line 3: B (gone): no discovered model has its name" in text(outcome)


def test_settings():
    def result(port):
        return {
            "settings": {"port_range": [port, 8099], "strict": False, "options": {"hf_token": "canary", "a": True}},
            "origins": {
                "port_range": ".env MODEL_PORT_RANGE",
                "strict": "default model_server_strict",
                "options": "inventory model_server_options",
            },
        }

    outcome = looks._settings([("gpu1", result(8080)), ("gpu2", result(8081))])
    lines = [" ".join(line.split()) for line in outcome.lines[2:]]
    assert lines == [
        "options hf_token=…, a=true inventory model_server_options",
        "port_range (gpu1) 8080, 8099 .env MODEL_PORT_RANGE",
        "port_range (gpu2) 8081, 8099 .env MODEL_PORT_RANGE",
        "strict false default",
    ]
    assert "canary" not in json.dumps(outcome.document)
    assert outcome.document["hosts"]["gpu1"]["strict"] == {
        "value": False,
        "source": "default",
        "name": "model_server_strict",
    }


@pytest.mark.parametrize(
    ("severities", "strict", "code"),
    [
        ([OK], False, ExitCode.OK),
        ([OK, WARNING], False, ExitCode.OK),
        ([OK, WARNING], True, ExitCode.FAILED),
        ([WARNING, PROBLEM], False, ExitCode.FAILED),
    ],
)
def test_diagnosis(severities, strict, code):
    outcome = diagnosis([Finding(item, "x", "gpu1", f"it is {item}") for item in severities], strict)
    assert outcome.exit_code == code
    assert outcome.document["problems"] == severities.count(PROBLEM)
    assert text(outcome).startswith("gpu1:\n  ")


def test_logs_of_one_host_and_of_several():
    one = ("gpu1", {"log": ["a\tb", "\x1b[31mred"], "instances": ["x"]})
    none = ("gpu2", {"log": None, "instances": []})
    assert text(looks._logs("x", [one, none])) == "a       b\n\\x1b[31mred"
    assert text(looks._logs("x", [one, ("gpu2", one[1])])).startswith("gpu1 | a")
    with pytest.raises(InstanceNameError, match="There is no instance y on gpu2: nothing is deployed"):
        looks._logs("y", [none])


ANSWER = {"text": "Paris", "reasoning": "", "finish_reason": "stop", "tokens": 2, "tokens_per_second": 9.54}
STATUS = {"host": {"instances": [{"name": "x"}]}}


def test_an_answer():
    outcome = looks._answer("x", [("gpu1", STATUS), ("gpu1", {**ANSWER, "serving": ["gpu1", "gpu2"]})])
    assert text(outcome) == "gpu1: 2 tokens, 9.5 tokens/s; also served on gpu2 (use --limit to ask there)"
    assert (outcome.document["host"], outcome.document["text"]) == ("gpu1", "Paris")
    cut = looks._answer("x", [("gpu1", {**ANSWER, "finish_reason": "length"})])
    assert text(cut).endswith("cut at --max-tokens")


def test_an_answer_through_a_gateway():
    outcome = looks._answer("chat", [("gw1", {**ANSWER, "reached": True})])
    assert text(outcome) == "through the gateway on gw1: 2 tokens, 9.5 tokens/s"
    way = {key: outcome.document[key] for key in ("model", "gateway", "instance", "host")}
    assert way == {"model": "chat", "gateway": "gw1", "instance": None, "host": "gw1"}


@pytest.mark.parametrize(("status", "error"), [(404, InstanceNameError), (503, DeploymentFailed)])
def test_a_gateway_that_refuses(status, error):
    said = {"msg": "Gateway gw1: it answers: no.", "reached": True, "status": status}
    run = Run(2, (Event("failed", host="gw1", result=said), Event("stats", result={})))
    with pytest.raises(error, match=r"^Gateway gw1: it answers: no\.$"):
        looks.answer("x", run)


def test_no_answer():
    with pytest.raises(MagiError, match="Instance x on gpu1 does not answer; magi status and magi doctor say why"):
        looks._answer("x", [("gpu1", STATUS)])
    with pytest.raises(InstanceNameError, match="There is no instance y on gpu1; there are x"):
        looks._answer("y", [("gpu1", STATUS)])


SERVER = {"host": "gpu1", "instance": "x", "model_id": "x", "address": "127.0.0.1", "port": 8080, "state": "up"}
ROUTE = {"names": ["x"], "task": "chat", "held": False, "waiting": 0, "servers": [{**SERVER, "busy": 1, "slots": 4}]}
GATEWAY = {
    "host": "gw1",
    "url": "http://127.0.0.1:8000/v1",
    "url_from": "host",
    "names": ["x"],
    "is_ready": True,
    "cause": None,
    "detail": "",
    "routes": [ROUTE],
}
HELD = {**ROUTE, "held": True, "servers": [{**ROUTE["servers"][0], "state": "drained"}]}
NONE = {**GATEWAY, "is_ready": False, "detail": "nothing runs there", "routes": []}
DOWN = {**GATEWAY, "is_ready": False, "cause": "gateway_down", "detail": "Gateway gw1: HAProxy does not answer."}


@pytest.mark.parametrize(
    ("entry", "code", "said"),
    [
        (GATEWAY, ExitCode.OK, "Gateway gw1: http://127.0.0.1:8000/v1 (on gw1 itself)"),
        ({**GATEWAY, "routes": [HELD]}, ExitCode.DEGRADED, "drained, held"),
        (NONE, ExitCode.DEGRADED, "Note: there is no gateway on gw1: nothing runs there."),
        (DOWN, ExitCode.DEGRADED, "Gateway gw1: HAProxy does not answer."),
    ],
)
def test_routes(entry, code, said):
    found = Event("ok", host="gw1", result={"routed": [], "gateway": entry})
    outcome = looks.routes(Run(0, (found, Event("stats", result={}))))
    assert (outcome.exit_code, outcome.document) == (code, {"gateways": [entry]})
    assert said in text(outcome)
    (gateway,) = Report.of(outcome.document).gateways
    assert [server.state for route in gateway.routes for server in route.servers] in (["up"], ["drained"], [])
    console = Console(file=io.StringIO(), width=120)
    console.print(tables.routes(outcome.document))
    assert said in console.file.getvalue()


@pytest.mark.parametrize(("entry", "code"), [(GATEWAY, ExitCode.OK), (NONE, ExitCode.OK), (DOWN, ExitCode.DEGRADED)])
def test_a_status_ends_with_the_gateways(entry, code):
    status = {"servers": [], "ready_servers": 0, "total_servers": 0}
    status["summary"] = {"profile": None, "unreachable": [], "failed": [], "warnings": []}
    found = (Event("ok", host="gpu1", result={"status": status}),)
    found += (Event("ok", host="gw1", result={"routed": [], "gateway": entry}),)
    outcome = deployments.seen(Run(0, (*found, Event("stats", result={}))))
    assert (outcome.exit_code, outcome.document["gateways"]) == (code, [entry])
    assert "gw1" in outcome.lines[2]
