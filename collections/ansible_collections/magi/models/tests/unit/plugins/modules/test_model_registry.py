# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules as Ansible runs them: a process, arguments on standard input, one JSON result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._host import claims
from ansible_collections.magi.models.plugins.modules import (
    gguf_info,
    llama_context_info,
    llama_instances,
    model_host_info,
    model_registry,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import build, model, write


def run(module, check=False, diff=False, verbosity=0, user=None, journal=os.devnull, **options):
    """Run a module with ``options``, and return its result; it takes itself for ``user``, and the file ``journal`` for
    that of its host."""
    control = {"_ansible_check_mode": check, "_ansible_diff": diff, "_ansible_verbosity": verbosity}
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {**options, **control}})
    program = (
        "import os, sys; sys.path[:0] = sys.argv.pop().split(':')\n"
        f"os.geteuid = lambda uid={user}, real=os.geteuid: uid or real()\n"
        f"from {module.__name__} import main\n"
        "from ansible.module_utils import basic\n"
        "basic._ANSIBLE_PROFILE = 'legacy'\n"
        "basic.has_journal = False\n"
        f"basic.syslog.syslog = lambda _kind, line: open({str(journal)!r}, 'a').write(line + chr(10))\n"
        "main()"
    )
    path = ":".join(entry for entry in sys.path if entry)
    result = subprocess.run(
        [sys.executable, "-c", program, path], input=arguments, capture_output=True, text=True, check=False
    )
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def options(tmp_path):
    write(tmp_path / "m/a-Q4_0.gguf", model("{{ lookup('pipe', 'touch X') }}", file_type=2))
    write(tmp_path / "m/cut.gguf", model()[:-1])
    return {"scan_paths": [str(tmp_path / "m")], "registry_path": str(tmp_path / "new" / "registry.json")}


def test_check_then_real_then_again_then_check_again(options):
    """changed, changed, ok, ok; and check mode returns what the real run does, and writes nothing."""
    first = run(model_registry, check=True, diff=True, **options)
    assert not Path(options["registry_path"]).exists()
    second = run(model_registry, diff=True, **options)
    third = run(model_registry, diff=True, **options)
    fourth = run(model_registry, check=True, diff=True, **options)
    assert [result["changed"] for result in (first, second, third, fourth)] == [True, True, False, False]
    assert first["diff"] == second["diff"]
    assert third["diff"]["before"] == third["diff"]["after"] == second["diff"]["after"]
    for key in ("models", "companions", "rejected", "scan_paths", "table"):
        assert first[key] == second[key] == third[key] == fourth[key]
    assert [(result["source"], result["reason"]) for result in (second, third)] == [
        ("scan", "registry missing"),
        ("cache", None),
    ]
    assert any("scanning and creating" in str(warning) for warning in second["warnings"])


def test_what_it_returns(options):
    result = run(model_registry, **options)
    (found,) = result["models"]
    assert found["id"] == "a-q4_0"
    assert found["display_name"] == "{{ lookup('pipe', 'touch X') }} (Q4_0)"
    assert found["tier"] == "Q4"
    assert [item["code"] for item in result["rejected"]] == ["truncated"]
    assert result["registry_path"] == options["registry_path"]
    assert result["table"][0].startswith("id ")
    assert "progress" not in result


def test_verbose_runs_report_progress(options):
    assert run(model_registry, verbosity=1, **options)["progress"][0].startswith("found 2 files")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scan_paths": ["/nowhere"]}, "None of the folders to scan exists: /nowhere"),
        ({"registry_path": "/dev/null/registry.json"}, "/dev/null"),
        ({"registry_path": "/proc/registry.json"}, "Can't write /proc/registry.json"),
    ],
)
def test_failures_are_one_sentence(options, change, expected):
    result = run(model_registry, **{**options, **change})
    assert result["failed"]
    assert expected in result["msg"]
    assert "Traceback" not in result["msg"]


def test_a_missing_folder_is_a_warning(options):
    options["scan_paths"].append("/nowhere")
    result = run(model_registry, **options)
    assert "failed" not in result
    assert any("/nowhere" in str(warning) for warning in result["warnings"])
    assert result["lost"] == ["The folder to scan /nowhere does not exist or can't be listed; skipped."]


def test_gguf_info_tells_facts_and_faults(tmp_path):
    good = write(tmp_path / "good.gguf", model(extra=[("nan", "f32", float("nan")), ("list", "[f32]", [float("inf")])]))
    bad = write(tmp_path / "bad.gguf", b"junk")
    plain = write(tmp_path / "plain-Q4_0.gguf", build())
    result = run(gguf_info, paths=[good, bad, plain])
    assert not result["changed"]
    first, second, third = result["files"]
    assert (first["path"], first["code"], first["quantization"], first["tier"], first["task"]) == (
        good,
        None,
        "Q4_K_M",
        "Q4",
        "chat",
    )
    assert first["metadata"]["nan"] == "nan"
    assert first["metadata"]["list"] == {"type": "f32", "length": 1, "values": ["inf"]}
    assert first["parameter_count"] == 1032
    assert (second["code"], second["error"].split()[0]) == ("magic", bad)
    assert third["quantization"] == "Q4_0"


JOB = {
    "files": [],
    "instances": [],
    "actions": [],
    "generation": {},
    "profile": "p",
    "deployment": "me@here",
    "controller": "",
    "controller_pid": 0,
}


def test_an_instance_to_stop_that_is_not_there_is_warned_of(tmp_path):
    programs = tmp_path / "supervisor" / "programs"
    programs.mkdir(parents=True)
    (programs / "a.conf").touch()
    options = {"state": "stopped", "home": str(tmp_path), "manager": "supervisor", "job": JOB}
    found = run(llama_instances, names=["a", "b"], **options)
    assert (found["changed"], found["instances"]) == (False, ["a"])
    (warning,) = found["warnings"]
    assert f"there is no instance b in {tmp_path}; it has a." in str(warning)
    assert "warnings" not in run(llama_instances, **options)


@pytest.mark.parametrize("check", [False, True])
def test_a_home_that_can_not_be_written_is_one_sentence(check):
    job = {**JOB, "actions": [{"instance": "a", "action": "start", "reason": "new"}]}
    found = run(llama_instances, check=check, home="/dev/null/magi", manager="supervisor", job=job)
    assert found.get("msg") == (None if check else "/dev/null/magi: Not a directory.")


VARIABLES = {"variables": {"MINE": "heliotrope"}}


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (model_registry, {"host": {"environment": VARIABLES["variables"]}}),
        (model_host_info, {"environment": VARIABLES["variables"]}),
        (llama_context_info, {"path": "/none", "questions": [{**VARIABLES, "below": 1, "room": {}}]}),
        (gguf_info, {"paths": ["/heliotrope"]}),  # a file is no secret, and shows that this test can fail
    ],
)
def test_the_journal_of_a_host_has_no_variables_of_its_servers(tmp_path, options, module, given):
    where = {"home": str(tmp_path / "home"), "manager": "supervisor"}
    if module is model_registry:
        given = {**options, "host": {**where, **given["host"]}}
    run(module, journal=tmp_path / "journal", verbosity=1, **(where if module is model_host_info else {}), **given)
    written = (tmp_path / "journal").read_text() if (tmp_path / "journal").exists() else ""
    assert ("heliotrope" in written) is (module is gguf_info)
    assert ("model_registry: read 2 of 2 headers" in written) is (module is model_registry)


@pytest.mark.parametrize(("state", "changed"), [("fenced", True), ("released", False)])
def test_what_a_killed_deployment_left_is_cleared_without_a_service_manager(tmp_path, state, changed):
    """The one that is chosen by itself may be systemd, which only root can use."""
    job = {**JOB, "holder": None, "claims": []}
    found = run(llama_instances, user=1000, state=state, home=str(tmp_path), manager="systemd", job=job)
    assert found.get("msg", found["changed"]) is changed


CLAIM = {
    "deployment": "me@here",
    "controller": "",
    "controller_pid": 0,
    "controller_started": 0,
    "profile": "p",
    "hosts": ["x"],
    "seconds": 600,
}


@pytest.fixture
def home(tmp_path):
    """A host's folder. Claims to it are elsewhere, where the next test in a folder of this name would find them."""
    yield str(tmp_path / "home")
    claims.claims_file(str(tmp_path / "home")).unlink(missing_ok=True)


def test_a_deployment_claims_its_host_and_a_look_does_not(options, home):
    options["host"] = {"home": home, "manager": "supervisor"}

    def look(**more):
        found = run(model_registry, **options, **more)
        return found.get("claim", {}).get("deployment"), [item["deployment"] for item in found.get("claims", ())]

    assert look() == (None, [])
    assert look(claim=CLAIM, check=True) == (None, [])
    assert look(claim=CLAIM) == ("me@here", [])
    assert look(claim={**CLAIM, "deployment": "ada@desk"}) == ("ada@desk", ["me@here"])
    # one that can't look at the host has it no more
    options["host"]["port_range"] = [1]
    assert run(model_registry, **options, claim=CLAIM)["failed"]
    options["host"].pop("port_range")
    found = run(model_registry, **options, claim={**CLAIM, "deployment": "ada@desk"})
    assert [item["ended"] for item in found["claims"]] == [True]
