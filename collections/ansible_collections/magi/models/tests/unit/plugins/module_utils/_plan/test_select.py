from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion, Rejected
from ansible_collections.magi.models.plugins.module_utils._plan.values import PlanError
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import MODELS, model, names, plan


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["*"], ["a-q2_k", "b-q3_k_m", "c-q4_k_m", "d-q4_1"]),
        ([{"tier": "Q4"}], ["c-q4_k_m", "d-q4_1"]),
        ([{"tier": "q4"}, "a-*"], ["c-q4_k_m", "d-q4_1", "a-q2_k"]),
        # selectors enable a model once
        ([{"tier": "Q4"}, "*-q4_*", "*"], ["c-q4_k_m", "d-q4_1", "a-q2_k", "b-q3_k_m"]),
        # exact names add up
        (["a-q2_k", "a-q2_k"], ["a-q2_k", "a-q2_k-2"]),
        (["a-q2_k", {"model": "a-q2_k", "instances": 2}], ["a-q2_k", "a-q2_k-2", "a-q2_k-3"]),
        # and an exact entry speaks for its model, wherever it stands
        (["*", {"model": "c-q4_k_m", "options": {"ctx_size": 1}}], ["a-q2_k", "b-q3_k_m", "d-q4_1", "c-q4_k_m"]),
        ([{"model": "*-q2_k", "instances": 2}], ["a-q2_k", "a-q2_k-2"]),
    ],
)
def test_what_a_profile_enables_in_its_order(entries, expected):
    assert names(plan(*entries)) == expected


@pytest.mark.parametrize(
    ("entry", "rejected", "said"),
    [
        ("nope", (), "Profile test, entry 2 (nope): no such model on gpu1; playbooks/discover.yml lists"),
        ("b-q3_k_s", (), "no such model on gpu1; did you mean b-q3_k_m? playbooks/discover.yml lists"),
        # of another model, whose name only begins alike
        ("llama-70b-q4_k_m", [Rejected("llama-7", "/L.gguf", "x", "no.")], "no such model on"),
        ("llama-7-q4_k_m", [Rejected("llama-7", "/L.gguf", "x", "L is short.")], "L is short."),
        ({"tier": "Q8"}, (), "Profile test, entry 2 (tier Q8): matches no model on gpu1."),
        ("z-*", (), "entry 2 (z-*)"),
        (
            "broken-*",
            [
                Rejected("broken-q4_k_m", "/models/B.gguf", "truncated", "B.gguf is short."),
                Rejected("other-q4_k_m", "/models/O.gguf", "truncated", "O.gguf is short."),
            ],
            "entry 2 (broken-*): matches no model on gpu1. Set aside: B.gguf is short.",
        ),
        (
            "broken-q4_k_m",
            [Rejected("broken-q4_k_m", "/models/B.gguf", "truncated", "/models/B.gguf is short.")],
            "set aside on gpu1: /models/B.gguf is short.",
        ),
    ],
)
def test_what_is_missing_is_named_and_the_rest_goes_on(entry, rejected, said):
    value = plan("a-q2_k", entry, rejected=rejected)
    assert names(value) == ["a-q2_k"]
    assert len(value.degraded) == 1
    assert said in value.degraded[0]


@pytest.mark.parametrize(
    "evil", [{"path": "/models/evil\x1b.gguf"}, {"mmproj": FileVersion("/models/\ufffe.gguf", 1, 1)}]
)
def test_a_file_name_that_no_service_file_can_hold_is_left_out(evil):
    value = plan("*", models=[*MODELS, model("evil-q4_0", **evil)])
    assert "evil-q4_0" not in names(value)
    assert "rename it" in value.degraded[0]


def test_two_instances_of_one_name_are_refused():
    with pytest.raises(PlanError, match="the instance name a-q2_k-2 is also"):
        plan("a-q2_k", "a-q2_k", models=[*MODELS, model("a-q2_k-2", "Q2")])


@pytest.mark.parametrize("tier", ["unknown", "UNKNOWN", "bf16"])
def test_a_tier_is_one_however_it_is_written(tier):
    models = [model("a", "unknown"), model("b", "BF16")]
    assert names(plan({"tier": tier}, models=models)) == ["a" if tier.lower() == "unknown" else "b"]
