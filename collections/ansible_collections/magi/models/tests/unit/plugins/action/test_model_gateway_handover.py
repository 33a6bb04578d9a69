from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.magi.models.plugins.action import model_gateway_handover
from ansible_collections.magi.models.plugins.action.model_gateway_handover import ActionModule
from ansible_collections.magi.models.plugins.plugin_utils._gateway.handover import Handover
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Server

ROUTED = [Server(host, name, name, host, 8080, 1).to_dict() for host, name in (("h1", "a"), ("h1", "b"), ("h2", "c"))]


class FakeTask(SimpleNamespace):
    """What an action asks of its task, which runs once for all hosts, at a gateway."""

    async_val = 0
    check_mode = diff = False
    delegate_to = "g1"


class FakeGateway:
    """Answers what our modules ask it, and keeps what it is told."""

    def __init__(self, monkeypatch, **answers):
        self.answers = {"model_gateway": {"servers": ROUTED}, "model_gateway_handover": {"left": 0}, **answers}
        self.jobs = []
        monkeypatch.setattr(ActionBase, "_execute_module", lambda _action, name, **given: self.answer(name, **given))

    def answer(self, name, module_args, **_given):
        if "job" in module_args:
            self.jobs.append({key: value for key, value in module_args["job"].items() if value})
        found = self.answers[name.removeprefix("magi.models.")]
        if isinstance(found, Exception):
            raise found
        return dict(found)

    def told(self, step, **more):
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/unused"))
        arguments = {"step": step, "gateway": {"home": "/unused", "manager": "auto"}, **more}
        templar = SimpleNamespace(template=lambda value: value)
        action = ActionModule(FakeTask(args=arguments), connection, None, None, templar, None)
        action._load_name = "magi.models.model_gateway_handover"
        return action.run(task_vars={"inventory_hostname": "h1"})


@pytest.mark.parametrize(
    ("batch", "instances", "places"),
    [
        (["h1"], None, ["a/h1::a", "b/h1::b"]),
        (["h1", "h2"], ["b", "c"], ["b/h1::b", "c/h2::c"]),
        (["h1"], ["c"], None),
        (["h3"], None, None),
    ],
)
def test_what_is_stopped_is_drained_and_then_left_to_the_checks(monkeypatch, batch, instances, places):
    gateway = FakeGateway(monkeypatch)
    for step in ("stopping", "stopped"):
        gateway.told(step, batch=batch, **({"instances": instances} if instances else {}))
    drained = {"drain": places, "empty": places, "empty_before": places}
    assert gateway.jobs == ([drained, {"down": places}] if places else [])


@pytest.mark.parametrize("module", ["model_gateway", "model_gateway_handover"])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (AnsibleConnectionFailure("No route to host."), "No route to host"),
        ({"failed": True, "msg": "HAProxy did not take x:\nno answer"}, "HAProxy did not take x: no answer"),
    ],
)
def test_a_gateway_that_can_not_be_told_is_a_warning_that_names_it(monkeypatch, module, answer, said):
    """A failure would end the play, since the task runs once for all hosts."""
    result = FakeGateway(monkeypatch, **{module: answer}).told("stopping", batch=["h1"])
    assert not result.get("failed")
    assert not result.get("unreachable")
    assert result["warnings"] == [f"Gateway g1 could not be told what goes and comes: {said}."]
    assert result["warned"] == result["warnings"][0]


def test_who_only_counts_is_told_of_a_gateway_that_is_not_reached(monkeypatch):
    result = FakeGateway(monkeypatch, model_gateway_handover=AnsibleConnectionFailure("Gone.")).told("counted")
    assert (result["unreachable"], result["msg"]) == (True, "Gone.")


def test_a_server_that_is_missed_is_a_warning_or_why_nothing_may_end(monkeypatch):
    given = {"batch": ["h1"], "gateway": {"home": "/unused", "manager": "auto", "servers": ROUTED}}
    monkeypatch.setattr(model_gateway_handover, "leaving", lambda *_given: Handover(comes=("a/h1::a",)))
    told = {"left": 0, "missed": ["a/h1::a"]}
    answer = FakeGateway(monkeypatch, model_gateway_handover={**told, "refuses": False}).told("meeting", **given)
    said = "gateway g1 gets no answer from a of h1 at h1:8080,"
    assert answer["warnings"] == [f"A {said} so it sends no requests there; open the way to that port."]
    assert "refused" not in answer
    answer = FakeGateway(monkeypatch, model_gateway_handover={**told, "refuses": True}).told("meeting", **given)
    assert answer["refused"].startswith(f"{said} which is to serve while others go, so nothing was ended; open the way")
    assert "warnings" not in answer
