from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Need
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import (
    Shortage,
    account_lines,
    balance,
    held,
    need_line,
    need_text,
    planned_need,
    pool_needs_text,
    spare,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import BINARY, host, model, plan, running

GIB = 1 << 30
A, B, C = (plan(name, models=[model(x) for x in "abc"]).instances[0] for name in "abc")


def having(instance, own, mapped=0, gpu=0, path=None):
    """Return ``instance`` with a need in GiB."""
    need = Need({HOST: int(own * GIB), **({"CUDA0": int(gpu * GIB)} if gpu else {})}, int(mapped * GIB))
    return replace(instance, need=need, model_path=path or instance.model_path)


def now(instance, holds=0, told=True):
    """Return ``instance`` as it runs, and holds so many GiB of the host's memory."""
    found = running(instance, own_memory=int(holds * GIB))
    need = {"MAGI_NEED": need_text(instance.need)} if told else {}
    return replace(found, environment={**found.environment, "LLAMA_ARG_MODEL": instance.model_path, **need})


def on(*there, free=10.0, gpu=None):
    gpus = {"CUDA0": (int(gpu[0] * GIB), int(gpu[1] * GIB))} if gpu else {}
    binary = replace(BINARY, device_memory=gpus)
    # a twentieth of 20 GiB stays free
    return host(*there, memory_bytes=20 * GIB, available_bytes=int(free * GIB), binary=binary)


def given(ledger):
    return {item.device: round(item.given / GIB, 1) for item in ledger.accounts}


def short(ledger):
    return [(item.instance, item.device, item.need / GIB, item.left / GIB) for item in ledger.shortages]


def test_a_pool_holds_a_gpu_for_those_of_its_models_that_are_in_memory():
    needs = {"a": Need({HOST: GIB, "CUDA0": 4 * GIB}), "b": Need({HOST: GIB, "CUDA0": 3 * GIB})}
    environment = {"MAGI_POOL": "[]", "MAGI_NEED": need_text(needs["a"]), "MAGI_POOL_NEEDS": pool_needs_text(needs)}
    pool = replace(running(A, models={"a": "unloaded", "b": "loaded"}), environment=environment)
    assert held(pool, needs["a"], "CUDA0") == 3 * GIB
    none = replace(pool, models={"a": "failed", "b": "sleeping"})
    assert held(none, needs["a"], "CUDA0") == 0
    assert held(replace(pool, models=None), needs["a"], "CUDA0") == 0  # it does not answer
    # what it needs, it gets once it loads the larger one
    found = balance(on(pool, gpu=(24, 20)), [], [pool], set())
    assert [(x.device, x.room / GIB, x.given / GIB) for x in found.accounts][1:] == [("CUDA0", 22.5, 4)]


def test_each_gets_its_own_and_files_count_once():
    ledger = balance(on(), [having(A, 2, 3, path="/x"), having(B, 2, 3, path="/x"), having(C, 0.5, 1)], [], ())
    assert (given(ledger), short(ledger)) == ({HOST: 8.5}, [])
    assert ledger.accounts[0].room == 9 * GIB


def test_all_that_do_not_fit_are_named_with_what_is_left():
    ledger = balance(on(), [having(A, 5), having(B, 5), having(C, 6)], [], ())
    assert short(ledger) == [("b", HOST, 5, 4), ("c", HOST, 6, 4)]
    assert ledger.shortages[0].missing == GIB


def test_what_runs_has_what_it_needs_whatever_it_touched_and_comes_first():
    first = having(A, 6)
    ledger = balance(on(now(first, holds=1), free=9), [having(B, 4), first], [], {"a"})
    assert short(ledger) == [("b", HOST, 4, 3)]


def test_what_ends_gives_back_what_it_holds_and_a_restart_is_not_counted_twice():
    old = having(A, 6)
    assert short(balance(on(now(old, holds=6), free=4), [having(B, 9)], [], ())) == []
    assert short(balance(on(now(old, holds=6), free=4), [having(A, 9)], [], ())) == []
    assert short(balance(on(now(old, holds=6), free=4), [having(A, 9.5)], [], ())) == [("a", HOST, 9.5, 9)]


def test_a_process_keeps_what_it_was_planned_with():
    """A cache of prompts that is smaller in the plan is smaller after the next start."""
    ledger = balance(on(now(having(A, 6), holds=1), free=9), [having(A, 2), having(B, 4)], [], {"a"})
    assert short(ledger) == [("b", HOST, 4, 3)]


def test_what_is_kept_though_it_is_in_no_plan_counts():
    stays = now(having(A, 6), holds=1)
    assert short(balance(on(stays, free=9), [having(B, 4)], [stays], ())) == [("b", HOST, 4, 3)]
    silent = now(having(A, 6), holds=1, told=False)
    assert short(balance(on(silent, free=9), [having(B, 9)], [silent], ())) == [("b", HOST, 9, 8)]


@pytest.mark.parametrize(
    ("there", "free", "wanted", "left"),
    [
        ((), 16, 15.5, None),
        ((), 16, 15.75, 15.5),
        # somebody else uses it
        ((), 6, 6, 5.5),
        # one that ends gives back what it was planned with; without that, all that is used is thought to be its
        ((now(having(A, 1, gpu=8)),), 6, 13, None),
        ((now(having(A, 1, gpu=8)),), 6, 14, 13.5),
        ((now(having(A, 1, gpu=8), told=False),), 2, 15, None),
    ],
)
def test_a_device(there, free, wanted, left):
    ledger = balance(on(*there, gpu=(16, free)), [having(B, 1, gpu=wanted)], [], ())
    assert short(ledger) == ([("b", "CUDA0", wanted, left)] if left else [])


def test_one_that_sleeps_counts_as_awake_and_holds_only_the_driver_s_part_of_a_device():
    sleeper = having(A, 4, gpu=8)
    asleep = replace(now(sleeper, holds=0.5), asleep=True)
    # stays: what it frees is its own when it wakes; goes: its device is free already
    there = on(asleep, free=9.5, gpu=(16, 15))
    stays = balance(there, [sleeper, having(B, 5, gpu=7.5)], [], {"a"})
    assert (given(stays), short(stays)) == ({HOST: 4.0, "CUDA0": 8.0}, [("b", "CUDA0", 7.5, 7.125)])
    assert short(balance(there, [having(B, 9, gpu=15.5)], [], ())) == [("b", "CUDA0", 15.5, 15.125)]
    assert {device: size / GIB for device, size in spare(there).left.items()} == {HOST: 5, "CUDA0": 7.125}


def test_without_numbers_nothing_is_said():
    assert balance(replace(on(), available_bytes=None), [having(A, 99)], [], ()).accounts == ()
    assert balance(on(), [A], [], ()).accounts == ()


def test_beside_what_runs_there_is_what_is_left_of_it():
    runs = now(having(A, 4, 1, path="/x"), holds=1)
    book = spare(on(runs, free=10, gpu=(16, 6)))
    assert {device: size / GIB for device, size in book.left.items()} == {HOST: 10 - 1 - 3, "CUDA0": 5.5}
    # its file is mapped already
    need = having(B, 6, 1).need
    assert book.lacking("b", need, "/x") == []
    assert book.lacking("b", need, "/y") == [Shortage("b", HOST, 7 * GIB, 6 * GIB)]
    book.give(need, "/x")
    assert book.left[HOST] == 0
    assert spare(replace(on(), available_bytes=None)) is None


@pytest.mark.parametrize("need", [Need({HOST: 5, "CUDA0": 7}, 3), Need({HOST: 5}, estimated="an estimate")])
def test_a_process_tells_its_need(need):
    assert planned_need({"MAGI_NEED": need_text(need)}) == need


@pytest.mark.parametrize("environment", [{}, {"MAGI_NEED": ""}, {"MAGI_NEED": "Host=x"}, {"MAGI_NEED": "CUDA0=1"}])
def test_a_process_that_does_not(environment):
    assert planned_need(environment) is None


def test_lines_for_people():
    ledger = balance(on(gpu=(16, 16)), [having(A, 2, 1, gpu=8)], [], ())
    assert account_lines(ledger.accounts) == [
        "memory: 3.0 GiB needed of 9.0 GiB that instances can have, 20.0 GiB in all",
        "CUDA0: 8.0 GiB needed of 15.5 GiB that instances can have, 16.0 GiB in all",
    ]
    assert need_line(having(A, 2, 1, gpu=8).need) == "3.0 GiB, CUDA0 8.0 GiB"
    assert need_line(replace(having(A, 2).need, estimated="no tool")) == "about 2.0 GiB"
