from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins import module_utils
from ansible_collections.magi.models.plugins.module_utils._plan.leave import kept_instance
from ansible_collections.magi.models.plugins.plugin_utils._observe.probe import (
    CODE,
    PROGRAM,
    SERVERS,
    addresses,
    asked,
    program,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import FakeServer, model, plan, running

(PLAIN,) = plan("a", models=[model("a")]).instances
(SLEEPS,) = plan({"model": "b", "idle": "10m"}, models=[model("b")]).instances
CODE_THERE = {name: (Path(module_utils.__path__[0]) / name).read_text() for name in CODE}


def at(address):
    return replace(PLAIN, address=address)


def test_nobody_asks_a_server_that_may_sleep():
    assert asked([PLAIN, SLEEPS]) == [PLAIN]


def test_nothing_secret_is_in_its_files():
    secret = {"HF_TOKEN": "secret", "MAGI_API_KEY_FILE": "/etc/keys", "LLAMA_ARG_EMBEDDINGS": "on"}
    keyed = replace(PLAIN, environment={**PLAIN.environment, **secret})
    (server,) = json.loads(program("gpu1", [keyed], CODE_THERE)[SERVERS])
    assert server == {
        "name": "a",
        "labels": '{host="gpu1",instance="a",model_id="a"}',
        "environment": {"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": "8080", "LLAMA_ARG_EMBEDDINGS": "on"},
        "keyed": True,
        "model": "",
    }


@pytest.mark.parametrize("idle", [{}, {"idle": "10m"}])
def test_of_a_pool_its_models_are_asked_unless_they_sleep(idle):
    models = [model("a"), model("e", task="embedding"), model("z")]
    pool = plan("z", models=models, pools=[{"name": "p", "models": ["a", "e"], **idle}]).instances[-1]
    for there in (pool, kept_instance(running(pool))):
        assert asked([there]) == [there]
        servers = json.loads(program("gpu1", [there], CODE_THERE)[SERVERS])
        assert [item["model"] for item in servers] == ([""] if idle else ["", "a", "e"])
        assert {item["name"] for item in servers} == {"p"}
        assert "LLAMA_ARG_MODELS_PRESET" in servers[0]["environment"]
        assert [item["labels"] for item in servers] == [
            f'{{host="gpu1",instance="p",model_id="{item["model"] or "p"}"}}' for item in servers
        ]
        assert ["LLAMA_ARG_EMBEDDINGS" in item["environment"] for item in servers] == [False, False, True][
            : len(servers)
        ]


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        (("127.0.0.1", "0.0.0.0", "::"), []),
        (("10.0.0.7", "fd00::1,10.0.0.8"), ["10.0.0.7", "fd00::1"]),
        (("10.0.0.7", "gpu1.example.org"), None),
        (("/run/a.sock",), None),
    ],
)
def test_it_may_reach_its_servers_alone(bound, found):
    assert addresses([at(address) for address in bound]) == found


def test_it_runs_with_python_alone(tmp_path):
    health = {"/health": (200, b"")}
    with FakeServer(health) as server:
        mine = replace(PLAIN, environment=server.environment)
        for name, content in program("gpu1", [mine], CODE_THERE).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert files == {str(path.relative_to(tmp_path)) for glob in PROGRAM for path in tmp_path.glob(glob)}
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", tmp_path, tmp_path / SERVERS],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert 'magi_probe_success{host="gpu1",instance="a",model_id="a"} 0\n' in done.stdout  # that server knows no POST
    assert done.stderr.startswith("a: it was asked for one token and answered HTTP status 501; ")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == files
