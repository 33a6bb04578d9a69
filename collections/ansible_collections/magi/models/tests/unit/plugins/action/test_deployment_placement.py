"""The action with Ansible's own lookup of patterns, and what it hands on as plain values."""

from __future__ import annotations

import json
from types import SimpleNamespace

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.magi.models.plugins.action.deployment_placement import ActionModule
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import host, inventory, profile

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
