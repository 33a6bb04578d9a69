"""The action with Ansible's own lookup of patterns, and what it hands on as plain values."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.magi.models.plugins.action.deployment_placement import ActionModule, _addresses
from ansible_collections.magi.models.plugins.module_utils._services.values import Capabilities
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import host, inventory, model, profile

GROUPS = {"model_servers": ["cpu1", "gpu1", "gpu2", "gpu3"], "old": ["gpu3"]}
SETTINGS = {"port_range": [8080, 8089], "memory": "refuse"}


def decided(chosen, **hosts):
    """Return the placement on ``hosts``, each the result of model_registry."""
    loader = DataLoader()
    action = ActionModule(SimpleNamespace(args={}, async_val=0), None, None, loader, Templar(loader, {}), None)
    seen = {name: {"registry": registry, "settings": {"settings": SETTINGS}} for name, registry in hosts.items()}
    arguments = {"profile": chosen.to_dict(), "hosts": seen, "all_hosts": GROUPS["model_servers"]}
    return json.loads(json.dumps(action.decide(arguments, {"groups": GROUPS})["placement"]))


def found():
    return {**inventory().to_dict(), "host": host().to_dict(), "scan_paths": ["/models"]}


AWAY = {"unreachable": True, "msg": "Connection refused"}


def counts(placement):
    return {
        name: [share and {model: item["count"] for model, item in share.items()} for share in item["shares"]]
        for name, item in placement.items()
    }


def test_a_profile_without_replicas_and_hosts_needs_none():
    assert decided(profile("*"), cpu1=found()) == {}


def test_replicas_are_on_the_hosts_of_the_pattern_and_others_wherever_their_model_is():
    chosen = profile({"model": "c-q4_k_m", "replicas": 1, "hosts": "gpu*:!old"}, "a-q2_k")
    placement = decided(chosen, cpu1=found(), gpu1=AWAY, gpu2=found(), gpu3=found())
    assert counts(placement) == {"cpu1": [{}, None], "gpu2": [{"c-q4_k_m": 1}, None], "gpu3": [{}, None]}
    share = placement["gpu2"]["shares"][0]["c-q4_k_m"]
    assert (share["moved"], share["since"]) == (True, "0.000 gpu2")
    assert share["why"] == "no other host that it is for has the model; gpu1 can't be reached, and may have had it"


def test_hosts_that_limit_leaves_out_are_told_from_those_that_are_gone():
    chosen = profile({"model": "c-q4_k_m", "replicas": 1})
    placement = decided(chosen, cpu1=found(), gpu1=AWAY)
    assert counts(placement) == {"cpu1": [{"c-q4_k_m": 0}]}
    said = "c-q4_k_m: --limit leaves out gpu2, gpu3, so its replicas stay as they are."
    assert placement["cpu1"]["notes"] == [said]


def test_what_is_refused_is_refused_on_each_host():
    placement = decided(profile({"model": "other", "replicas": 1}), cpu1=found(), gpu1=AWAY, gpu2=AWAY, gpu3=found())
    assert {item["refused"] for item in placement.values()} == {
        "Profile test, entry 1 (other): no host that it is for has other (gpu1 can't be reached; gpu2 can't be reached), "
        "so there is no place for 1 replica: copy it to one, or correct the entry."
    }


@pytest.mark.parametrize(
    ("address", "connection", "given", "found"),
    [
        ("10.0.0.2", "ssh", "", "10.0.0.2"),
        ("203.0.113.7", "ansible.builtin.ssh", "10.0.0.2", "10.0.0.2"),
        ("203.0.113.7", "ssh", "", "203.0.113.7"),
        ("127.0.1.2", "ssh", "", ""),  # a port that is forwarded to it
        ("localhost", "ssh", "", ""),
        ("127.0.1.2", "ssh", "127.0.0.1", "127.0.0.1"),  # tunnels of the user's own
        ("gpu2", "local", "", "127.0.0.1"),
        ("gpu2", "community.docker.docker", "", ""),
    ],
)
def test_a_worker_s_address_is_that_of_its_setting_or_of_the_inventory(address, connection, given, found):
    chosen = profile({"model": "c-q4_k_m", "rpc": ["gpu2"]})
    settled = {"settings": {"rpc_address": given}, "way": {"address": address, "connection": connection}}
    assert _addresses(chosen, {"gpu2": {"settings": settled}}) == {"gpu2": found}
    assert _addresses(profile("*"), {"gpu2": {"settings": settled}}) == {}


def test_what_a_host_has_of_a_model_over_rpc_is_handed_on():
    there = {**found(), "host": host(can=Capabilities(workers=True), worker_path="/opt/ggml-rpc-server").to_dict()}
    chosen = profile({"model": "c-q4_k_m", "rpc": ["gpu2"]})
    placement = decided(chosen, gpu1=there, gpu2={**there, **inventory(model("x")).to_dict()})
    assert {item["refused"] for item in placement.values()} == {""}
    assert [item["port"] for item in placement["gpu2"]["rpc"]["workers"]] == [8089]
    assert placement["gpu1"]["rpc"]["remotes"]["c-q4_k_m"]["addresses"] == ["127.0.0.1:8089"]
