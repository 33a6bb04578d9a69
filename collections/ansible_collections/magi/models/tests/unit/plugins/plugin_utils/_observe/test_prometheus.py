from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml
from ansible_collections.magi.models.plugins.plugin_utils._observe.prometheus import prometheus
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import Limits, rules
from ansible_collections.magi.models.plugins.plugin_utils._observe.targets import JOBS, Kind

PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing (Debian: apt-get install prometheus)")
def test_prometheus_takes_configuration_and_rules(tmp_path):
    (tmp_path / "key").write_text("secret")
    (tmp_path / "rules.yml").write_text(rules(Limits()))
    (tmp_path / "prometheus.yml").write_text(prometheus(str(tmp_path), 15, str(tmp_path / "key"), ["127.0.0.1:9093"]))
    command = [PROMTOOL, "check", "config", tmp_path / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_each_kind_has_its_job_and_its_files():
    jobs = yaml.safe_load(prometheus("/srv/m", 5, "/etc/key"))["scrape_configs"]
    assert [job["file_sd_configs"][0]["files"] for job in jobs] == [
        [f"/srv/m/targets/{kind}-of-*.json"] for kind in Kind
    ]
    names = {job["job_name"] for job in jobs}
    relabelled = {item["replacement"] for job in jobs for item in job.get("relabel_configs", ())}
    assert {*JOBS.values()} == names - {"magi-keyed-servers", "magi-keyed-pools"} | relabelled


def test_a_key_is_named_and_only_the_servers_that_want_it_get_it():
    jobs = yaml.safe_load(prometheus("/srv/m", 5, "/etc/key"))["scrape_configs"]
    assert [job["job_name"] for job in jobs if "authorization" in job] == ["magi-keyed-servers", "magi-keyed-pools"]
    assert "authorization" not in prometheus("/srv/m", 5)


class Tagged(str):
    """As Ansible's strings, which know where they are from, and which PyYAML's safe dumper does not take."""


def test_what_ansible_gives_is_written_as_what_it_says():
    text = prometheus(Tagged("/etc/m"), 15, Tagged("/run/credentials/key"), [Tagged("127.0.0.1:9093")])
    assert text == prometheus("/etc/m", 15, "/run/credentials/key", ["127.0.0.1:9093"])
    assert "credentials_file: /run/credentials/key" in text
