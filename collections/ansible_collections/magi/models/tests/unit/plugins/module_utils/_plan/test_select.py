from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.model import Companion, FileVersion, Rejected
from ansible_collections.magi.models.plugins.module_utils._plan.select import select
from ansible_collections.magi.models.plugins.module_utils._plan.values import PlanError
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import MODELS, model, names, plan, profile


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
        # an exact entry decides for its model, wherever it stands
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
        # of another model, whose name only begins the same
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


EMBEDDER = model("e-q4_k_m", task="embedding")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"tier": "Q4"}, ["c-q4_k_m", "d-q4_1", "e-q4_k_m"]),
        ({"tier": "Q4", "task": "chat"}, ["c-q4_k_m", "d-q4_1"]),
        ({"tier": "Q4", "task": "Embedding"}, ["e-q4_k_m"]),
        ({"task": "embedding"}, ["e-q4_k_m"]),
        ({"model": "*-q4_k_m", "task": "chat"}, ["c-q4_k_m"]),
        ({"model": "e-q4_k_m", "task": "embedding"}, ["e-q4_k_m"]),
    ],
)
def test_a_task_goes_with_every_selector(entry, expected):
    assert names(plan(entry, models=[*MODELS, EMBEDDER])) == expected


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"model": "e-q4_k_m", "task": "chat"}, "(e-q4_k_m, task chat): it is for embedding on gpu1"),
        ({"task": "rerank"}, "(task rerank): matches no model on gpu1."),
        ({"tier": "Q2", "task": "embedding"}, "(tier Q2, task embedding): matches no model on gpu1."),
    ],
)
def test_what_no_model_of_a_task_is_said_of(entry, sentence):
    assert sentence in plan("a-q2_k", entry, models=[*MODELS, EMBEDDER]).degraded[0]


@pytest.mark.parametrize(
    ("entry", "aside"),
    [
        ("tess-q8_0", Rejected("tess-q8_0", "/m/Tess-Q8_0.gguf.part1of2", "piece", "Join the pieces.")),
        ("tess-q8_0", Rejected("tess", "/m/tess.safetensors", "unconverted", "It has to be converted.")),
        ("tess-34b-q8_0", Rejected("tess-34b", "/m/tess-34b.bin", "unconverted", "It has to be converted.")),
        ("tess-q8_0", Rejected("tess-q8_0", "/m/Tess-Q8_0.gguf?download=true", "misnamed", "Rename it.")),
        ("tess-*", Rejected("tess-q8_0", "/m/Tess-Q8_0.part2of2.gguf", "piece", "Join the pieces.")),
        ("mtp-q8_0", Companion("mtp-q8_0", "/m/mtp-q8_0.gguf", "drafter", "M", "x", 1, (), "It is a drafter.")),
        ("mtp-*", Companion("mtp-q8_0", "/m/mtp-q8_0.gguf", "drafter", "M", "x", 1, (), "It is a drafter.")),
    ],
)
def test_a_missing_model_names_what_was_set_aside_under_its_name(entry, aside):
    _wanted, missing = select(profile(entry), MODELS, [aside], "gpu1")
    assert aside.reason in missing[0]


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/m/weights.gguf", "truncated", True),
        ("/m/weights-Q4_0.gguf", "truncated", False),  # of another tier
        ("/m/weights.gguf", "imatrix", False),  # no model
    ],
)
def test_a_tier_without_models_names_what_is_broken_and_may_be_of_it(path, code, said):
    _wanted, missing = select(profile({"tier": "Q8"}), MODELS, [Rejected("weights", path, code, "It is cut.")], "gpu1")
    assert missing[0].endswith("matches no model on gpu1. Set aside: It is cut.") is said


def test_the_nearest_name_is_the_one_that_is_meant():
    aside = [
        Rejected("tess", "/m/a/tess.bin", "unconverted", "It has to be converted."),
        Rejected("tess-34b", "/m/tess-34b.gguf.part", "partial_download", "It is cut short."),
    ]
    _wanted, missing = select(profile("tess-34b-q8_0"), MODELS, aside, "gpu1")
    assert missing[0].endswith("It is cut short.")


def test_a_glob_misses_no_file_in_another_format_but_a_misnamed_one():
    aside = [
        Rejected("a-x", "/m/a-x.safetensors", "unconverted", "It has to be converted."),
        Rejected("a-y", "/m/a-y.gguf?download=true", "misnamed", "Rename it."),
    ]
    _wanted, missing = select(profile("a-*"), MODELS, aside, "gpu1")
    assert [sentence.partition("gpu1: ")[2] for sentence in missing] == ["Rename it."]
