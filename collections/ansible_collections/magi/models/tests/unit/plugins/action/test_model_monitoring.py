from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.action.model_monitoring import ActionModule
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import model, plan, settings

ANALYZE = shutil.which("systemd-analyze")


class FakeTask(SimpleNamespace):
    """What an action asks of its task."""

    async_val = 0
    check_mode = diff = False
    delegate_to = None


class FakeHostAction(ActionModule):
    """Keeps what it would run on its host."""

    def __init__(self, **arguments):
        templar = SimpleNamespace(template=lambda value: value)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/unused"))
        super().__init__(FakeTask(args=arguments), connection, None, None, templar, None)
        self._load_name = "magi.models.model_monitoring"

    def on_host(self, _module, arguments, _task_vars):
        self.job = arguments["job"]
        return {"changed": False, "timed": False}


def deployed(**more):
    made = plan("a", models=[model("a")], with_settings=settings(**more)).to_dict()
    return {
        "settings": {"settings": {"max_startup_time": 60}, "way": {"address": "h", "connection": "ssh"}},
        "planned": {"plan": made},
    }


def job(host, **arguments):
    action = FakeHostAction(hosts={"h1": host} if host else {}, textfile_dir="/srv/100% $mine", **arguments)
    action.run(task_vars={"inventory_hostname": "h1", "ansible_python_interpreter": "/usr/bin/python3.11"})
    return action.job


def test_a_host_gets_the_program_and_its_units():
    found = job(deployed(), probe=True)
    assert {*found["units"]["files"]} == {"magi-probe.service", "magi-probe.timer"}
    assert "__main__.py" in found["probe_home"]["files"]
    assert found["textfile_dir"]["keep"] == ["magi-probe.prom", "magi-probe.new"]


@pytest.mark.parametrize(("host", "arguments"), [(deployed(), {}), (deployed(), {"state": "absent"}), (None, {})])
def test_without_it_nothing_of_it_stays(host, arguments):
    found = job(host, **arguments)
    assert found["units"]["files"] == found["probe_home"]["files"] == {}
    assert found["units"]["ours"] and found["probe_home"]["ours"] and not found["textfile_dir"]["keep"]


def test_on_a_host_that_was_not_deployed_it_stays_as_it_is():
    found = job({**deployed(), "applied": {"failed": True, "msg": "no"}}, probe=True)
    assert {*found} == {"textfile_dir"}
    assert found["textfile_dir"]["keep"] == ["magi-probe.prom", "magi-probe.new"]


def test_a_host_without_systemd_is_named():
    action = FakeHostAction(hosts={"h1": deployed()}, textfile_dir="/srv", probe=True)
    (warning,) = action.run(task_vars={"inventory_hostname": "h1"})["warnings"]
    assert warning.startswith("Host h1: without systemd")


def test_it_needs_a_folder_for_what_it_finds():
    with pytest.raises(AnsibleActionFail, match="observability_textfile_dir"):
        FakeHostAction(hosts={"h1": deployed()}, probe=True).run(task_vars={"inventory_hostname": "h1"})


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is missing")
def test_systemd_takes_the_units_and_finds_them_hardened(tmp_path):
    host = deployed(host="10.0.0.7", options={"api_key_file": "/etc/magi keys/100%"})
    files = job(host, probe=True, probe_interval=60)["units"]["files"]
    service = files["magi-probe.service"]
    assert "LoadCredential=a:/etc/magi keys/100%%\n" in service
    assert "IPAddressAllow=localhost 10.0.0.7\n" in service
    assert 'ExecStart="/usr/bin/python3.11" -I -S -B' in service
    assert "OnUnitActiveSec=60\n" in files["magi-probe.timer"]
    for name, content in files.items():
        # the program is not there
        (tmp_path / name).write_text(content.replace('"/usr/bin/python3.11"', "/bin/true"))
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", tmp_path / "magi-probe.timer", tmp_path / "magi-probe.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    scored = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--threshold=12", "--no-pager", tmp_path / "magi-probe.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert scored.returncode == 0, scored.stdout
