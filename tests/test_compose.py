"""The files of containers/ fit to each other, and to what there is."""

from __future__ import annotations

import re

import yaml
from ansible_collections.magi.models.plugins.module_utils._config.settings import SETTINGS

from .compose import FILE, run_arguments, service
from .playbook import ROOT

MEANT = {"MODEL_SCAN_PATH": "/srv/models", "MAGI_PROFILE": "production"}


def test_all_settings_can_be_given():
    """But the path of llama-server, which is in an image."""
    wanted = {setting.environment for setting in SETTINGS if setting.environment} - {"LLAMA_SERVER_PATH"}
    assert {*yaml.safe_load(FILE.read_text())["services"]["magi"]["environment"]} == {*wanted, "ANSIBLE_INVENTORY"}


def test_what_env_has_reaches_magi_and_the_rest_stays_with_the_inventory():
    """An empty variable counts as not set."""
    environment = service(MEANT)["environment"]
    assert environment["MODEL_HOST"] == ""
    assert {name: value for name, value in environment.items() if value} == {
        **MEANT,
        "ANSIBLE_INVENTORY": "inventories/docker",
    }
    assert service({})["environment"]["MODEL_SCAN_PATH"] == "/models"


def test_the_engine_finds_what_magi_names():
    """The servers' mounts are resolved where the engine runs."""
    arguments = run_arguments(service(MEANT), {})
    mounts = [pair.split(":") for flag, pair in zip(arguments, arguments[1:], strict=False) if flag == "--volume"]
    same = {source for source, target, *_mode in mounts if source == target}
    defaults = yaml.safe_load(
        (ROOT / "collections/ansible_collections/magi/models/roles/model_server/defaults/main.yml").read_text()
    )
    assert {"/var/run/docker.sock", "/srv/models", defaults["model_server_home"]} <= same


def test_its_inventory_and_dockerfile_are_there():
    found = service({})
    assert (ROOT / found["environment"]["ANSIBLE_INVENTORY"] / "hosts.yml").is_file()
    assert (FILE.parent / found["build"]["context"]).resolve() == ROOT
    assert (ROOT / found["build"]["dockerfile"]).is_file()


def test_the_execution_environment_has_the_versions_of_the_tests():
    wanted = yaml.safe_load((FILE.parent / "execution-environment.yml").read_text())["dependencies"]
    pinned = re.sub(r";.*", "", (ROOT / "constraints.txt").read_text()).splitlines()
    for name in ("ansible_core", "ansible_runner"):
        assert wanted[name]["package_pip"] in pinned
