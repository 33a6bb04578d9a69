from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.values import Plan, PlanError
from ansible_collections.magi.models.plugins.module_utils._plan.worker import Rpc
from ansible_collections.magi.models.plugins.module_utils._services.values import Capabilities
from ansible_collections.magi.models.plugins.plugin_utils._fleet.look import Fleet, Look
from ansible_collections.magi.models.plugins.plugin_utils._fleet.placement import placing
from ansible_collections.magi.models.plugins.plugin_utils._fleet.workers import (
    WorkersFirst,
    why_not_private,
    workers_first,
    workers_lines,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    BINARY,
    foreign,
    host,
    inventory,
    model,
    profile,
    running,
    settings,
)

GIB = 1 << 30
BIG, SMALL = model("big", size_bytes=12 * GIB), model("small", size_bytes=GIB)
CAN = Capabilities(workers=True)
PATH = "/opt/ggml-rpc-server"
OVER_TWO = {"model": "big", "rpc": ["gpu2", "gpu3"], "options": {"cache_ram": 0, "ctx_size": 256}}


class Hosts:
    """Three hosts, of which the first has the model; what a plan says runs then."""

    def __init__(self, *, models=None, **more):
        self.models = {"gpu1": [BIG, SMALL], "gpu2": [SMALL], "gpu3": [SMALL], **(models or {})}
        given = {"memory_bytes": 16 * GIB, "available_bytes": 15 * GIB, "can": CAN, "worker_path": PATH}
        self.hosts = {name: host(**{**given, **more.get(name, {})}) for name in self.models}
        self.addresses = {"gpu1": "10.0.0.1", "gpu2": "10.0.0.2", "gpu3": "10.0.0.3"}
        self.settings = settings()

    def placing(self, *entries, away=(), limit=None, allowed=None):
        chosen = profile(*entries)
        looks = {}
        for name, there in self.hosts.items():
            known = inventory(*self.models[name])
            if name not in away and name in (limit or self.hosts):
                looks[name] = Look(known, there, self.settings, ["/models"], {})
        out = [name for name in self.hosts if name not in (limit or self.hosts)]
        allowed = allowed or [None] * len(chosen.entries)
        fleet = Fleet(tuple(self.hosts), looks, allowed, away, out, self.addresses)
        return chosen, looks, placing(chosen, fleet)

    def plans(self, *entries, **how):
        chosen, looks, found = self.placing(*entries, **how)
        assert found.refused == ""
        return {
            name: build_plan(
                host_name=name,
                profile=chosen,
                inventory=look.inventory,
                host=look.host,
                settings=look.settings,
                scan_paths=look.scan_paths,
                needs=look.needs,
                shares=found.shares[name],
                # As it crosses Ansible.
                rpc=Rpc.from_dict(json.loads(json.dumps(found.rpc.get(name, Rpc()).to_dict()))),
            )
            for name, look in looks.items()
        }

    def deploy(self, *entries, **how):
        plans = self.plans(*entries, **how)
        for name, plan in plans.items():
            old = {item.name: item for item in self.hosts[name].instances}
            kept = plan.names(ActionKind.KEEP)
            now = [old[x.name] if x.name in kept else running(x) for x in (*plan.instances, *plan.workers)]
            now += [old[x] for x in kept if x not in {item.name for item in now}]
            self.hosts[name] = replace(self.hosts[name], instances=tuple(now))
        return plans

    def change(self, name, **more):
        self.hosts[name] = replace(self.hosts[name], **more)


def actions(plans, *, but_kept=True):
    return {
        (name, str(item.action), item.instance): item.reason
        for name, plan in plans.items()
        for item in plan.actions
        if not (but_kept and item.action is ActionKind.KEEP)
    }


def test_one_host_serves_and_the_others_have_a_worker_each():
    plans = Hosts().plans(OVER_TWO)
    assert [item.name for item in plans["gpu1"].instances] == ["big"]
    assert plans["gpu2"].instances == plans["gpu3"].instances == plans["gpu1"].workers == ()
    (worker,) = plans["gpu2"].workers
    assert (worker.name, worker.address, worker.port) == ("big.worker", "10.0.0.2", 8089)
    assert worker.environment["MAGI_WORKER"] == "gpu1/big"
    assert worker.environment["MAGI_WORKER_PATH"] == PATH
    assert worker.environment["LLAMA_ARG_THREADS"] == "8"
    assert "LLAMA_ARG_MODEL" not in worker.environment
    big = plans["gpu1"].instances[0]
    assert big.environment["LLAMA_ARG_RPC"] == "10.0.0.2:8089,10.0.0.3:8089"
    assert big.environment["LLAMA_ARG_TENSOR_SPLIT"] == "160,160"
    assert plans["gpu2"].served == ()
    assert plans["gpu2"].names(ActionKind.START) == ("big.worker",)
    assert all(Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan for plan in plans.values())


def test_a_second_run_changes_nothing_and_servers_keep_their_ports():
    hosts = Hosts()
    hosts.deploy({"model": "small"})
    plans = hosts.deploy({"model": "small"}, OVER_TWO)
    assert {*actions(plans)} == {
        ("gpu1", "start", "big"),
        ("gpu2", "start", "big.worker"),
        ("gpu3", "start", "big.worker"),
    }
    assert plans["gpu2"].instances[0].port == 8080
    assert actions(hosts.plans({"model": "small"}, OVER_TWO)) == {}
    assert actions(hosts.plans({"model": "small"})) == {
        ("gpu1", "stop", "big"): "not enabled by profile test",
        ("gpu2", "stop", "big.worker"): "gpu1/big does not use it any more",
        ("gpu3", "stop", "big.worker"): "gpu1/big does not use it any more",
    }


def test_what_each_host_has_of_the_model_is_in_its_ledger():
    plans = Hosts().plans(OVER_TWO)
    shares = {name: next(x for x in plan.memory if x.device == HOST).given for name, plan in plans.items()}
    assert shares["gpu2"] == shares["gpu3"]
    assert 12 * GIB * 1.25 / 2 < shares["gpu2"] < 12 * GIB * 1.25 / 2 + 2 * GIB
    assert shares["gpu1"] < GIB
    assert plans["gpu2"].workers[0].need.estimated
    assert set(plans["gpu1"].instances[0].need.own) == {"RPC0", "RPC1", HOST}


def test_a_worker_that_does_not_fit_is_refused_in_numbers():
    hosts = Hosts(gpu3={"available_bytes": 5 * GIB})
    with pytest.raises(PlanError) as refused:
        hosts.plans({"model": "small"}, OVER_TWO)
    said = str(refused.value)
    _profile, _looks, found = hosts.placing({"model": "small"}, OVER_TWO)
    assert found.rpc["gpu1"].remotes["big"].refused == "the host of its worker gpu3 has no plan, as it says itself"
    assert said.startswith(
        "Host gpu3: nothing was changed. Profile test, entry 2 (big): its worker on gpu3 needs about"
    )
    assert "are missing; add a host to rpc, lower ctx_size, or free memory there." in said
    hosts.settings = settings(memory="warn")
    assert any(
        "its worker on gpu3 needs" in item for item in hosts.plans({"model": "small"}, OVER_TWO)["gpu3"].warnings
    )


def test_a_worker_offers_the_gpus_of_its_host_by_name():
    gpus = {"CUDA0": (24 * GIB, 23 * GIB), "CUDA1": (8 * GIB, 8 * GIB)}
    binary = replace(BINARY, devices=tuple(gpus), default_devices=tuple(gpus), device_memory=gpus)
    plans = Hosts(gpu2={"binary": binary, "gpus": ("/dev/nvidia0",)}).plans(OVER_TWO)
    (worker,) = plans["gpu2"].workers
    assert worker.environment["LLAMA_ARG_DEVICE"] == "CUDA0,CUDA1"
    assert "LLAMA_ARG_THREADS" not in worker.environment
    assert plans["gpu1"].instances[0].environment["LLAMA_ARG_TENSOR_SPLIT"] == "240,80,160"
    assert worker.need.own["CUDA0"] > 2 * worker.need.own["CUDA1"] > 640 * MIB
    assert plans["gpu2"].gpu


def test_the_servers_own_gpus_come_behind_those_of_its_workers():
    gpus = {"CUDA0": (24 * GIB, 23 * GIB)}
    binary = replace(BINARY, devices=("CUDA0",), default_devices=("CUDA0",), device_memory=gpus)
    big = Hosts(gpu1={"binary": binary, "gpus": ("/dev/nvidia0",)}).plans(OVER_TWO)["gpu1"].instances[0]
    assert big.environment["LLAMA_ARG_TENSOR_SPLIT"] == "160,160,240"
    assert {*big.need.own} == {"RPC0", "RPC1", "CUDA0", HOST}
    own = Hosts().plans({**OVER_TWO, "options": {"tensor_split": "3,1"}})["gpu1"].instances[0]
    assert own.environment["LLAMA_ARG_TENSOR_SPLIT"] == "3,1"
    assert own.need.own["RPC0"] > 2 * own.need.own["RPC1"]


def test_a_server_starts_again_with_what_its_workers_are_made_of():
    hosts = Hosts()
    hosts.deploy(OVER_TWO)
    hosts.change("gpu2", binary=replace(BINARY, identity="11435 1 2"))
    assert {*actions(hosts.deploy(OVER_TWO))} == {("gpu1", "restart", "big"), ("gpu2", "restart", "big.worker")}
    hosts.change(
        "gpu3", instances=tuple(replace(x, state=State.FAILED, pid=None) for x in hosts.hosts["gpu3"].instances)
    )
    assert actions(hosts.deploy(OVER_TWO)) == {
        ("gpu1", "restart", "big"): "its worker on gpu3 did not run",
        ("gpu3", "start", "big.worker"): "was failed",
    }
    hosts.change("gpu2", listeners=(foreign(8089, "0.0.0.0"),))
    moved = hosts.deploy(OVER_TWO)
    assert moved["gpu2"].workers[0].port == 8088
    assert {*actions(moved)} == {("gpu1", "restart", "big"), ("gpu2", "restart", "big.worker")}


@pytest.mark.parametrize("how", [{"away": ["gpu3"]}, {"limit": ["gpu1", "gpu2"]}, {"away": ["gpu1"]}])
def test_while_a_host_is_away_what_runs_stays(how):
    hosts = Hosts()
    hosts.deploy(OVER_TWO)
    plans = hosts.plans(OVER_TWO, **how)
    assert actions(plans) == {}
    assert any("runs on as it is" in item for plan in plans.values() for item in plan.degraded)
    assert all(plan.kept == () for name, plan in plans.items() if name != "gpu1")


def test_nothing_starts_while_a_worker_can_not():
    plans = Hosts().plans({"model": "small"}, OVER_TWO, away=["gpu3"])
    assert {*actions(plans)} == {("gpu1", "start", "small"), ("gpu2", "start", "small")}
    (said,) = plans["gpu1"].degraded
    assert said == (
        "Profile test, entry 2 (big): it does not start on gpu1: the host of its worker gpu3 can't be reached."
    )


@pytest.mark.parametrize(
    ("entry", "more", "said"),
    [
        ({"rpc": ["gpu4"]}, {}, "rpc: gpu4 is none of the hosts in model_servers; did you mean gpu3"),
        ({"rpc": ["gpu1", "gpu2", "gpu3"]}, {}, "no host is left for the server"),
        ({}, {"gpu2": {"worker_path": ""}}, "gpu2 has no ggml-rpc-server beside its llama-server, nor in the PATH"),
        ({}, {"gpu2": {"can": Capabilities(), "manager": "docker"}}, "docker on gpu2 can't run it"),
        ({}, {"gpu1": {"can": Capabilities(), "manager": "docker"}}, "docker on gpu1 can't run it"),
        ({}, {"gpu2": {"binary": None, "binary_error": "there is none."}}, "gpu2: there is none."),
    ],
)
def test_what_can_not_be_is_refused_before_anything_changes(entry, more, said):
    _profile, _looks, found = Hosts(**more).placing({**OVER_TWO, **entry})
    assert found.refused.startswith("Profile test, entry 1 (big): rpc: ")
    assert said in found.refused


def test_several_hosts_with_the_model_need_a_word():
    hosts = Hosts(models={"gpu1": [BIG], "gpu4": [BIG]})
    _profile, _looks, found = hosts.placing(OVER_TWO)
    assert "gpu1, gpu4 have the model, and workers serve one server; set hosts to one of them" in found.refused
    plans = hosts.plans(OVER_TWO, {"model": "small"}, allowed=[["gpu4"], None])
    assert [name for name, plan in plans.items() if any(x.name == "big" for x in plan.instances)] == ["gpu4"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", ""),
        ("10.1.2.3", ""),
        ("172.31.0.1", ""),
        ("192.168.1.1", ""),
        ("169.254.3.4", ""),
        ("100.100.1.1", ""),
        ("172.32.0.1", "its address 172.32.0.1 is not a private one"),
        ("203.0.113.7", "whoever reaches a worker can use and crash it"),
        ("0.0.0.0", "is not a private one"),
        ("fd00::1", "workers speak IPv4 alone"),
        ("gpu2.example", "gpu2.example is no address"),
        ("", "its address is not known"),
    ],
)
def test_a_worker_listens_at_a_private_address_alone(address, said):
    assert said in why_not_private(address)
    assert bool(said) == bool(why_not_private(address))
    hosts = Hosts()
    hosts.addresses = {"gpu1": "127.0.0.1", "gpu2": address, "gpu3": "127.0.0.1"}
    _profile, _looks, found = hosts.placing(OVER_TWO)
    assert (said in found.refused) and bool(said) == bool(found.refused)


def test_a_worker_on_this_machine_alone_is_for_servers_on_it():
    hosts = Hosts()
    hosts.addresses["gpu2"] = "127.0.0.1"
    _profile, _looks, found = hosts.placing(OVER_TWO)
    assert (
        "gpu2: its address 127.0.0.1 is its own alone, and gpu1 can't reach it; set model_server_rpc_" in found.refused
    )


def test_servers_end_before_their_workers_and_begin_after_them():
    hosts = Hosts()

    def first(*entries):
        before = dict(hosts.hosts)
        plans = hosts.deploy(*entries)
        return workers_first({name: (plan, before[name]) for name, plan in plans.items()})

    both = {"gpu2": ("big.worker",), "gpu3": ("big.worker",)}
    assert first(OVER_TWO) == WorkersFirst({}, both)
    assert first(OVER_TWO) == WorkersFirst()
    hosts.change("gpu2", binary=replace(BINARY, identity="11435 1 2"))
    found = first(OVER_TWO)
    assert found == WorkersFirst({"gpu1": ("big",)}, {"gpu2": ("big.worker",)})
    assert found.hosts == ("gpu1", "gpu2")
    assert workers_lines(found) == ["gpu1: ends before its workers: big", "gpu2: before the servers: big.worker"]
    assert first({"model": "small"}) == WorkersFirst({"gpu1": ("big",)}, both)
