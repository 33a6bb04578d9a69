from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Need, Row, Told
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.need import questions
from ansible_collections.magi.models.plugins.plugin_utils._fleet.placement import Fleet, Look, _ways, placing
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
M, OTHER = model("m", size_bytes=GIB), model("other", size_bytes=GIB)
TOLD = Told((Row(HOST, GIB, GIB // 2, GIB // 2),))
"""2 GiB for each, with 64 MiB of the process and none of saved prompts."""


class Hosts:
    """Hosts that are deployed again and again: what a plan says runs then."""

    def __init__(self, *names, models=(M, OTHER), memory=None):
        self.models = dict.fromkeys(names, models)
        self.looks = {
            name: host(memory_bytes=16 * GIB, available_bytes=(memory or {}).get(name, 8 * GIB)) for name in names
        }
        self.clock = 0

    def place(self, chosen, *, away=(), failed=(), limit=None, allowed=None, **more):
        looks = {}
        for name, there in self.looks.items():
            known = inventory(*self.models[name])
            needs = {item.key: TOLD for item in questions(chosen, known, BINARY, {}, {})}
            if name not in (*away, *failed) and name in (limit or self.looks):
                looks[name] = Look(known, there, settings(**more), ["/models"], needs)
        out = [name for name in self.looks if name not in (limit or self.looks)]
        allowed = allowed or [None] * len(chosen.entries)
        self.looked = looks
        return placing(chosen, Fleet(tuple(self.looks), looks, allowed, away, out))

    def deploy(self, chosen, **how):
        """Return by host what is done there, and why; what is kept is left out."""
        self.clock += 1
        found = self.place(chosen, **how)
        assert found.refused == ""
        done = {}
        for name, look in self.looked.items():
            plan = build_plan(
                host_name=name,
                profile=chosen,
                inventory=look.inventory,
                host=look.host,
                settings=look.settings,
                scan_paths=look.scan_paths,
                needs=look.needs,
                shares=found.shares[name],
            )
            changes = [item for item in plan.actions if item.action is not ActionKind.KEEP]
            done |= {(name, item.action.value, item.instance): item.reason for item in changes}
            old = {item.name: item for item in look.host.instances}
            kept = plan.names(ActionKind.KEEP)
            files = {item.name: item.environment for item in plan.instances}
            # Nothing is written for what stays: no run would be without a change.
            assert all(files[x]["MAGI_CONFIG_HASH"] == old[x].environment["MAGI_CONFIG_HASH"] for x in kept)
            assert all(files[x].get("MAGI_REPLICAS") == old[x].environment.get("MAGI_REPLICAS") for x in kept)
            now = tuple(old[x.name] if x.name in kept else running(x) for x in plan.instances)
            made = Generation(self.clock, began_at=self.clock) if changes else look.host.generation
            self.looks[name] = replace(self.looks[name], instances=now, generation=made)
        return done

    @property
    def run(self):
        return {name: [item.name for item in there.instances] for name, there in self.looks.items() if there.instances}


TWO = profile({"model": "m", "replicas": 2, "options": {"cache_ram": 0}})
ONE = profile({"model": "m", "replicas": 1})


def test_a_replica_moves_when_its_host_is_gone_and_stays_when_that_is_back():
    hosts = Hosts("a", "b", "c")
    assert hosts.deploy(TWO) == {
        ("a", "start", "m"): "1 of 2 replicas, spread over a, b",
        ("b", "start", "m"): "1 of 2 replicas, spread over a, b",
    }
    assert hosts.deploy(TWO) == {}
    assert hosts.deploy(TWO, away=["b"]) == {("c", "start", "m"): "moved from b, which can't be reached"}
    assert hosts.deploy(TWO, away=["b"]) == {}
    # b comes back, and runs on what it had
    assert hosts.run == {"a": ["m"], "b": ["m"], "c": ["m"]}
    assert hosts.deploy(TWO) == {("b", "stop", "m"): "2 replicas are enough, on a, c"}
    assert hosts.deploy(TWO) == {}
    assert hosts.run == {"a": ["m"], "c": ["m"]}


def test_the_only_replica_moves_and_stays_though_nobody_was_left_to_tell():
    hosts = Hosts("a", "b")
    hosts.deploy(ONE)
    assert hosts.run == {"a": ["m"]}
    assert hosts.deploy(ONE, away=["a"]) == {
        ("b", "start", "m"): "no other host that it is for has the model; a can't be reached, and may have had it"
    }
    assert hosts.deploy(ONE) == {("a", "stop", "m"): "1 replica is enough, on b"}
    assert hosts.run == {"b": ["m"]}


def test_a_host_that_left_the_inventory_is_named():
    hosts = Hosts("a", "b", "c")
    hosts.deploy(TWO)
    del hosts.looks["a"]
    assert hosts.deploy(TWO) == {("c", "start", "m"): "moved from a, which is not in the inventory any more"}


def test_a_host_that_answers_and_fails_keeps_what_it_has():
    hosts = Hosts("a", "b", "c")
    hosts.deploy(TWO)
    assert hosts.deploy(TWO, failed=["a"]) == {}


def test_with_limit_replicas_stay_as_they_are():
    hosts = Hosts("a", "b", "c")
    found = hosts.place(TWO, limit=["a", "b"])
    assert found.notes == ("m: --limit leaves out c, so its replicas stay as they are.",)
    assert hosts.deploy(TWO, limit=["a", "b"]) == {}
    hosts.deploy(TWO)
    assert hosts.deploy(TWO, limit=["c"]) == {}  # neither doubled
    assert hosts.deploy(TWO, limit=["a"]) == {}  # nor lost
    # if all the hosts of the entry are within it, they are all that there are
    assert [*hosts.deploy(TWO, limit=["b", "c"], allowed=[{"b", "c"}])] == [("c", "start", "m")]


def test_the_hosts_of_an_entry_are_those_of_its_pattern():
    hosts = Hosts("cpu1", "gpu1", "gpu2")
    gpus = {"gpu1", "gpu2"}
    both = profile({"model": "m", "replicas": 1, "hosts": "gpu*"}, {"model": "other", "hosts": "gpu*"})
    hosts.deploy(both, allowed=[gpus, gpus])
    assert hosts.run == {"gpu1": ["m", "other"], "gpu2": ["other"]}
    assert hosts.place(both, allowed=[set(), gpus]).refused == (
        "Profile test, entry 1 (m): hosts: gpu* matches none of the hosts in model_servers; correct the pattern, or "
        "leave it out."
    )


def test_a_glob_has_so_many_of_each_of_its_models_and_leaves_none_for_the_next():
    hosts = Hosts("a", "b")
    hosts.deploy(profile({"model": "*", "replicas": 1}, {"tier": "Q4"}))
    assert hosts.run == {"a": ["m"], "b": ["other"]}


def test_fewer_replicas_end_and_what_the_profile_had_on_every_host_is_reduced():
    hosts = Hosts("a", "b", "c")
    hosts.deploy(profile({"model": "m", "options": {"cache_ram": 0}}))
    assert hosts.deploy(TWO) == {("c", "stop", "m"): "2 replicas are enough, on a, b"}
    assert hosts.deploy(TWO) == {}


def test_what_does_not_fit_is_refused_in_numbers():
    hosts = Hosts("a", "b", memory={"a": 8 * GIB, "b": 3 * GIB})
    five = profile({"model": "m", "replicas": 5, "options": {"cache_ram": 0}})
    # 8 GiB less the reserve; the weights of a file count once, so the first takes 2.1 GiB, and each other one 1.1
    hosts.deploy(five)
    assert hosts.run == {"a": ["m", "m-2", "m-3", "m-4"], "b": ["m"]}
    hosts = Hosts("a", "b", memory={"a": 3 * GIB, "b": 3 * GIB})
    refused = hosts.place(five).refused
    assert refused.startswith(
        "Profile test, entry 1 (m): 2 of 5 replicas have a place, 3 have none: each needs 1.1 GiB "
    )
    assert hosts.place(five, memory="off").refused == ""
    warned = hosts.place(five, memory="warn")
    assert warned.refused == ""
    assert sum(shares[0]["m"].count for shares in warned.shares.values()) == 5


def test_a_cache_of_prompts_counts_for_all_replicas_together():
    hosts = Hosts("a", memory={"a": 16 * GIB})
    hosts.deploy(profile({"model": "m", "replicas": 8}))
    assert len(hosts.run["a"]) == 8


def test_without_the_model_anywhere_nothing_is_deployed():
    hosts = Hosts("a", "b", models=(OTHER,))
    assert hosts.place(TWO, away=["b"]).refused == (
        "Profile test, entry 1 (m): no host that it is for has m (b can't be reached), so there is no place for 2 "
        "replicas: copy it to one, or correct the entry."
    )


def test_a_host_has_no_more_replicas_than_ports():
    hosts = Hosts("a", "b")
    six = profile({"model": "m", "replicas": 6}, {"model": "other", "hosts": "a"}, options={"cache_ram": 0})
    hosts.deploy(six, port_range=(8080, 8083), allowed=[None, {"a"}], memory="warn")
    assert {name: len(there) for name, there in hosts.run.items()} == {"a": 4, "b": 3}
    refused = hosts.place(six, port_range=(8080, 8081), allowed=[None, {"a"}], memory="off").refused
    assert refused == ""  # what runs stays
    refused = Hosts("a", "b").place(six, port_range=(8080, 8081), allowed=[None, {"a"}]).refused
    assert refused == (
        "Profile test, entry 1 (m): 3 of 6 replicas have a place, 3 have none; a, b have no port left. Set replicas: 3, "
        "lower ctx_size, copy the model to another host, widen model_server_port_range, or set model_server_memory: warn "
        "to try all the same."
    )


def test_a_host_without_a_plan_gets_none_and_says_itself_why():
    hosts = Hosts("a", "b", "c")
    hosts.looks["a"] = replace(hosts.looks["a"], binary=None, binary_error="there is no llama-server")
    found = hosts.place(TWO)
    assert {name: shares[0].get("m") and shares[0]["m"].count for name, shares in found.shares.items()} == {
        "a": None,
        "b": 1,
        "c": 1,
    }
    assert (found.failing, found.refused) == ({"a"}, "")
    assert found.shares["b"][0]["m"].why == "1 of 2 replicas, spread over b, c"
    hosts.looks["b"] = hosts.looks["c"] = hosts.looks["a"]
    assert "no host that it is for has m (a has no plan, as it says itself; b has" in hosts.place(TWO).refused
    hosts = Hosts("a", "b", "c")
    # One of them had a replica: it is not moved while that may run.
    hosts.deploy(TWO)
    hosts.looks["a"] = replace(hosts.looks["a"], binary=None)
    assert hosts.place(TWO).shares["c"][0]["m"].count == 0


def test_a_fixed_port_that_another_process_has_keeps_a_replica_away():
    hosts = Hosts("a", "b")
    hosts.looks["a"] = replace(hosts.looks["a"], listeners=(foreign(8083),))
    hosts.deploy(profile({"model": "m", "replicas": 1, "port": 8083}))
    assert hosts.run == {"b": ["m"]}


@pytest.mark.parametrize("missing", ["keep", "stop"])
def test_a_replica_whose_file_is_gone_counts_while_it_runs_on(missing):
    hosts = Hosts("a", "b", "c")
    hosts.deploy(TWO)
    hosts.models["a"] = (OTHER,)
    found = hosts.place(TWO, missing=missing)
    assert (found.shares["c"][0]["m"].count == 1) is (missing == "stop")


@pytest.mark.parametrize(
    ("options", "devices"), [({}, ["CUDA0", "CUDA1"]), ({"device": "CUDA0"}, ["CUDA0"]), ({"main_gpu": 0}, ["CUDA0"])]
)
def test_what_uses_one_gpu_may_use_another(options, devices):
    gpus = {"devices": ("CUDA0", "CUDA1"), "default_devices": ("CUDA0", "CUDA1")}
    there = host(binary=replace(BINARY, **gpus))
    found = _ways(Need({"CUDA0": 5, HOST: 1}, mapped=2), there, options)
    assert [item.own for item in found] == [{device: 5, HOST: 1} for device in devices]
    assert [item.mapped for item in found] == [2] * len(devices)
    both = Need({"CUDA0": 5, "CUDA1": 5, HOST: 1})
    assert _ways(both, there, options) == (both,)


BIG = {
    name: model(name, size_bytes=size * GIB)
    for name, size in (("alpha", 20), ("beta", 15), ("gamma", 20), ("huge", 30))
}


class GpuHosts(Hosts):
    """Hosts with so many GPUs of 24 GiB; llama-fit-params says what the weights are."""

    def __init__(self, **gpus):
        super().__init__(*gpus, models=tuple(BIG.values()))
        for name, count in gpus.items():
            devices = tuple(f"CUDA{number}" for number in range(count))
            binary = replace(
                BINARY,
                devices=devices,
                default_devices=devices,
                device_memory=dict.fromkeys(devices, (24 * GIB, 24 * GIB)),
            )
            self.looks[name] = replace(self.looks[name], binary=binary, gpus=("/dev/nvidia0",))

    def place(self, chosen, *, allowed=None, **more):
        looks = {}
        for name, there in self.looks.items():
            known = inventory(*self.models[name])
            needs = {}
            for item in questions(chosen, known, there.binary, {}, {}):
                size = BIG[item.variables["LLAMA_ARG_MODEL"].split("/")[-1].removesuffix(".gguf")].size_bytes
                used = item.variables.get("LLAMA_ARG_DEVICE", ",".join(there.binary.devices)).split(",")
                needs[item.key] = Told((*(Row(x, size // len(used), 0, 0) for x in used), Row(HOST, 0, GIB // 8, 0)))
            looks[name] = Look(known, there, settings(**more), ["/models"], needs)
        self.looked = looks
        return placing(chosen, Fleet(tuple(self.looks), looks, allowed or [None] * len(chosen.entries)))


def test_several_gpus_of_a_replica_are_any_of_the_host():
    hosts = GpuHosts(a=4)
    hosts.deploy(profile({"model": "huge", "devices": 2, "replicas": 2}, options={"cache_ram": 0}))
    used = [item.environment["LLAMA_ARG_DEVICE"] for item in hosts.looks["a"].instances]
    assert used == ["CUDA0,CUDA1", "CUDA2,CUDA3"]


def test_what_starts_in_the_same_run_leaves_no_room_that_replicas_could_have():
    hosts = GpuHosts(a=2, b=2)
    beta = {"model": "beta", "instances": 2, "hosts": "a"}
    chosen = profile(
        {"model": "alpha", "replicas": 1}, {"model": "gamma", "replicas": 1}, beta, options={"cache_ram": 0}
    )
    hosts.deploy(chosen, allowed=[None, None, {"a"}])
    assert hosts.run == {"a": ["beta", "beta-2"], "b": ["alpha", "gamma"]}


def test_a_host_on_which_one_more_would_be_wrong_takes_none_and_is_refused_with_the_others():
    hosts = GpuHosts(a=1, b=2)
    found = hosts.place(profile({"model": "huge", "devices": 2, "replicas": 3}, "beta", options={"cache_ram": 0}))
    assert not found.failing
    assert "a takes none (Host a: Profile test, entry 1 (huge): devices: 2 are asked for" in found.refused


def test_entries_of_one_model_are_for_different_hosts():
    hosts = Hosts("a", "b")
    twice = profile({"model": "m", "replicas": 1, "hosts": "a"}, {"model": "m", "replicas": 1, "hosts": "all"})
    assert hosts.place(twice, allowed=[{"a"}, {"a", "b"}]).refused == (
        "Profile test, entry 2 (m): entry 1 is for some of its hosts, too; give them hosts that exclude each other."
    )
    assert not hosts.place(twice, allowed=[{"a"}, {"b"}]).refused


def test_what_is_not_for_a_host_stops_there_also_without_its_file_and_spoils_no_question():
    hosts = Hosts("a", "b")
    hosts.deploy(profile("m", "other", options={"cache_ram": 0}))
    hosts.models["b"] = (OTHER,)
    chosen = profile({"model": "m", "hosts": "a", "options": {"brand_new": 1}}, "other", options={"cache_ram": 0})
    assert questions(chosen, inventory(M, OTHER), BINARY, {}, {})
    chosen = profile({"model": "m", "hosts": "a"}, "other", options={"cache_ram": 0})
    assert {*hosts.deploy(chosen, allowed=[{"a"}, None])} == {("b", "stop", "m")}
