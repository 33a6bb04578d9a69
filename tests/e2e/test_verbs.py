"""The verbs of magi that look at a real deployment: config, doctor, logs, ask, profile and migrate."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ..command import begin
from .conftest import ROOT, Deployment, ports

pytestmark = pytest.mark.e2e
Q2 = "smollm2-135m-instruct.q2_k"
PORTS = ports(18200)
KEY = "canary-key-1"


@dataclass
class Magi:
    """The command, with the state of one deployment and no setting of the caller's."""

    deployment: Deployment

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        return begin(self.state, *arguments, cwd=self.deployment.folder, MAGI_PROJECT=str(ROOT), **environment)

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in out + err, out + err
        assert process.returncode == code, out + err
        return subprocess.CompletedProcess(arguments, code, out, err)

    def json(self, *arguments: str, code: int = 0, **environment: str) -> dict:
        return json.loads(self(*arguments, "--json", code=code, **environment).stdout)

    @property
    def state(self) -> Path:
        return self.deployment.folder / "state"


@pytest.fixture(scope="module")
def magi(tmp_path_factory: pytest.TempPathFactory):
    """One deployment for all tests of this file: a server with an API key."""
    folder = tmp_path_factory.mktemp("verbs")
    deployment = Deployment(folder, {"model_server_port_range": PORTS})  # other tests leave nothing on it
    (folder / "profiles").mkdir()
    deployment.add_model("Q2_K")
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    deployment.add_profile("development", "*", options={"api_key_file": str(keys)})
    run = deployment.play()
    assert run.code == 0, run.output
    yield Magi(deployment)
    assert deployment.play("teardown").code == 0


def inventory(magi: Magi) -> tuple[str, str]:
    return "-i", str(magi.deployment.folder / "run-0.json")  # what the playbook was run with


def test_doctor_finds_nothing_wrong_then_a_taken_port_and_no_binary(magi: Magi):
    sound = magi.json("doctor", *inventory(magi))
    assert (sound["problems"], sound["warnings"]) == (0, 0)
    assert {item["check"] for item in sound["findings"]} >= {
        "connection",
        "binary",
        "models",
        "ports",
        "memory",
        "plan",
    }
    with socket.create_server(("127.0.0.1", PORTS[1])):
        wrong = magi("doctor", *inventory(magi), code=1, LLAMA_SERVER_PATH="/nonexistent/llama-server").stderr
    assert f"warning  port {PORTS[1]} is taken by process {os.getpid()}" in wrong
    assert "PROBLEM  there is no llama-server at /nonexistent/llama-server; install it" in wrong


def test_config_says_where_each_value_comes_from(magi: Magi):
    (magi.deployment.folder / ".env").write_text("MODEL_STOP_TIMEOUT=7\nMODEL_HOST=::1\n")
    try:
        given = ("-e", '{"model_server_options": {"hf_token": "canary"}}')
        document = magi.json("config", *inventory(magi), *given, MODEL_HOST="127.0.0.1", MAGI_DOTENV="")
    finally:
        (magi.deployment.folder / ".env").unlink()
    values = {name: (item["value"], item["source"]) for name, item in document["hosts"]["localhost"].items()}
    assert values["stop_timeout"] == (7, ".env")
    assert values["host"] == ("127.0.0.1", "environment")
    assert values["manager"] == ("supervisor", "inventory")
    assert values["concurrent_starts"] == (True, "default")
    assert values["options"] == ({"hf_token": "…"}, "-e")


def test_an_answer_is_streamed_and_its_key_goes_nowhere(magi: Magi):
    question = "{{ lookup('pipe', 'touch owned') }} What is the capital of France?"
    process = magi.start("ask", Q2, question, "--max-tokens", "40", *inventory(magi))
    first = process.stdout.read(1)
    assert first
    assert process.poll() is None  # the first letter is here, and the answer goes on
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "tokens/s" in err
    assert not list(magi.deployment.folder.rglob("owned"))
    everything = [path.read_text(errors="replace") for path in magi.state.rglob("*") if path.is_file()]
    assert KEY not in "".join([*everything, out, err])


def test_a_log_is_shown_and_followed_until_ctrl_c(magi: Magi):
    process = magi.start("logs", Q2, "-n", "1", "-f", *inventory(magi))
    assert process.stdout.readline()
    request = urllib.request.Request(
        f"http://127.0.0.1:{magi.deployment.servers()[Q2]['port']}/v1/completions",
        json.dumps({"prompt": "x", "max_tokens": 1}).encode(),
        {"Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=60):
        assert next(line for line in process.stdout if "launch_slot" in line)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "magi: Its log is no longer followed; nothing was changed.\n")


def test_an_instance_that_is_not_there(magi: Magi):
    assert "did you mean" in magi("logs", Q2[:-1], *inventory(magi), code=2).stderr
    assert "must be a name" in magi.json("ask", "{{ x }}", "x", *inventory(magi), code=2)["error"]["message"]


def test_profiles_from_what_was_discovered(magi: Magi):
    folder = ("--dir", str(magi.deployment.folder / "profiles"))
    magi("plan", *inventory(magi))
    (here,) = magi.json("fit", Q2, "--ctx-size", "2048", *inventory(magi))["hosts"]
    assert (here["host"], here["context"], here["fits"], here["estimated"]) == ("localhost", 2048, True, True)
    (planned,) = magi.json("fit", Q2, *inventory(magi))["hosts"]  # as in the profile, of which llama-fit-params told
    assert (planned["context"], planned["estimated"]) == (8192, False)
    assert 2048 < planned["largest_context"] <= 8192
    assert "memory lacks" in magi("fit", Q2, "--ctx-size", "80000000", *inventory(magi), code=1).stderr
    assert magi.json("profile", "new", "mine", *folder, *inventory(magi))["models"] == [Q2]
    assert magi("profile", "new", "mine", *folder, *inventory(magi), code=2).stderr.count("exists and stays") == 1
    shown = magi.json("profile", "show", "development", *folder, *inventory(magi))
    (instance,) = shown["hosts"][0]["instances"]
    assert (instance["instance"], list(instance["options"])) == (Q2, ["api_key_file"])
    offline = magi.json("profile", "show", "mine", *folder, "--registry", str(magi.deployment.registry))
    assert offline["hosts"][0]["instances"][0]["model_id"] == Q2
    (magi.deployment.folder / "profiles" / "bad.yml").write_text("enabled_models: ['*']\noptions:\n  ctx_sise: 1\n")
    bad = magi("profile", "validate", "mine", "bad", *folder, *inventory(magi), code=2).stderr
    assert "mine.yml: ok" in bad
    assert "bad.yml, line 3: options: llama-server" in bad
    assert "did you mean ctx_size?" in bad


def test_a_legacy_configuration_becomes_a_profile(magi: Magi):
    legacy = magi.deployment.folder / "legacy.json"
    legacy.write_text(json.dumps({"models": {"Q2_FAST_1": {"name": Q2, "port": PORTS[0]}, "Q3_X": {"name": "gone"}}}))
    folder = ("--dir", str(magi.deployment.folder / "profiles"))
    document = magi.json("migrate", str(legacy), "--name", "old", *folder, "--registry", str(magi.deployment.registry))
    assert [(item["key"], item["model"]) for item in document["entries"]] == [("Q2_FAST_1", Q2), ("Q3_X", None)]
    entry = yaml.safe_load((magi.deployment.folder / "profiles" / "old.yml").read_text())["enabled_models"]
    assert entry == [{"model": Q2, "port": PORTS[0]}]
