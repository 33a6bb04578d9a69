from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._models.model import (
    Companion,
    FileVersion,
    Inventory,
    Rejected,
)
from ansible_collections.magi.models.plugins.module_utils._plan.values import PlanError
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    MODELS,
    host,
    model,
    names,
    plan,
    running,
    settings,
)

A, B, C, D = MODELS


def runs(item, **more):
    """Return an instance of a plan as the host shows it, with its whole environment."""
    return running(item, **{"environment": item.environment, **more})


FIRST = {item.name: item for item in plan("*").instances}
CUT = Rejected("c-q4_k_m", C.path, "truncated", f"{C.path} is incomplete: download it again.")


def actions(value):
    return {item.instance: (item.action.value, item.reason) for item in value.actions}


@pytest.mark.parametrize("entries", [["*"], [{"tier": "Q4"}, "a-q2_k"], ["c-q4_k_m", "a-q2_k"], ["c-*", "a-q2_k"]])
@pytest.mark.parametrize(
    ("rejected", "reason"),
    [([CUT], f"its file is set aside: {C.path} is incomplete: download it again"), ([], f"its file {C.path} is gone")],
)
def test_what_runs_while_its_file_is_not_there_is_kept_and_said(entries, rejected, reason):
    now = host(runs(FIRST["a-q2_k"]), runs(FIRST["c-q4_k_m"]))
    value = plan(*entries, models=[A, D], rejected=rejected, on=now)
    assert actions(value)["c-q4_k_m"] == ("keep", reason)
    assert f"Host gpu1: c-q4_k_m runs on as it is: {reason}." in value.degraded
    assert [(item.name, item.model_id, item.tier, item.port) for item in value.kept] == [
        ("c-q4_k_m", "c-q4_k_m", "Q4", FIRST["c-q4_k_m"].port)
    ]
    assert "c-q4_k_m" not in names(value)
    assert FIRST["c-q4_k_m"].port not in [item.port for item in value.instances]


def test_it_is_stopped_where_that_is_wanted_with_the_true_reason():
    now = host(runs(FIRST["a-q2_k"]), runs(FIRST["c-q4_k_m"]))
    value = plan("*", models=[A, B, D], rejected=[CUT], on=now, with_settings=settings(missing="stop"))
    assert actions(value)["c-q4_k_m"] == ("stop", f"its file is set aside: {CUT.reason.rstrip('.')}")
    assert value.degraded


def test_what_another_manager_runs_is_not_kept():
    now = host(runs(FIRST["a-q2_k"]), runs(FIRST["c-q4_k_m"], manager="systemd"))
    value = plan("*", models=[A, B, D], on=now)
    reason = f"systemd is not the service manager any more, and its file {C.path} is gone"
    assert actions(value)["c-q4_k_m"] == ("stop", reason)


@pytest.mark.parametrize("more", [{"pid": None, "state": State.FAILED}, {"pid": None, "state": State.STOPPED}])
def test_one_that_does_not_run_is_not_kept(more):
    value = plan("*", models=[A, B, D], on=host(runs(FIRST["c-q4_k_m"], **more)))
    assert actions(value)["c-q4_k_m"] == ("stop", f"its file {C.path} is gone")


def test_what_the_profile_does_not_enable_is_stopped_also_without_its_file():
    value = plan("a-q2_k", models=[A], on=host(runs(FIRST["c-q4_k_m"])))
    assert actions(value)["c-q4_k_m"] == ("stop", "not enabled by profile test")
    assert not value.degraded


def test_what_stood_in_for_another_is_stopped():
    """A deployment ends what it started for the time of a restart; if it was killed, the next one does."""
    left = runs(FIRST["a-q2_k"], name="a-q2_k-stand-in-1", environment={"MAGI_STANDS_IN": "a-q2_k"})
    value = plan("*", models=[A], on=host(runs(FIRST["a-q2_k"]), left))
    said = "stood in for a-q2_k in a deployment that did not end"
    assert actions(value) == {"a-q2_k": ("keep", "runs as desired"), left.name: ("stop", said)}


@pytest.mark.parametrize("scan_paths", [["/models/"], ["/srv", "/srv/../models"], [C.path], ["/"]])
def test_a_file_below_a_folder_that_is_scanned_is_missing(scan_paths):
    now = host(runs(FIRST["a-q2_k"]), runs(FIRST["c-q4_k_m"]))
    value = plan("*", models=[A], on=now, scan_paths=scan_paths)
    assert actions(value)["c-q4_k_m"] == ("keep", f"its file {C.path} is gone")


@pytest.mark.parametrize("scan_paths", [["/srv/models"], ["/models-2", "/mod"]])
def test_a_file_in_no_folder_that_is_scanned_is_not_missing(scan_paths):
    """Who names other folders means other models."""
    value = plan(
        "*", models=[model("e-q2_k", path="/srv/e.gguf")], on=host(runs(FIRST["c-q4_k_m"])), scan_paths=scan_paths
    )
    assert actions(value)["c-q4_k_m"] == ("stop", f"its file {C.path} lies in no folder that is scanned")
    assert not value.degraded


def test_a_file_that_changed_its_tier_is_named():
    value = plan({"tier": "Q4"}, models=[model("c-q4_k_m", "Q3"), D], on=host(runs(FIRST["c-q4_k_m"])))
    said = "not enabled by profile test (its file is Q3 now, and was Q4)"
    assert actions(value)["c-q4_k_m"] == ("stop", said)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [("*", "its model is called x-c-q4_k_m now"), ("a-q2_k", "not enabled by profile test")],
)
def test_a_model_with_another_name_than_before_is_named(entry, reason):
    value = plan(entry, models=[A, model("x-c-q4_k_m", path=C.path)], on=host(runs(FIRST["c-q4_k_m"])))
    assert actions(value)["c-q4_k_m"] == ("stop", reason)


SAME_ID, OTHER_ID = model("c-q4_k_m", "Q3"), model("c-q3_k_m", "Q3", path=C.path)


@pytest.mark.parametrize(
    ("entry", "now"),
    [
        ({"tier": "Q4"}, SAME_ID),
        ({"tier": "Q4", "task": "chat"}, OTHER_ID),
        ("c-q4_*", OTHER_ID),
        ("c-q4_k_m", OTHER_ID),
    ],
)
def test_a_selector_that_matches_nothing_says_which_file_changed_its_tier(entry, now):
    on = host(runs(FIRST["a-q2_k"]), runs(FIRST["c-q4_k_m"], pid=None, state=State.STOPPED))
    (said,) = plan("a-q2_k", entry, models=[A, now], on=on).degraded
    assert said.endswith(". c-q4_k_m is Q3 now, and was Q4.")
    with pytest.raises(PlanError, match=r"so there is nothing to serve\. .* c-q4_k_m is Q3 now, and was Q4\.$"):
        plan(entry, models=[A, now], on=on)


def test_one_more_instance_of_a_model_that_is_there_is_stopped():
    two = plan({"model": "a-q2_k", "instances": 2}).instances
    value = plan("a-q2_k", on=host(*map(runs, two)))
    assert actions(value)["a-q2_k-2"] == ("stop", "not enabled by profile test")


def test_where_nothing_is_there_any_more_all_that_runs_is_kept():
    value = plan("*", models=[model("z", "Q8")], rejected=[CUT], on=host(runs(FIRST["a-q2_k"])))
    assert actions(value)["a-q2_k"][0] == ActionKind.KEEP
    value = plan("a-q2_k", models=[model("z", "Q8")], on=host(runs(FIRST["a-q2_k"])))
    assert (value.instances, [item.name for item in value.kept]) == ((), ["a-q2_k"])


def test_strict_refuses_before_anything_changes():
    with pytest.raises(PlanError, match=r"strict is set and .*c-q4_k_m runs on as it is"):
        plan("*", models=[A], rejected=[CUT], on=host(runs(FIRST["c-q4_k_m"])), strict=True)


@pytest.mark.parametrize("entry", ["*", "c-*", {"tier": "Q4"}])
@pytest.mark.parametrize("code", ["truncated", "partial_download", "magic", "shard_missing"])
def test_what_a_selector_would_have_found_and_is_set_aside_is_said(entry, code):
    broken = Rejected("c-q4_0", "/models/C-Q4_0.gguf", code, "C-Q4_0.gguf is incomplete.")
    models = [model("c-q4_1"), A]
    value = plan(entry, entry, models=models, rejected=[broken])
    assert [item for item in value.degraded if "C-Q4_0" in item] == [
        f"Profile test, entry 1 ({entry if isinstance(entry, str) else 'tier Q4'}): set aside on gpu1: C-Q4_0.gguf is "
        "incomplete."
    ]


@pytest.mark.parametrize("code", ["imatrix", "vocab_only", "image_model", "text_encoder", "not_regular"])
def test_what_is_no_model_degrades_nothing(code):
    other = Rejected("c-q4_0", "/models/C-Q4_0.gguf", code, "C-Q4_0.gguf is no model.")
    assert plan("*", rejected=[other]).degraded == ()


def test_a_folder_that_is_lost_degrades():
    value = plan("a-q2_k", lost=["The folder to scan /mnt is empty."])
    assert value.degraded == ("Host gpu1: The folder to scan /mnt is empty.",)


def test_what_runs_on_has_its_share_of_the_cores():
    now = host(*map(runs, FIRST.values()))
    value = plan("*", models=[A, B, D], on=now)
    assert {item.threads for item in value.instances} == {2}
    assert value.notes == ()


PROJECTOR = FileVersion("/models/mmproj-F16.gguf", 10, 5)
SEES = model("v-q4_0", mmproj=PROJECTOR)
CUT_PROJECTOR = Rejected("mmproj-f16", PROJECTOR.path, "truncated", f"{PROJECTOR.path} is incomplete.")
THERE = Companion("mmproj-f16", PROJECTOR.path, "mmproj", "mmproj", "clip", 10, (), "It fits no model.")


def seeing(rejected=(), companions=(), now=None, **more):
    """Return the plan of a host on which a server runs with a projector that its model does not have any more."""
    (first,) = plan("v-q4_0", models=[SEES]).instances
    found = Inventory((replace(SEES, mmproj=None),), tuple(companions), tuple(rejected))
    return plan("v-q4_0", of=found, on=host(runs(first, **(now or {}))), **more)


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        ([CUT_PROJECTOR], f"its projector is set aside: {PROJECTOR.path} is incomplete"),
        ([], f"its projector {PROJECTOR.path} is gone"),
    ],
)
def test_what_runs_while_its_projector_is_not_there_goes_on_seeing(rejected, reason):
    value = seeing(rejected)
    assert actions(value) == {"v-q4_0": ("keep", reason)}
    assert value.degraded == (f"Host gpu1: v-q4_0 runs on as it is: {reason}.",)
    assert [item.name for item in value.kept] == ["v-q4_0"]


@pytest.mark.parametrize(
    "more",
    [
        {"with_settings": settings(missing="stop")},
        {"options": {"mmproj_auto": False}},  # nobody wants it any more
        {"companions": [THERE]},
        {"scan_paths": ["/srv"]},
        {"now": {"manager": "systemd"}},
    ],
)
def test_what_is_to_run_without_its_projector_restarts(more):
    assert seeing(**more).names("restart") == ("v-q4_0",)


def test_what_never_had_a_projector_lacks_none():
    """Also where all that a host has is scanned, and so nothing lies elsewhere."""
    (first,) = plan("a-q2_k", models=[A], scan_paths=["/"]).instances
    value = plan("a-q2_k", models=[A], scan_paths=["/"], on=host(runs(first)))
    assert (value.names("keep"), value.degraded) == (("a-q2_k",), ())


def test_what_does_not_run_starts_without_a_projector_that_is_gone():
    assert seeing(now={"pid": None, "state": State.STOPPED}).names("start") == ("v-q4_0",)
