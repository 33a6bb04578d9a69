from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._fleet.example import example_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateways import gateway_entries
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.report import build_report
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    host,
    model,
    plan,
    running,
    settings,
)

SSH = Way("gpu1.lan", "ssh")


def shown(way=SSH, bound="127.0.0.1", tasks=("chat",), key_file=None, answers=True, gateways=()):
    """Return the lines for a host that serves a model of each task, and the words of the command."""
    models = [model(f"{task}-q4_k_m", task=task) for task in tasks]
    options = {"api_key_file": key_file} if key_file else {}
    made = plan(*(item.id for item in models), models=models, with_settings=settings(host=bound), options=options)
    now = [running(item, health=200 if answers else 0, model_ids=(item.name,)) for item in made.instances]
    results = [HostResult("gpu1", replace(made, host="gpu1"), (), host(*now), way=way)]
    lines = example_lines(build_report(results, gateways), results)
    return lines, shlex.split(lines[1]) if lines else []


@pytest.mark.parametrize(
    ("given", "first", "url"),
    [
        ({}, "Try it on gpu1 itself:", "http://127.0.0.1:8080"),
        ({"bound": "0.0.0.0"}, "Try it:", "http://gpu1.lan:8080"),
        ({"way": Way("localhost", "local")}, "Try it:", "http://127.0.0.1:8080"),
    ],
)
def test_the_first_line_says_where_the_command_works(given, first, url):
    lines, words = shown(**given)
    assert lines[0] == first
    assert words[2] == f"{url}/v1/chat/completions"


@pytest.mark.parametrize(
    ("tasks", "path", "body"),
    [
        (["embedding", "chat"], "chat/completions", {"messages", "max_tokens"}),
        (["embedding"], "embeddings", {"input"}),
        (["rerank"], "rerank", {"query", "documents"}),
    ],
)
def test_a_model_is_asked_what_it_is_for(tasks, path, body):
    _lines, words = shown(tasks=tasks)
    assert words[2].endswith(f"/v1/{path}")
    assert set(json.loads(words[-1])) == body


@pytest.mark.parametrize(
    ("given", "header"),
    [
        ({}, 'Bearer $(head -n 1 /etc/keys)"'),
        ({"way": Way("localhost", "local")}, 'Bearer $(head -n 1 /etc/keys)"'),
        ({"bound": "0.0.0.0"}, 'Bearer $KEY"'),
    ],
)
def test_a_key_is_read_where_it_lies_and_never_shown(given, header):
    lines, _words = shown(key_file="/etc/keys", **given)
    assert header in lines[1]


GATEWAY = {"host": "gw1", "url": "http://gw1:8000/v1", "url_from": "controller", "names": ["chat-q4_k_m"]}
GATEWAY |= {"asks_key": False, "is_ready": True, "cause": None, "detail": ""}


@pytest.mark.parametrize(
    ("gateway", "first", "base"),
    [
        (GATEWAY, "Try it:", "http://gw1:8000/v1"),
        ({**GATEWAY, "url_from": "host"}, "Try it on gw1 itself:", "http://gw1:8000/v1"),
        ({**GATEWAY, "is_ready": False}, "Try it on gpu1 itself:", "http://127.0.0.1:8080/v1"),
        ({**GATEWAY, "names": []}, "Try it on gpu1 itself:", "http://127.0.0.1:8080/v1"),
    ],
)
def test_through_a_gateway_there_is_one_command_and_what_clients_need(gateway, first, base):
    lines, words = shown(gateways=[gateway])
    assert (lines[0], words[2]) == (first, f"{base}/chat/completions")
    through = base == gateway["url"]
    assert json.loads(words[-1]).get("model") == ("chat-q4_k_m" if through else None)
    assert lines[2:] == (
        [f"Clients of OpenAI's API need two lines: base_url={base} and model=chat-q4_k_m"] if through else []
    )


@pytest.mark.parametrize(("asks_key", "header"), [(True, 'Bearer $KEY"'), (False, 'Bearer $(head -n 1 /etc/keys)"')])
def test_a_gateway_asks_for_its_own_key(asks_key, header):
    made = plan(
        "a", models=[model("a")], with_settings=settings(host="127.0.0.1"), options={"api_key_file": "/etc/keys"}
    )
    now = [running(item, health=200, model_ids=(item.name,)) for item in made.instances]
    results = [HostResult("gpu1", replace(made, host="gpu1"), (), host(*now), way=Way("localhost", "local"))]
    gateway = {
        "url": "https://gw1:8000/v1",
        "url_from": "controller",
        "asks_key": asks_key,
        "routes": [{"names": ["a"]}],
    }
    report = build_report(results, gateway_entries({"gw1": {"configured": {"missing": "", "gateway": gateway}}}))
    line = example_lines(report, results)[1]
    assert header in line
    assert "https://gw1:8000/v1/chat/completions" in line


def test_without_a_ready_server_there_is_no_example():
    assert shown(answers=False) == ([], [])


def test_of_a_pool_a_model_is_asked_for():
    models = [model("e", task="embedding"), model("c"), model("z")]
    made = plan("z", models=models, pools=[{"name": "small", "models": ["e", "c"]}])
    pool = running(made.instances[-1], health=200, model_ids=("e", "c"), models={"e": "loaded", "c": "unloaded"})
    results = [HostResult("gpu1", replace(made, host="gpu1"), (), host(pool), way=SSH)]
    lines = example_lines(build_report(results), results)
    words = shlex.split(lines[1])
    assert words[2] == "http://127.0.0.1:8081/v1/chat/completions"
    assert json.loads(words[-1])["model"] == "c"
