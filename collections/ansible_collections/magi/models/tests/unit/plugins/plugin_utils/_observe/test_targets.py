from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._observe.targets import (
    Exporter,
    Kind,
    gateway_exporters,
    gpu_exporters,
    host_exporters,
    targets,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import model, plan, settings

SSH, LOCAL = Way("gpu1.example.org", "ssh"), Way("mon", "local")
GPU_PORTS = (("dcgm", 9400), ("nvidia", 9835))
MODELS = [model("a-q4_k_m"), model("b-q2_k", "Q2")]


def deployed(name="gpu1", *entries, address="127.0.0.1", way=SSH, **more):
    return HostResult(name, plan(*entries, models=MODELS, with_settings=settings(host=address)), way=way, **more)


def of(found, name):
    return json.loads(found.files[name])


def test_each_server_of_a_plan_is_a_target():
    found = targets("gpu1", SSH, [deployed()])
    assert found.files.keys() == {"servers-of-gpu1.json"}
    labels = {"host": "gpu1", "profile": "test", "device": "cpu"}
    assert of(found, "servers-of-gpu1.json") == [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"instance": model_id, "model_id": model_id, "tier": tier, **labels},
        }
        for port, model_id, tier in ((8080, "a-q4_k_m", "Q4"), (8081, "b-q2_k", "Q2"))
    ]
    assert (found.keep, found.warnings) == ((), ())


def test_a_host_without_servers_has_no_file():
    host = deployed()
    nothing = HostResult("gpu1", replace(host.plan, instances=()), way=SSH)
    assert targets("gpu1", SSH, [nothing]).files == {}


@pytest.mark.parametrize("host", [HostResult("gpu1"), deployed(trouble=Cause("host_unreachable", "gone"))])
def test_what_is_known_of_a_host_that_was_not_deployed_stays(host):
    found = targets("mon", LOCAL, [host], unknown=[("gw1", Kind.GATEWAYS)])
    assert found.files == {}
    kinds = ("keyed-pools", "keyed-servers", "pools", "servers")
    assert found.keep == ("gateways-of-gw1.json", *(f"{kind}-of-gpu1.json" for kind in kinds))


def test_the_device_is_what_the_server_is_told():
    entry = {"model": "a*", "options": {"device": "CUDA1", "n_gpu_layers": 99}}
    (target,) = of(targets("gpu1", SSH, [deployed("gpu1", entry)]), "servers-of-gpu1.json")
    assert target["labels"]["device"] == "CUDA1"


def test_a_server_that_wants_a_key_is_asked_with_one_or_left_out():
    entry = {"model": "a*", "options": {"api_key_file": "/etc/keys"}}
    found = targets("gpu1", SSH, [deployed("gpu1", entry)], has_key=True)
    assert found.files.keys() == {"keyed-servers-of-gpu1.json"}
    assert "/etc/keys" not in "".join(found.files.values())
    without = targets("gpu1", SSH, [deployed("gpu1", entry)])
    assert without.files == {}
    assert without.warnings == (
        "Host gpu1, instance a-q4_k_m: it has an API key file, and Prometheus on gpu1 has no key; set "
        "observability_key_file to a file there with a key of the server.",
    )


@pytest.mark.parametrize("key", [None, "/etc/keys"])
def test_the_models_of_a_pool_are_asked_for_and_never_loaded(key):
    pools = [{"name": "small", "models": ["a-q4_k_m", "b"]}]
    given = plan("c", models=[model(x) for x in ("a-q4_k_m", "b", "c")], pools=pools, options={"api_key_file": key})
    found = targets("gpu1", SSH, [HostResult("gpu1", given, way=SSH)], has_key=True)
    documents = of(found, f"{'keyed-' if key else ''}pools-of-gpu1.json")
    assert {x["targets"][0] for x in documents} == {"127.0.0.1:8081"}
    assert [x["labels"]["model_id"] for x in documents] == ["a-q4_k_m", "b"]
    assert documents[1]["labels"] == {
        "host": "gpu1",
        "instance": "small",
        "model_id": "b",
        "tier": "Q4",
        "profile": "test",
        "device": "cpu",
        "__param_model": "b",
        "__param_autoload": "false",
    }


def test_what_prometheus_cannot_reach_is_said():
    gateway = Exporter("gw1", Way("gw1", "ssh"), Kind.GATEWAYS, "127.0.0.1", 8405, "bind another")
    found = targets("mon", LOCAL, [deployed()], [gateway])
    assert found.files == {}
    assert [re.sub(" .*Prometheus on mon can't reach", ":", item) for item in found.warnings] == [
        "Host: it; set model_server_host there to an address that others reach.",
        "Host: it; set model_server_host there to an address that others reach.",
        "Host: them; bind another.",
    ]


def test_gateways_and_hosts_are_targets():
    exporters = [
        Exporter("gw1", Way("fd00::7", "ssh"), Kind.GATEWAYS, "::", 8405, ""),
        Exporter("gpu1", SSH, Kind.HOSTS, "0.0.0.0", 9100, ""),
    ]
    found = targets("mon", LOCAL, [deployed(address="0.0.0.0")], exporters)
    assert of(found, "gateways-of-gw1.json") == [
        {"targets": ["[fd00::7]:8405"], "labels": {"host": "gw1", "instance": "gateway gw1"}}
    ]
    assert of(found, "hosts-of-gpu1.json") == [
        {"targets": ["gpu1.example.org:9100"], "labels": {"host": "gpu1", "instance": "host gpu1"}}
    ]
    assert of(found, "servers-of-gpu1.json")[0]["targets"] == ["gpu1.example.org:8080"]


def test_the_name_of_a_host_stays_within_its_file():
    hostile = "../{{ 1 }}\n*"
    name = "".join(targets(hostile, SSH, [deployed(hostile)]).files)
    assert re.fullmatch(r"[\w.%-]+", name, re.ASCII)


METRICS = {"address": "0.0.0.0", "port": 8405, "way": {"address": "gw1", "connection": "ssh"}}


@pytest.mark.parametrize(
    ("seen", "port", "unknown"),
    [
        ({"configured": {"gateway": {"metrics": METRICS}, "missing": ""}}, 8405, False),
        ({"configured": {"missing": "no HAProxy"}, "installed": {"gateway": {"metrics": METRICS}}}, 8405, False),
        ({"configured": {"gateway": {"metrics": METRICS}}, "installed": {"skipped": True}}, 8405, False),
        ({"configured": {"gateway": {"metrics": METRICS}, "missing": "no HAProxy"}}, None, False),
        ({"configured": {"gateway": {"metrics": {**METRICS, "port": 0}}}}, None, False),
        ({"configured": {"gateway": {"metrics": METRICS}, "failed": True}}, None, True),
        ({"configured": {"unreachable": True}}, None, True),
        ({}, None, True),
    ],
)
def test_where_a_gateway_offers_its_metrics(seen, port, unknown):
    found, lost = gateway_exporters({"gw1": seen})
    assert [item.port for item in found] == ([port] if port else [])
    assert lost == ([("gw1", Kind.GATEWAYS)] if unknown else [])


def test_where_node_exporter_is():
    found, lost = host_exporters({"gpu1": SSH, "gpu2": None}, "0.0.0.0", 9100)
    assert [(item.host, item.port) for item in found] == [("gpu1", 9100)]
    assert lost == [("gpu2", Kind.HOSTS)]
    assert host_exporters({"gpu1": SSH, "gpu2": None}, "0.0.0.0", 0) == ([], [])


def test_gpu_exporters_are_targets_where_they_run():
    seen = {
        "gpu1": {"exporters": [{"name": name, "address": "::", "port": port} for name, port in GPU_PORTS]},
        "gpu2": {"exporters": []},
        "gpu3": {"skipped": True},
    }
    found, unknown = gpu_exporters({"gpu1": SSH, "gpu2": SSH, "gpu3": SSH, "gpu4": None}, seen)
    assert unknown == [("gpu3", Kind.GPUS), ("gpu4", Kind.GPUS)]
    made = targets("mon", LOCAL, [], found, unknown)
    assert of(made, "gpus-of-gpu1.json") == [
        {"targets": [f"gpu1.example.org:{port}"], "labels": {"host": "gpu1", "instance": f"{name} gpu1"}}
        for name, port in GPU_PORTS
    ]
    assert made.files.keys() == {"gpus-of-gpu1.json"}
    assert made.keep == ("gpus-of-gpu3.json", "gpus-of-gpu4.json")
