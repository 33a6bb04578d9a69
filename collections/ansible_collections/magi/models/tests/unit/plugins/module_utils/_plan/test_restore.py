from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER, Generation
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion
from ansible_collections.magi.models.plugins.module_utils._plan.restore import restored_plan
from ansible_collections.magi.models.plugins.module_utils._plan.values import PlanError, Remembered
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    foreign,
    host,
    inventory,
    model,
    plan,
    running,
    settings,
)

FIRST, SECOND, THIRD = plan("a-q2_k", name="one"), plan("b-q3_k_m", name="two"), plan("*", name="three")


def generation(number, profile, began_at):
    return Generation(number, f"digest {number}", "me@here", f"2026-01-0{number}T00:00:00Z", profile, began_at)


def remembered(number, made, began_at, **more):
    return Remembered(generation(number, made.profile, began_at), made.remembered(), **{"runnable": True, **more})


NOW = generation(4, "three", 30.5)
HISTORY = (remembered(1, FIRST, 10.5), remembered(2, SECOND, 20.5), remembered(4, THIRD, 30.5))


def back(*now, history=HISTORY, undone=30.5, at=NOW, models=(), **more):
    return restored_plan(
        host_name="gpu1",
        history=history,
        undone=undone,
        inventory=inventory(*models),
        host=host(*now, generation=at, **more),
        settings=settings(),
    )


def test_the_deployment_before_comes_back():
    value = back(*map(running, THIRD.instances))
    assert (value.instances, value.profile, value.restores) == (SECOND.instances, "two", 20.5)
    there = {item.instance: (item.action, item.reason) for item in value.actions}
    action, reason = there.pop("b-q3_k_m")
    assert (action, "port" in reason) == ("restart", True), reason
    assert there == dict.fromkeys(("a-q2_k", "c-q4_k_m", "d-q4_1"), ("stop", "not in generation 2 (profile two)"))
    assert value.generation == NOW
    assert value.notes == ("brings back generation 2 (profile two).",)


def test_what_it_had_starts_again():
    value = back()
    assert [(item.instance, item.action, item.reason) for item in value.actions] == [
        ("b-q3_k_m", "start", "in generation 2 (profile two)")
    ]


@pytest.mark.parametrize(
    ("at", "undone", "profile", "restores"),
    [
        (NOW, 30.5, "two", 20.5),
        (generation(2, "two", 20.5), 20.5, "one", 10.5),
        # a rollback before this one: it counts on, and is what it brought back
        (generation(5, "two", 20.5), 20.5, "one", 10.5),
        # it was killed before it was remembered
        (generation(3, "three", 25.0), 25.0, "two", 20.5),
    ],
)
def test_each_host_goes_back_behind_the_last_deployment(at, undone, profile, restores):
    value = back(at=at, undone=undone)
    assert (value.profile, value.restores) == (profile, restores)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"at": Generation(), "undone": 0, "history": ()}, "nothing was deployed here"),
        (
            {"at": generation(1, "one", 10.5), "undone": 10.5},
            r"there is no generation before this one \(profile one, 2026-01-01T00:00:00Z\)",
        ),
        ({"history": HISTORY[2:]}, "there is no generation before this one"),
        (
            {"history": (replace(HISTORY[1], runnable=False), HISTORY[2])},
            r"generation 2 \(profile two\) can't be brought back: its llama-server /.* is gone",
        ),
        ({"models": [model("a-q2_k", "Q2")]}, "/models/b-q3_k_m.gguf, the model of b-q3_k_m, is gone or set aside"),
        (
            {"listeners": (foreign(SECOND.instances[0].port),)},
            f"port {SECOND.instances[0].port} of b-q3_k_m is taken by process 4242 \\(nc -l\\)",
        ),
        ({"manager": "systemd"}, "ran by supervisor, and model_server_manager is systemd now; set it back"),
    ],
)
def test_what_can_not_come_back_is_refused_with_its_reason(given, said):
    with pytest.raises(PlanError, match=f"^Host gpu1: .*{said}"):
        back(**given)


def test_what_the_deployment_did_not_change_stays_as_it_is():
    """Also where nothing is remembered, its model is gone, and somebody has stopped one."""
    first, stopped = THIRD.instances[:2]
    now = (running(first), running(stopped, pid=None, state="stopped"))
    value = back(*now, at=generation(2, "two", 20.5), history=(), models=[model("other")])
    assert {item.instance: (item.action, item.reason) for item in value.actions} == dict.fromkeys(
        (first.name, stopped.name), ("keep", "not part of what is taken back")
    )
    assert (value.instances, [item.name for item in value.kept]) == ((), [first.name])
    assert (value.restores, value.profile) == (20.5, "two")


def test_what_runs_needs_no_file_and_what_ran_on_without_goes_on():
    kept = replace(SECOND, kept=(FIRST.instances[0],))
    history = (remembered(2, kept, 20.5), HISTORY[2])
    there = (running(SECOND.instances[0]), running(FIRST.instances[0]))
    value = back(*there, history=history, models=[model("other")])
    assert {item.instance: item.action for item in value.actions} == {"b-q3_k_m": "keep", "a-q2_k": "keep"}
    assert [item.name for item in value.kept] == ["a-q2_k"]
    with pytest.raises(PlanError, match=r"/models/b-q3_k_m\.gguf, the model of b-q3_k_m, is gone"):
        back(there[1], history=history, models=[model("other")])


def test_another_file_of_the_same_name_is_told():
    assert back().notes == ("brings back generation 2 (profile two).",)
    path = "/models/b-q3_k_m.gguf"
    other = model("b-q3_k_m", "Q3", files=(FileVersion(path, 1001, 6),))
    assert back(models=[other]).notes[1] == "b-q3_k_m: its model file or llama-server is another than then."


def test_a_remembered_plan_survives_json():
    for made in HISTORY:
        assert (
            Remembered.from_dict({"generation": vars(made.generation), "plan": made.plan.to_dict(), "runnable": True})
            == made
        )


def test_workers_come_back_with_the_rest():
    worker = replace(FIRST.instances[0], name="w", model_path="", environment={WORKER: "gpu2/big"}, port=8089)
    with_worker = replace(SECOND, workers=(worker,))
    value = back(*map(running, THIRD.instances), history=(HISTORY[0], remembered(2, with_worker, 20.5), HISTORY[2]))
    assert (value.workers, value.names(ActionKind.START)) == ((worker,), ("w",))
    kept = back(running(worker), at=generation(2, "two", 20.5))
    assert (kept.kept, kept.names(ActionKind.KEEP)) == ((), ("w",))
