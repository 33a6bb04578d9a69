from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER, Listener
from ansible_collections.magi.models.plugins.plugin_utils._fleet.questions import (
    Answer,
    HealthQuestion,
    Way,
    answers,
    questions,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import host, plan, running

(INSTANCE,) = plan("a-q2_k").instances


def asked(bound, *, connection="ssh", health_from="auto", said=None, names=None, health=200):
    """Where an instance is asked whose process listens at ``bound`` and says that it binds ``said``."""
    now = running(INSTANCE, health=health, environment={"LLAMA_ARG_HOST": said or bound})
    listeners = (Listener(bound, 8080, 100, "llama-server", "a-q2_k"),) if bound else ()
    found = questions(host(now, listeners=listeners), Way("gpu1.lan", connection), health_from, names)
    return [(item.url, item.by) for item in found]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"bound": "127.0.0.1"}, ("http://127.0.0.1:8080", "host")),
        ({"bound": "::1"}, ("http://[::1]:8080", "host")),
        ({"bound": "0.0.0.0"}, ("http://gpu1.lan:8080", "controller")),
        ({"bound": "::"}, ("http://gpu1.lan:8080", "controller")),
        ({"bound": "10.0.0.5"}, ("http://10.0.0.5:8080", "controller")),
        # Ansible does not come over the network, so the address may not be one
        ({"bound": "0.0.0.0", "connection": "local"}, ("http://127.0.0.1:8080", "host")),
        ({"bound": "10.0.0.5", "connection": "community.docker.docker"}, ("http://10.0.0.5:8080", "host")),
        ({"bound": "0.0.0.0", "connection": "ansible.builtin.ssh"}, ("http://gpu1.lan:8080", "controller")),
        # the setting says who asks
        ({"bound": "0.0.0.0", "health_from": "host"}, ("http://127.0.0.1:8080", "host")),
        (
            {"bound": "0.0.0.0", "health_from": "controller", "connection": "local"},
            ("http://gpu1.lan:8080", "controller"),
        ),
        # what a server says of itself never decides which address we talk to
        ({"bound": "0.0.0.0", "said": "169.254.169.254"}, ("http://gpu1.lan:8080", "controller")),
        ({"bound": "", "said": "169.254.169.254"}, ("http://gpu1.lan:8080", "controller")),
        ({"bound": "", "said": "127.0.0.1"}, ("http://127.0.0.1:8080", "host")),
    ],
)
def test_a_server_is_asked_where_its_clients_are(given, where):
    assert asked(**given) == [where]


def test_a_worker_speaks_no_http():
    worker = running(INSTANCE, health=200, environment={"LLAMA_ARG_HOST": "10.0.0.5", WORKER: "gpu1/big"})
    assert questions(host(worker), Way("gpu2.lan", "ssh")) == []


@pytest.mark.parametrize(
    ("bound", "connection", "where"),
    [
        ("127.0.0.1", "ssh", ("http://127.0.0.1:8080", "host")),
        ("localhost", "ssh", ("http://localhost:8080", "host")),
        ("::1", "ssh", ("http://[::1]:8080", "host")),
        ("0.0.0.0", "ansible.builtin.ssh", ("http://gpu1.lan:8080", "controller")),
        ("::", "paramiko", ("http://gpu1.lan:8080", "controller")),
        ("10.0.0.5", "ssh", ("http://10.0.0.5:8080", "controller")),
        ("127.0.0.1,10.0.0.5", "ssh", ("http://gpu1.lan:8080", "controller")),
        # this machine, and a container that Ansible enters
        ("127.0.0.1", "local", ("http://127.0.0.1:8080", "controller")),
        ("0.0.0.0", "ansible.builtin.local", ("http://127.0.0.1:8080", "controller")),
        ("0.0.0.0", "community.docker.docker", ("http://127.0.0.1:8080", "host")),
    ],
)
def test_a_url_is_for_the_place_where_it_works(bound, connection, where):
    assert Way("gpu1.lan", connection).url(bound, 8080) == where


@pytest.mark.parametrize("more", [{"health": 503}, {"health": 0}, {"health": None}, {"names": []}, {"names": ["b"]}])
def test_nobody_else_is_asked(more):
    assert asked("127.0.0.1", **more) == []
    assert asked("127.0.0.1", names=["a-q2_k"]) != []


QUESTION = {"instance": "a-q2_k", "url": "http://gpu1.lan:8080", "by": "controller"}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"status": 200, "msg": "OK (2 bytes)"}, None),
        (
            {
                "status": -1,
                "msg": "Status code was -1 and not [200]: Request failed: <urlopen error [Errno 111] Connection refused>",
            },
            "it is ready, but http://gpu1.lan:8080 can't be reached from the controller (Connection refused); open its",
        ),
        (
            {"status": -1, "msg": "Status code was -1 and not [200]: Request failed: <urlopen error timed out>"},
            "(timed out)",
        ),
        ({"status": 403, "msg": "Status code was 403 and not [200]: HTTP Error 403"}, "(HTTP status 403)"),
        ({"failed": True}, "(no answer)"),
    ],
)
def test_what_uri_returned_is_an_answer(result, said):
    answer = answers([{**result, "item": QUESTION}])[QUESTION["instance"]]
    assert answer.question == HealthQuestion(**QUESTION)
    if said is None:
        assert answer.cause is None
    else:
        assert answer.cause.code == "not_reached"
        assert said in answer.cause.detail


@pytest.mark.parametrize("said", ["Connection refused", "kex_exchange_identification: read: Connection reset by peer"])
def test_a_host_that_is_lost_meanwhile_is_no_closed_port(said):
    """Whoever asks must be there: a restart of the host says nothing about the port."""
    result = {
        "unreachable": True,
        "msg": f"Task failed: Failed to connect to the host via ssh: {said}",
        "item": QUESTION,
    }
    cause = answers([result])[QUESTION["instance"]].cause
    assert cause.code == "host_unreachable"
    assert cause.detail.startswith(
        f"its host can't be reached any more (Failed to connect to the host via ssh: {said}); "
    )


def test_on_its_own_host_the_remedy_is_another():
    answer = Answer(HealthQuestion("a", "http://127.0.0.1:8080", "host"), -1, "Connection refused")
    assert "can't be reached on its own host (Connection refused); see what else has its port" in answer.cause.detail


def test_a_loop_over_nothing_has_no_answers():
    assert answers([]) == answers([{"skipped": True, "item": QUESTION}]) == {}


@pytest.mark.parametrize(
    ("bound", "connection", "each", "asked"),
    [
        ("127.0.0.1", "ssh", True, ["a-q2_k", "a-q2_k-2"]),
        ("127.0.0.1", "ssh", False, ["a-q2_k"]),
        ("127.0.0.1", "local", False, ["a-q2_k", "a-q2_k-2"]),
        ("0.0.0.0", "ssh", False, ["a-q2_k", "a-q2_k-2"]),
    ],
)
def test_of_those_that_a_host_asks_itself_one_is_enough(bound, connection, each, asked):
    two = [running(item, health=200) for item in plan({"model": "a-q2_k", "instances": 2}).instances]
    listeners = tuple(Listener(bound, item.port, 100, "llama-server", item.name) for item in two)
    found = questions(host(*two, listeners=listeners), Way("gpu1", connection), each=each)
    assert [item.instance for item in found] == asked
