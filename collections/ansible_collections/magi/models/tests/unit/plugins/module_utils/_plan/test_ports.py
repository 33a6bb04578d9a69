from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._host.values import Running
from ansible_collections.magi.models.plugins.module_utils._plan.values import PlanError
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    foreign,
    host,
    plan,
    running,
    settings,
)


def ports(value):
    return {item.name: item.port for item in value.instances}


def test_ports_are_given_in_order_around_what_others_hold():
    value = plan("*", on=host(listeners=(foreign(8081), foreign(8082, "10.9.9.9"))))
    assert list(ports(value).values()) == [8080, 8082, 8083, 8084]
    assert value.notes == ("Port 8081 is taken by process 4242 (nc -l) and was left out.",)


def test_a_fixed_port_comes_first_and_is_the_first_instance_s():
    value = plan("d-q4_1", {"model": "a-q2_k", "instances": 2, "port": 8080})
    assert ports(value) == {"d-q4_1": 8081, "a-q2_k": 8080, "a-q2_k-2": 8082}


def test_an_instance_keeps_the_port_that_it_holds():
    first = plan("a-q2_k", "d-q4_1")
    now = host(*(running(item) for item in first.instances))
    assert ports(plan("d-q4_1", "a-q2_k", "b-q3_k_m", on=now)) == {"d-q4_1": 8081, "a-q2_k": 8080, "b-q3_k_m": 8082}


def test_what_stands_in_gets_a_port_that_nothing_has_now_or_later():
    first = plan("a-q2_k", "b-q3_k_m")
    moves = running(first.instances[0], port=8085)
    now = host(moves, running(first.instances[1]), listeners=(foreign(8083),))
    entries = ({"model": "a-q2_k", "port": 8080}, "d-q4_1")
    assert plan(*entries, on=now, with_settings=settings(beside=True)).spare_ports == (8084, 8086)
    assert plan(*entries, on=now).spare_ports == ()
    assert plan(*entries, on=now, with_settings=settings(beside=True, port_range=(8080, 8082))).spare_ports == ()


def test_a_port_outside_the_range_is_given_up():
    assert ports(plan("a-q2_k", on=host(Running("a-q2_k", "running", 1, 9999)))) == {"a-q2_k": 8080}


@pytest.mark.parametrize(
    ("entries", "on", "with_settings", "said"),
    [
        (
            [{"model": "a-q2_k", "port": 8081}],
            host(listeners=(foreign(8081),)),
            None,
            "Host gpu1: port 8081 of a-q2_k is taken by process 4242 (nc -l)",
        ),
        (
            [{"model": "a-q2_k", "port": 8081}, {"model": "d-q4_1", "port": 8081}],
            None,
            None,
            "port 8081 is fixed for both a-q2_k and d-q4_1",
        ),
        (
            ["*"],
            host(listeners=(foreign(8081, "0.0.0.0"),)),
            settings(port_range=(8080, 8083)),
            "no free port for d-q4_1 in 8080-8083 (taken: 8081 by process 4242 (nc -l)); widen",
        ),
    ],
)
def test_a_port_that_can_not_be_had_is_named(entries, on, with_settings, said):
    with pytest.raises(PlanError) as error:
        plan(*entries, on=on, with_settings=with_settings)
    assert said in str(error.value)


def test_a_port_that_nobody_fixed_is_left_to_who_has_taken_it():
    now = host(Running("a-q2_k", State.STOPPED, None, 8081), listeners=(foreign(8081),))
    value = plan("a-q2_k", on=now)
    assert ports(value) == {"a-q2_k": 8080}
    assert value.notes == ("a-q2_k moves from port 8081 to 8080: process 4242 (nc -l) has taken it.",)
    assert not value.degraded


@pytest.mark.parametrize("runs", [True, False])
def test_a_fixed_port_that_is_taken_refuses_its_instance_alone(runs):
    first = running(plan("a-q2_k").instances[0])
    now = host(*([first] if runs else []), listeners=(foreign(8085),))
    value = plan({"model": "a-q2_k", "port": 8085}, "d-q4_1", on=now)
    assert ports(value) == {"d-q4_1": 8081 if runs else 8080}
    assert value.degraded[0] == (
        "Host gpu1: port 8085 of a-q2_k is taken by process 4242 (nc -l); stop it, or give the entry another port."
    )
    assert [item.name for item in value.kept] == (["a-q2_k"] if runs else [])
    assert ("a-q2_k" in value.names(ActionKind.KEEP)) is runs


def test_strict_refuses_all_for_a_port_that_is_taken():
    with pytest.raises(PlanError, match="strict is set and Host gpu1: port 8085 of a-q2_k is taken"):
        plan({"model": "a-q2_k", "port": 8085}, "d-q4_1", strict=True, on=host(listeners=(foreign(8085),)))
