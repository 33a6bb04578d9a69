from __future__ import annotations

import json

import pytest
import yaml
from ansible_collections.magi.models.plugins.module_utils._config.profile import (
    Entry,
    Profile,
    examine_profile,
)

EXAMPLE = """
name: production
description: Q3 and Q4 only
enabled_models:
  - tier: q3
  - "*-q4_k_m"
  - deepseek-r1-qwen3-8b-q2_k
  - model: deepseek-r1-qwen3-8b-q2_k
    instances: 2
    port: 8083
    options: {ctx_size: 8192}
options: {parallel: 2}
"""


def test_every_form_of_an_entry():
    profile, problems = examine_profile("production", yaml.safe_load(EXAMPLE))
    assert problems == ()
    assert profile.entries == (
        Entry("tier", "Q3"),
        Entry("glob", "*-q4_k_m"),
        Entry("model", "deepseek-r1-qwen3-8b-q2_k"),
        Entry("model", "deepseek-r1-qwen3-8b-q2_k", 2, 8083, {"ctx_size": 8192}),
    )
    assert profile.options == {"parallel": 2}
    assert Profile.from_dict(profile.to_dict()) == profile


def test_a_model_may_be_named_again_for_other_hosts():
    entries = [{"model": "a", "replicas": 2, "hosts": "gpu*"}, {"model": "a", "hosts": " cpu* "}]
    profile, problems = examine_profile("p", {"enabled_models": entries})
    assert problems == ()
    assert [(item.replicas, item.hosts, item.is_placed) for item in profile.entries] == [
        (2, "gpu*", True),
        (None, "cpu*", True),
    ]


def test_a_model_may_be_computed_by_workers_of_other_hosts():
    profile, problems = examine_profile("p", {"enabled_models": [{"model": "big", "rpc": ["gpu2", "gpu3"]}]})
    assert problems == ()
    assert profile.entries == (Entry("model", "big", rpc=("gpu2", "gpu3")),)
    assert profile.entries[0].is_placed
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"model": "a", "rpc": []}, "entry 1: rpc must be a list of hosts, each once, such as [gpu2, gpu3]."),
        ({"model": "a", "rpc": ["b", "b"]}, "each once"),
        ({"model": "a", "rpc": {"b": 1}}, "rpc must be a list"),
        ({"model": "a*", "rpc": ["b"]}, "rpc needs an exact model id"),
        ({"model": "a", "rpc": ["b"], "instances": 2}, "neither instances nor replicas"),
        ({"model": "a", "rpc": ["b"], "replicas": 1}, "neither instances nor replicas"),
        ({"model": "a", "rpc": ["b"], "options": {"rpc": "10.0.0.1:50052"}}, "give rpc or the option rpc, not both"),
        ({"model": "a", "rpc": ["b"], "devices": 2}, "leave out devices"),
        ({"model": "a", "rpc": ["b"], "options": {"device": "CUDA0"}}, "leave out device:"),
        ({"model": "a", "rcp": ["b"]}, 'unknown key "rcp": did you mean "rpc"?'),
    ],
)
def test_an_entry_with_workers_is_one_server(entry, said):
    profile, problems = examine_profile("p", {"enabled_models": [entry]})
    assert profile is None
    assert [said in item.message for item in problems] == [True]
    assert problems[0].where[:2] == ("enabled_models", 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "must be a mapping, not NoneType"),
        ([], "must be a mapping, not list"),
        ({}, "enabled_models"),
        ({"enabled_models": []}, "enabled_models is empty"),
        ({"enabled_models": ["*"], "enabled": 1}, "enabled"),
        ({"enabled_models": ["*"], "options": "x"}, "options"),
        ({"enabled_models": ["*"], "strict": "perhaps"}, "strict"),
        ({"enabled_models": ["*"], "options": {True: 1}}, "options has a name that is not a string"),
        ({"name": "other", "enabled_models": ["*"]}, "name: other"),
        ({"enabled_models": ["a", 7]}, "entry 2 must be a mapping, not int"),
        ({"enabled_models": [{"tier": "Q3", "model": "a"}]}, "entry 1"),
        ({"enabled_models": [{"instances": 2}]}, "entry 1"),
        ({"enabled_models": [{"modle": "a"}]}, "modle"),
        ({"enabled_models": [{"model": "a", "instances": 0}]}, "instances must be 1 or more"),
        ({"enabled_models": [{"model": "a", "replicas": 0}]}, "entry 1: replicas must be 1 or more, not 0"),
        ({"enabled_models": [{"model": "a", "replicsa": 2}]}, 'unknown key "replicsa": did you mean "replicas"?'),
        ({"enabled_models": [{"model": "a", "replicas": 2, "instances": 2}]}, "on all hosts together, not both"),
        (
            {"enabled_models": [{"model": "a", "hosts": " "}]},
            "hosts must be a pattern, such as gpu* or gpu1,gpu2, not ' '.",
        ),
        ({"enabled_models": [{"model": "a", "hosts": ["gpu1", "gpu2"]}]}, "hosts must be a pattern"),
        ({"enabled_models": [{"model": "a", "replicas": 2}, "a"]}, "entry 2: a is that of entry 1, too"),
        ({"enabled_models": ["a", {"model": "a", "rpc": ["b"]}]}, "entry 1, too, and one of the two has rpc; make one"),
        ({"enabled_models": [{"model": "a", "port": 0}]}, "port must be from 1 to 65535"),
        ({"enabled_models": [{"tier": "Q3", "port": 8080}]}, "port needs an exact model id"),
        ({"enabled_models": [{"model": "*", "port": 8080}]}, "port needs an exact model id"),
        ({"enabled_models": [""]}, "the selector is empty"),
        ({"pools": ["a"]}, "pool 1 must be a mapping with name and models, not str"),
        ({"pools": [{"models": ["a"]}]}, "pool 1: name is missing"),
        ({"pools": [{"name": "p"}]}, "pool 1: models is missing"),
        ({"pools": [{"name": "P/..", "models": ["a"]}]}, "pool 1: name must have only lower-case letters"),
        ({"pools": [{"name": "p", "models": ["a"], "loaded": 0}]}, "pool 1: loaded must be 1 or more, not 0"),
        ({"pools": [{"name": "p", "models": [{"model": "a", "port": 1}]}]}, 'pool 1, model 1: unknown key "port"'),
        ({"pools": [{"name": "p", "models": ["a", "a"]}]}, "pool 1, model 2: a is also that of pool 1, model 1"),
        ({"enabled_models": ["a"], "pools": [{"name": "p", "models": ["a"]}]}, "model 1: a is also that of entry 1"),
        ({"pools": [{"name": "p", "models": ["a"]}, {"name": "p", "models": ["b"]}]}, "p is also the name of pool 1"),
        ({"pools": []}, "enabled_models is missing"),
        ({"enabled_models": ["*"], "resources": {"memory": 1}}, "resources must be a mapping of memory_max, cpu_quota"),
        (
            {"enabled_models": [{"model": "a", "resources": {"nice": 20}}]},
            "entry 1: resources must be a mapping whose nice",
        ),
        ({"enabled_models": ["*"], "resources": {"memory_max": "8 GB"}}, "memory_max is bytes"),
        ({"enabled_models": ["*"], "resources": {"memory_max": "8G\nExecStart=/x"}}, "memory_max is bytes"),
        ({"enabled_models": ["*"], "resources": {"cpu_quota": 2}}, "cpu_quota is a percentage"),
    ],
)
def test_what_is_wrong_with_a_profile_is_one_sentence(data, said):
    profile, problems = examine_profile("p", data)
    assert profile is None
    assert any(said in problem.message for problem in problems)
    assert not any("\n" in problem.message for problem in problems)


@pytest.mark.parametrize("key", ["strict", "name", "options", "environment"])
def test_a_value_of_any_size_is_a_short_sentence(key):
    long = [["x" * 10_000] * 10] * 10
    value = {"X": long} if key == "environment" else long
    data = {"enabled_models": [{"model": "a", "devices": long, "instances": long, "idle": "x" * 10_000}], key: value}
    profile, problems = examine_profile("p", data)
    assert profile is None
    assert len(problems) == 4
    assert max(len(problem.message) for problem in problems) < 1000


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        ([], {(): "a profile must be a mapping, not list."}),
        ({"enabled_models": None}, {("enabled_models",): "enabled_models is empty"}),
        ({"description": "x"}, {(): "enabled_models is missing"}),
        ({"enabled_model": ["*"]}, {("enabled_model",): 'unknown key "enabled_model": did you mean "enabled_models"?'}),
        (
            {"enabled_models": ["*"], "wheels": 1},
            {
                (
                    "wheels",
                ): "the keys are name, description, enabled_models, pools, options, environment, resources, strict, "
                "rollout."
            },
        ),
        (
            {"pools": [{"nmae": "p", "models": ["a", {"model": "b", "aliasses": ["x"]}], "loadde": 2, "port": 0}]},
            {
                ("pools", 0, "nmae"): 'pool 1: unknown key "nmae": did you mean "name"?',
                ("pools", 0, "loadde"): 'pool 1: unknown key "loadde": did you mean "loaded"?',
                ("pools", 0, "port"): "pool 1: port must be from 1 to 65535, not 0.",
                ("pools", 0, "models", 1, "aliasses"): 'model 2: unknown key "aliasses": did you mean "aliases"?',
            },
        ),
        (
            {
                "enabled_models": [{"model": "a", "aliases": ["x"]}],
                "pools": [{"name": "p", "models": [{"model": "b", "aliases": ["x"]}]}],
            },
            {("pools", 0, "models", 0, "aliases"): "pool 1, model 1: alias x is also a name of a; give it to one."},
        ),
        (
            {
                "pools": [
                    {
                        "name": "p",
                        "options": {"device": "CUDA0", "api_key_file": "/k"},
                        "models": [
                            {"model": "a", "options": {"device": "CUDA1", "tensor-split": "1,2", "api-key-file": "/k"}},
                            {"model": "b", "options": {"no_webui": True, "ctx_size": 1}},
                        ],
                    }
                ],
            },
            {
                (
                    *("pools", 0, "models", 0, "options", "device"),
                ): "pool 1, model 1: option device can't be that of one model; its GPUs are those of all its models: set "
                "devices of the pool.",
                (
                    *("pools", 0, "models", 0, "options", "tensor-split"),
                ): "option tensor-split can't be that of one model; its GPUs are",
                (
                    *("pools", 0, "models", 0, "options", "api-key-file"),
                ): "clients ask the pool, and not its models: set it in the options of the pool.",
                (
                    "pools",
                    0,
                    "models",
                    1,
                    "options",
                    "no_webui",
                ): "pool 1, model 2: option no_webui can't be that of one",
            },
        ),
        ({"enabled_models": ["*"], "rollout": 1}, {("rollout",): "rollout must be a mapping"}),
        ({"enabled_models": ["*"], "rollout": {"bake": 5}}, {("rollout",): "rollout: canary is missing"}),
        (
            {"enabled_models": ["*"], "rollout": {"canary": 0, "bake": -1, "auto_rever": True}},
            {
                ("rollout", "auto_rever"): 'rollout: unknown key "auto_rever": did you mean "auto_revert"?',
                ("rollout", "canary"): "rollout: canary must be from 1 to 86400, not 0.",
                ("rollout", "bake"): "rollout: bake must be from 0 to 86400, not -1.",
            },
        ),
        (
            {
                "name": "q",
                "strict": "perhaps",
                "enabled_models": ["a", {"model": "b", "instances": 0, "port": 70000, "prot": 1}, 7, {"tier": ["x"]}],
            },
            {
                ("strict",): "strict must be true or false, not 'perhaps'.",
                ("name",): "its file says name: q",
                ("enabled_models", 1, "prot"): 'entry 2: unknown key "prot": did you mean "port"?',
                ("enabled_models", 1, "instances"): "entry 2: instances must be 1 or more",
                ("enabled_models", 1, "port"): "entry 2: port must be from 1 to 65535",
                ("enabled_models", 2): "entry 3 must be a mapping, not int.",
            },
        ),
    ],
)
def test_every_problem_is_found_with_its_place(data, problems):
    profile, found = examine_profile("p", data)
    assert profile is None
    said = {problem.where: problem.message for problem in found}
    assert said.keys() >= problems.keys()
    for where, message in problems.items():
        assert message in said[where]


def examined(entries, **more):
    profile, problems = examine_profile("p", {"enabled_models": entries, **more})
    return profile, {problem.where: problem.message for problem in problems}


def test_variables_and_aliases_are_read_and_survive_the_way_through_json():
    entry = {
        "model": "a",
        "environment": {"A": 1, "B": None},
        "aliases": ["chat", "gpt-4o-mini", "org/model:8b", "chat"],
    }
    profile, problems = examined([entry], environment={"HSA_OVERRIDE_GFX_VERSION": "11.0.0"})
    assert problems == {}
    assert profile.environment == {"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}
    assert profile.entries[0].environment == {"A": "1", "B": None}
    assert profile.entries[0].aliases == ("chat", "gpt-4o-mini", "org/model:8b")
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LLAMA_ARG_CTX_SIZE", 1, "is llama-server's own; set the option that it stands for"),
        ("MAGI_HOME", "x", "is set by the deployment"),
        ("HOME", "/x", "is set by the deployment"),
        ("HF_TOKEN", "x", "looks like a secret"),
        ("AWS_SECRET_ACCESS_KEY", "x", "looks like a secret, which others on the host could read; put it into a file"),
        ("a-b", "x", "is not a variable name"),
        ("1A", "x", "is not a variable name"),
        ("A", True, "must be a string or a number, not True; quote it"),
        ("A", [1], "must be a string or a number"),
    ],
)
def test_a_variable_that_is_not_allowed_is_named_with_its_place(name, value, said):
    profile, problems = examined([{"model": "a", "environment": {name: value}}], environment={name: value})
    assert profile is None
    assert said in problems["environment", name]
    assert problems["enabled_models", 0, "environment", name].startswith(f"entry 1: environment: {name} ")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "HF_TOKEN_PATH", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "_x"])
def test_a_variable_that_can_be_given(name):
    assert examined(["a"], environment={name: "x"})[1] == {}


@pytest.mark.parametrize(
    ("devices", "options", "count"),
    [
        (None, {}, None),
        (2, {}, 2),
        (["CUDA0"], {"device": "CUDA0"}, None),
        (["CUDA1", "CUDA0"], {"device": "CUDA1,CUDA0"}, None),
    ],
)
def test_an_entry_names_its_gpus_or_says_how_many(devices, options, count):
    profile, problems = examined([{"model": "a", "devices": devices}])
    assert problems == {}
    assert (profile.entries[0].options, profile.entries[0].devices) == (options, count)
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"devices": 0}, "entry 1: devices must be a list of GPUs, such as [CUDA0], or how many, not 0."),
        ({"devices": "CUDA0"}, "or how many, not 'CUDA0'."),
        ({"devices": []}, "or how many, not []."),
        ({"devices": [0]}, "or how many, not [0]."),
        ({"devices": ["CUDA0,x"]}, "or how many"),
        ({"devices": True}, "or how many, not True."),
        ({"devices": 2, "options": {"device": "CUDA0"}}, "entry 1: give devices or the option device, not both."),
    ],
)
def test_gpus_that_can_t_be_meant_are_refused_at_their_place(entry, said):
    assert said in examined([{"model": "a", **entry}])[1]["enabled_models", 0, "devices"]


@pytest.mark.parametrize("alias", ["a,b", "a b", "", "-a", "é", "a\n"])
def test_an_alias_that_llama_server_would_not_take_as_one_is_refused(alias):
    assert "entry 1: alias" in examined([{"model": "a", "aliases": [alias]}])[1]["enabled_models", 0, "aliases"]


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ([{"model": "a", "aliases": ["x"]}, {"model": "b", "aliases": ["x"]}], {1: "alias x is also a name of a"}),
        ([{"model": "a", "aliases": ["b"]}, "b"], {0: "alias b is also a name of b"}),
        ([{"model": "a", "aliases": ["x"]}, {"model": "a", "aliases": ["x"]}], {}),
    ],
)
def test_an_alias_is_the_name_of_one_model(entries, wrong):
    problems = examined(entries)[1]
    assert problems.keys() == {("enabled_models", index, "aliases") for index in wrong}
    for index, said in wrong.items():
        assert said in problems["enabled_models", index, "aliases"]


@pytest.mark.parametrize(
    ("idle", "seconds"),
    [("10m", 600), (90, 90), ("1s", 1), ("2h", 7200), ("24d", 24 * 86400), (None, None)],
)
def test_a_time_after_which_a_server_sleeps(idle, seconds):
    profile, problems = examined([{"model": "a", "idle": idle}])
    assert problems == {}
    assert profile.entries[0].idle == seconds
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize("idle", [0, "0s", "-1", "1.5h", "10 m", "10min", "25d", "99999999999d", True, "", [1]])
def test_a_time_that_is_none_is_refused_with_its_place(idle):
    said = examined([{"model": "a", "idle": idle}])[1]["enabled_models", 0, "idle"]
    assert said.startswith("entry 1: idle must be a ")


def test_idle_has_its_nearest_key():
    assert 'did you mean "idle"?' in examined([{"model": "a", "idel": "10m"}])[1]["enabled_models", 0, "idel"]


def test_a_pool_has_its_settings_below_those_of_its_models():
    data = {
        "name": "small",
        "models": ["a", {"tier": "q4", "options": {"x": 2}}],
        "loaded": 2,
        "options": {"x": 1, "y": 1},
        "idle": "1m",
        "environment": {"A": "b"},
    }
    profile, problems = examine_profile("p", {"pools": [data]})
    assert problems == ()
    (pool,) = profile.entries
    assert (str(pool), profile.where(0), pool.loaded, pool.is_placed) == (
        "pool small",
        "Profile p, pool small",
        2,
        False,
    )
    assert [(x.kind, x.pattern, dict(x.options), x.idle) for x in pool.members] == [
        ("model", "a", {"x": 1, "y": 1}, 60),
        ("tier", "Q4", {"x": 2, "y": 1}, 60),
    ]
    assert [pool.matches(*given) for given in (("a", "Q2", None), ("b", "Q4", None), ("b", "Q2", None))] == [
        True,
        True,
        False,
    ]
    assert Profile.from_dict(profile.to_dict()) == profile
