"""From collected facts to findings: a table of what can be wrong, each with its remedy."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._config.profile import examine_profile
from ansible_collections.magi.models.plugins.module_utils._host.values import (
    Holder,
    Host,
    Listener,
    Running,
    Unreadable,
)
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._models.model import Rejected
from ansible_collections.magi.models.plugins.module_utils._services.values import Capabilities
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way

from magi.doctor.checks import OK, PROBLEM, WARNING, Examined, Machine, collect, findings

from .known import BINARY, Q2, Q3, Q4

CONTROLLER = Machine("3.11.2", "2.19.14", "/srv/project/collections", True)
PROFILE = examine_profile("development", {"enabled_models": ["*"]})[0]
SETTINGS = {
    "port_range": [8080, 8089],
    "host": "127.0.0.1",
    "options": {},
    "resources": {},
    "strict": False,
    "retry_quarantined": False,
}
REGISTRY = {
    "models": [Q2, Q3, Q4],
    "rejected": [],
    "companions": [],
    "scan_paths": ["/models"],
    "registry_path": "/var/lib/magi/r.json",
}
SSH = Way("192.0.2.1", "ssh")
HOST = Host("systemd", "/etc/magi", 8, 64 << 30, BINARY, can=Capabilities(limits=True, own_user=True, needs_root=True))


def examined(**more):
    host = replace(HOST, **{key: more.pop(key) for key in list(more) if hasattr(HOST, key)})
    return Examined("gpu1", **{"python": "3.11.2", "settings": SETTINGS, "registry": REGISTRY, "host": host, **more})


def found(host, controller=CONTROLLER, profile=PROFILE, problems=()):
    return findings(controller, {"gpu1": host}, {"gpu1": profile} if profile else {}, problems)


@pytest.mark.parametrize(("loaded", "size"), [(1, "1.3"), (2, "2.3"), (9, "3.0")])
def test_of_a_pool_the_largest_models_count(loaded, size):
    sizes = {"a": 0.7, "b": 1.3, "c": 1.0}
    models = [{**Q2, "id": name, "size_bytes": int(size * 2**30)} for name, size in sizes.items()]
    pools = [{"name": "p", "models": ["*"], "loaded": loaded}]
    profile = examine_profile("p", {"enabled_models": ["*"], "pools": pools})[0]
    seen = found(examined(registry={**REGISTRY, "models": models}), profile=profile)
    assert f"have {size} GiB" in next(item.message for item in seen if item.check == "memory")


def test_a_sound_system_has_no_findings_but_good_ones():
    assert {item.severity for item in found(examined())} == {OK}
    assert [item.check for item in found(examined())] == [
        *("python", "ansible_core", "collection", "profile"),
        *("connection", "binary", "models", "ports", "memory", "plan"),
    ]


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (("CUDA0",), {}),
        (None, {}),  # an old build, which can't list them
        ((), {"n_gpu_layers": 0}),
        ((), {"device": "none"}),
    ],
)
def test_a_gpu_that_is_used_or_left_alone_on_purpose_is_no_finding(devices, options):
    host = examined(
        gpus=("/dev/nvidia0",),
        binary=replace(BINARY, devices=devices),
        settings={**SETTINGS, "options": options},
    )
    assert "gpu" not in [item.check for item in found(host)]


def running(**more):
    return (Running("a", State.RUNNING, 7, 8080, **more),)


@pytest.mark.parametrize(
    ("host", "severity", "check", "message"),
    [
        (
            Examined("gpu1", unreachable="ssh: no route"),
            PROBLEM,
            "connection",
            "can't be reached (ssh: no route); check its",
        ),
        (
            Examined("gpu1", unreachable="Host key verification failed."),
            PROBLEM,
            "connection",
            "can't be reached (Host key verification failed); compare its host key with the one in known_hosts",
        ),
        (Examined("gpu1", errors=("Setting x must be y.",)), PROBLEM, "task", "Setting x must be y."),
        (examined(python="3.8.10"), PROBLEM, "python", "its Python 3.8.10 is too old; install 3.9 or later"),
        (
            examined(binary=None, binary_error="there is no llama-server at /x; install it."),
            PROBLEM,
            "binary",
            "there is no",
        ),
        (
            examined(unreadable=(Unreadable("/models", "drwx------", ("/models/a", "/models/b")),)),
            PROBLEM,
            "models",
            "/models (drwx------) keeps the servers from /models/a and 1 more: the servers run as a user of their own; "
            "chmod o+x /models.",
        ),
        (
            examined(unreadable=(Unreadable("/models/a", "-rw-------", ("/models/a",)),)),
            PROBLEM,
            "models",
            "chmod o+r /models/a.",
        ),
        (
            examined(can=Capabilities(), unreadable=(Unreadable("/m/a", "----------", ("/m/a",)),)),
            PROBLEM,
            "models",
            "the servers run as this user; chmod u+rX /m/a.",
        ),
        (
            examined(unreadable=(Unreadable("/root/x", "hidden", ("/root/x",)),)),
            PROBLEM,
            "models",
            "/root/x lies in a home folder",
        ),
        (examined(warnings=("The folder to scan /x does not exist",)), WARNING, "models", "The folder to scan /x"),
        (
            examined(registry={**REGISTRY, "rejected": [vars(Rejected("x", "/models/x.gguf", "truncated", "broken"))]}),
            WARNING,
            "models",
            "files in /models that can't be served: 1; magi discover says why",
        ),
        (
            examined(listeners=(Listener("127.0.0.1", 8081, 42, "nginx"),)),
            WARNING,
            "ports",
            "port 8081 is taken by process 42 (nginx)",
        ),
        (
            examined(listeners=(Listener("127.0.0.1", 8081),)),
            WARNING,
            "ports",
            "port 8081 is taken by a process that can't be seen from here",
        ),
        (examined(memory_bytes=2 << 30), WARNING, "memory", "have 3.0 GiB, the memory 2.0 GiB; enable fewer"),
        (  # a GPU that this build can't use holds no weights
            examined(memory_bytes=2 << 30, gpus=("/dev/dri/renderD128",), binary=Binary("/x", "1", "1", devices=())),
            WARNING,
            "memory",
            "the memory 2.0 GiB",
        ),
        (
            examined(gpus=("/dev/nvidia0",), binary=Binary("/x", "1", "1", devices=())),
            WARNING,
            "gpu",
            "llama-server at /x finds no GPU, though there is one (/dev/nvidia0), and computes on the CPU; set "
            "llama_server_backend (auto, cuda, rocm or vulkan)",
        ),
        (
            examined(at_work=Holder("joe@box, process 1", pid=1)),
            WARNING,
            "deployment",
            "joe@box, process 1 is changing it",
        ),
        (
            examined(
                instances=(
                    Running("a", State.FAILED, exit_status="exit status 1", log=("error: invalid argument: --x",)),
                )
            ),
            PROBLEM,
            "instances",
            "a is failed: llama-server refuses the argument --x",
        ),
        (
            examined(instances=running(fell_back="ggml_cuda_init: failed", environment={"MAGI_GPU": "CUDA0"})),
            PROBLEM,
            "instances",
            "a: it computes on the CPU and not on CUDA0, which it did not find at its start (ggml_cuda_init: failed",
        ),
        (
            examined(instances=(Running("a", State.ORPHANED, 7),)),
            PROBLEM,
            "instances",
            "a (process 7) outlived its service",
        ),
        (
            examined(instances=running(environment={"LLAMA_ARG_HOST": "0.0.0.0"})),
            WARNING,
            "exposure",
            "a listens on 0.0.0.0, port 8080, without an API key",
        ),
        (examined(settings={**SETTINGS, "host": "0.0.0.0"}), WARNING, "plan", "without an API key"),
        (
            examined(settings={**SETTINGS, "key_hidden_from": "all"}),
            WARNING,
            "plan",
            "the group all has an api_key_file",
        ),
        (
            examined(silent_configs=("/etc/llama.cpp/config.ini",)),
            WARNING,
            "plan",
            "also reads /etc/llama.cpp/config.ini",
        ),
        (examined(settings={**SETTINGS, "options": {"ctx_sise": 1}}), PROBLEM, "plan", "did you mean ctx_size?"),
        (examined(settings={**SETTINGS, "port_range": [8080, 8081]}), PROBLEM, "plan", "no free port for"),
        (examined(registry={**REGISTRY, "models": []}), PROBLEM, "plan", "nothing that profile development enables"),
    ],
)
def test_what_can_be_wrong_with_a_host(host, severity, check, message):
    (one,) = [item for item in found(host) if item.severity != OK and item.check == check]
    assert (one.severity, one.host) == (severity, "gpu1")
    assert message in one.message
    assert not one.message.startswith("Host gpu1:")


@pytest.mark.parametrize(
    ("environment", "exposed"),
    [
        ({"LLAMA_ARG_HOST": "127.0.0.1"}, False),
        ({"LLAMA_ARG_HOST": "::1,localhost"}, False),
        ({"LLAMA_ARG_HOST": "/run/a.sock"}, False),
        ({"LLAMA_ARG_HOST": "127.0.0.1,10.0.0.1"}, True),
        ({"LLAMA_ARG_HOST": "::"}, True),
        ({"LLAMA_ARG_HOST": "0.0.0.0", "MAGI_API_KEY_FILE": "/etc/keys"}, False),
        ({}, False),
    ],
)
def test_exposed_is_who_listens_beyond_loopback_without_a_key(environment, exposed):
    checks = [item.check for item in found(examined(instances=running(environment=environment)))]
    assert ("exposure" in checks) == exposed


@pytest.mark.parametrize(
    ("gateways", "bound", "running_at", "way", "said"),
    [
        ({}, "127.0.0.1", None, SSH, None),
        ({"gpu1": SSH}, "127.0.0.1", None, SSH, None),  # it has the gateway itself
        ({"gw1": Way()}, "127.0.0.1", None, Way(), None),  # both are this machine
        ({"gw1": SSH}, "0.0.0.0", None, SSH, None),
        ({"gw1": SSH}, "127.0.0.1,10.0.0.1", None, SSH, None),
        ({"gw1": SSH, "gpu1": SSH}, "127.0.0.1", None, SSH, "127.0.0.1"),
        ({"gw1": SSH}, "localhost", None, Way(), "localhost"),
        ({"gw1": SSH}, "0.0.0.0", "127.0.0.1", SSH, "127.0.0.1"),  # until the next deployment
        ({"gw1": SSH}, "127.0.0.1", "0.0.0.0", SSH, None),
    ],
)
@pytest.mark.parametrize(("image", "how"), [(True, "their containers' ports are published"), (False, "they listen")])
def test_a_gateway_that_can_t_reach_the_servers(gateways, bound, running_at, way, said, image, how):
    there = running(environment={"LLAMA_ARG_HOST": running_at}) if running_at else ()
    settings = {**SETTINGS, "host": bound, "options": {"api_key_file": "/etc/keys"}}
    host = examined(
        settings=settings, instances=there, gateways=gateways, way=way, can=Capabilities(image=image, own_user=True)
    )
    found_it = [(item.severity, item.message) for item in found(host) if item.check == "reach"]
    sentence = (
        f"its servers can't be reached from gw1 (model_gateways): {how} at {said} alone; set model_server_host to"
    )
    assert [severity for severity, message in found_it if message.startswith(sentence)] == [WARNING] * bool(said)
    assert len(found_it) == bool(said)


@pytest.mark.parametrize(
    ("name", "profile", "said"),
    [
        (Q2["id"], PROFILE, ["plan"]),  # the plan leaves it open
        ("a", PROFILE, ["exposure", "plan"]),  # it runs until the next deployment
        (Q2["id"], None, ["exposure"]),
    ],
)
def test_exposure_is_said_once(name, profile, said):
    there = Running(name, State.RUNNING, 7, 8080, environment={"LLAMA_ARG_HOST": "0.0.0.0"})
    host = examined(settings={**SETTINGS, "host": "0.0.0.0"}, instances=(there,))
    assert sorted(item.check for item in found(host, profile=profile) if item.severity == WARNING) == said


OPEN, SILENT = {"host": "0.0.0.0"}, ("/etc/llama.cpp/config.ini",)


@pytest.mark.parametrize(
    ("more", "profile"),
    [
        ({}, None),  # it can't be used
        ({"registry": {**REGISTRY, "models": []}}, PROFILE),
        ({"registry": None}, PROFILE),
        ({"binary": None, "binary_error": "there is none."}, PROFILE),
    ],
)
@pytest.mark.parametrize(
    ("settings", "exposed"),
    [
        (OPEN, True),
        ({**OPEN, "options": {"api_key_file": "/etc/keys"}}, False),
        ({**OPEN, "options": {"api-key-file": "/etc/keys"}}, False),
        ({}, False),
    ],
)
def test_what_is_read_and_who_is_open_is_said_without_a_plan_too(more, profile, settings, exposed):
    host = examined(settings={**SETTINGS, **settings}, silent_configs=SILENT, **more)
    said = {item.check: item.message for item in found(host, profile=profile) if item.severity == WARNING}
    assert said.keys() == {"config", *(["exposure"] if exposed else [])}
    assert "also reads /etc/llama.cpp/config.ini" in said["config"]
    assert "0.0.0.0 without an API key" in said.get("exposure", "0.0.0.0 without an API key")


def test_a_profile_that_sets_a_key_is_no_exposure():
    keyed = examine_profile("p", {"enabled_models": ["*"], "options": {"api_key_file": "/etc/keys"}})[0]
    host = examined(settings={**SETTINGS, **OPEN}, binary=None, binary_error="there is none.")
    assert [item.check for item in found(host, profile=keyed) if item.severity == WARNING] == []


@pytest.mark.parametrize(
    ("controller", "check", "message"),
    [
        (replace(CONTROLLER, python="3.10.1"), "python", "Python 3.10.1 is too old; run magi with 3.11"),
        (replace(CONTROLLER, ansible_core="2.18.4"), "ansible_core", "ansible-core 2.18.4; install 2.19"),
        (replace(CONTROLLER, ansible_core=None), "ansible_core", "ansible-core is missing; install 2.19"),
        (replace(CONTROLLER, collection=None), "collection", "magi.models is not found"),
        (replace(CONTROLLER, ssh=False), "ssh", "there is no ssh program"),
    ],
)
def test_what_can_be_wrong_with_the_controller(controller, check, message):
    wrong = [item for item in found(Examined("gpu1", unreachable="no"), controller) if item.severity == PROBLEM]
    assert (wrong[0].check, wrong[0].host) == (check, None)
    assert message in wrong[0].message


def test_a_profile_that_can_t_be_used_is_a_problem():
    problems = [
        item.message
        for item in found(examined(), profile=None, problems=("p.yml, line 1: no",))
        if item.severity == PROBLEM
    ]
    assert problems == ["p.yml, line 1: no"]


def test_hosts_come_in_their_order_and_the_worst_first():
    hosts = {name: replace(examined(python="3.8.1", memory_bytes=1), name=name) for name in ("b", "a")}
    got = [
        (item.host, item.severity)
        for item in findings(CONTROLLER, hosts, dict.fromkeys(hosts, PROFILE), ())
        if item.severity != OK
    ]
    assert got == [("b", PROBLEM), ("b", WARNING), ("a", PROBLEM), ("a", WARNING)]


def test_collecting_from_the_results_of_a_run():
    got = collect(
        [
            ("gpu1", "ok", {"settings": SETTINGS, "origins": {}, "way": asdict(SSH), "gateways": {"gw1": asdict(SSH)}}),
            (
                "gpu1",
                "ok",
                {
                    "ansible_facts": {
                        "ansible_python": {"version": {"major": 3, "minor": 11, "micro": 2}},
                    }
                },
            ),
            (
                "gpu1",
                "ok",
                {
                    **REGISTRY,
                    "warnings": ["There is no registry at /x yet", "The folder to scan /srv/registry/y is gone"],
                },
            ),
            ("gpu1", "ok", {"host": HOST.to_dict()}),
            ("gpu2", "unreachable", {"msg": "no\n route"}),
            ("gpu3", "failed", {"msg": "Task failed: Module failed: broken"}),
        ],
    )
    assert got["gpu1"] == examined(
        registry=got["gpu1"].registry,
        warnings=("The folder to scan /srv/registry/y is gone",),
        way=SSH,
        gateways={"gw1": SSH},
    )
    assert got["gpu2"].unreachable == "no route"
    assert got["gpu3"].errors == ("broken",)


def test_each_host_is_examined_with_its_own_profile():
    other, _problems = examine_profile("other", {"enabled_models": ["nothing-there"]})
    hosts = {name: replace(examined(), name=name) for name in ("gpu1", "gpu2")}
    found = findings(CONTROLLER, hosts, {"gpu1": PROFILE, "gpu2": other}, ())
    sound = [item.message for item in found if item.check == "profile"]
    assert sound == [f"profile {PROFILE.name} is sound", "profile other is sound"]
    plans = {item.host: item.message for item in found if item.check == "plan"}
    assert f"profile {PROFILE.name} results in" in plans["gpu1"]
    assert "nothing that profile other enables" in plans["gpu2"]
