"""A server does not serve because of the host's service, library, processor or GPU: the report names the cause, and after
its remedy the next run serves."""

from __future__ import annotations

import pytest

from .conftest import LIMIT, Q2, Q3, Q4, Q41, Fleet, bare

pytestmark = pytest.mark.fleet

FOLDER = "/srv/build"
SOON = (
    "RestartSec=200ms"  # what is wrong at the first start is wrong at the fourth; test_faults.py keeps the unit's pause
)

# Stands for a llama-server that something is wrong with on this host; otherwise it serves like the real one. By the
# instance's variable it tells a service from a call by hand.
PROGRAM = """#!/bin/sh
case "%(mode)s:$1" in
  # Of two products it can't be told which llama-server takes, so the plan names none.
  fell-back:--list-devices)
    printf 'Available devices:\\n  Vulkan0: A (8192 MiB, 8000 MiB free)\\n'
    printf '  Vulkan1: B (8192 MiB, 8000 MiB free)\\n'; exit 0 ;;
  gpu:--list-devices)
    printf 'Available devices:\\n  CUDA0: NVIDIA GeForce RTX 3090 (24268 MiB, 23892 MiB free)\\n'; exit 0 ;;
esac
lost='error while loading shared libraries: libmtmd.so.0: cannot open shared object file: No such file or directory'
case "%(mode)s:$MAGI_INSTANCE" in
  library:* | by-instance:*.q2_k) echo "$0: $lost" >&2; exit 127 ;;
  by-instance:*.q3_k_m) kill -ILL $$ ;;
  fell-back:?*) echo 'ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected' >&2 ;;
esac
exec %(real)s "$@"
"""


def install(fleet: Fleet, mode: str, rights: str = "755") -> str:
    """Install a llama-server of a ``mode`` on host1, in a folder of these ``rights``; return its path."""
    text = PROGRAM % {"mode": mode, "real": fleet.group_vars["model_server_llama_server_path"]}
    path = f"{FOLDER}/llama-server"
    fleet.sh("host1", f"mkdir -p {FOLDER}; cat >{path}; chmod 755 {path}; chmod {rights} {FOLDER}", stdin=text)
    return path


@pytest.fixture(scope="module")
def emptied(fleet: Fleet):
    """A fleet whose host1 has nothing of these tests afterwards."""
    yield fleet
    bare(fleet, "host1")


@pytest.fixture
def one(emptied: Fleet):
    """A fleet whose host1 has nothing yet, with a profile of one model; what fails there is soon started again."""
    bare(emptied, "host1")
    emptied.drop_in("host1", "", SOON)
    emptied.profile("one", Q2)
    yield emptied
    folders = "/etc/systemd/system/magi-llama@*.service.d"
    emptied.sh(
        "host1",
        f"rm -rf {FOLDER} /dev/nvidia0 {folders}/test.conf; rmdir --ignore-fail-on-non-empty {folders}; systemctl daemon-reload",
    )


def failures(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """What failed, why, and what was said."""
    return {item["instance"]: (item["cause"], item["detail"]) for item in fleet.report()["summary"]["failed"]}


def failure(fleet: Fleet) -> tuple[str, str]:
    (failed,) = failures(fleet).values()
    return failed


def test_what_systemd_could_not_set_up_is_said_and_tried_again_once_it_is_mended(one: Fleet):
    cases = {
        Q2: ("BindReadOnlyPaths=/nonexistent", "its sandbox could not be set up (Failed to set up mount namespacing:"),
        Q3: ("SupplementaryGroups=nobody-has-it", "a group that it is to have is missing (Failed to determine"),
        Q4: ("WorkingDirectory=/nonexistent", "its service could not be set up (Changing to the requested working"),
    }
    one.profile("one", *cases)
    paths = [one.drop_in("host1", name, setting, SOON) for name, (setting, _said) in cases.items()]
    assert one.deploy("one", *LIMIT).code != 0
    failed = failures(one)
    assert {name: cause for name, (cause, _detail) in failed.items()} == dict.fromkeys(cases, "service_setup")
    for name, (_setting, said) in cases.items():
        assert said in failed[name][1]
    one.sh("host1", f"rm {' '.join(paths)}; systemctl daemon-reload")
    run = one.deploy("one", *LIMIT)
    assert run.code == 0, run.output
    assert len(one.pids()) == 3


def test_a_gpu_host_without_its_groups_serves(one: Fleet):
    path = install(one, "gpu")
    one.sh("host1", "touch /dev/nvidia0; groupdel render || true")
    one.profile("one", {"model": Q2, "options": {"n_gpu_layers": 0}})  # there is no GPU to compute on
    run = one.deploy("one", *LIMIT, model_server_llama_server_path=path)
    assert run.code == 0, run.output
    assert "SupplementaryGroups=video\n" in one.sh("host1", "cat /etc/systemd/system/magi-llama@.service")
    assert one.report()["summary"]["degraded"] == []


def test_a_server_that_fell_back_to_the_cpu_is_not_ready(one: Fleet):
    one.sh("host1", "touch /dev/nvidia0")
    run = one.deploy("one", *LIMIT, model_server_llama_server_path=install(one, "fell-back"))
    assert run.code != 0
    cause, detail = failure(one)
    assert cause == "not_on_device"
    assert "it computes on the CPU and not on" in detail
    assert "which it did not find at its start (ggml_cuda_init: failed" in detail
    assert one.state("host1", Q2) == "active"
    assert "not_on_device" in one.play("status", *LIMIT).text


def test_a_start_without_its_device_fails_and_says_so(one: Fleet):
    one.sh("host1", "touch /dev/nvidia0")
    assert one.deploy("one", *LIMIT, model_server_llama_server_path=install(one, "gpu")).code != 0
    cause, detail = failure(one)
    assert cause == "device_missing"
    assert "llama-server did not find the device CUDA0 at its start" in detail


def test_each_server_that_ends_says_why(one: Fleet):
    """Also where llama-server ends as a service alone: called by hand, it lists its devices."""
    cases = {
        Q2: ("library_missing", "does not find the library libmtmd.so.0; install it"),
        Q3: ("illegal_instruction", "was built for another processor than this host's"),
        Q4: ("out_of_memory", "its own limit, memory_max 20M; raise that"),
        Q41: (
            "address_unavailable",
            "it can't listen on 0.0.0.0, port 80 (only root may bind ports below 1024); correct",
        ),
    }
    one.profile("one", Q2, Q3, {"model": Q4, "resources": {"memory_max": "20M"}}, {"model": Q41, "port": 80})
    assert one.deploy("one", *LIMIT, model_server_llama_server_path=install(one, "by-instance")).code != 0
    failed = failures(one)
    assert {name: cause for name, (cause, _detail) in failed.items()} == {
        name: cause for name, (cause, _) in cases.items()
    }
    for name, (_cause, said) in cases.items():
        assert said in failed[name][1]


@pytest.mark.parametrize(
    ("mode", "rights", "said"),
    [
        (
            "library",
            "755",
            f"llama-server at {FOLDER}/llama-server: llama-server does not find the library libmtmd.so.0",
        ),
        ("gpu", "700", f"may not execute {FOLDER}/llama-server, since {FOLDER} is drwx------: chmod o+x {FOLDER}"),
    ],
)
def test_a_llama_server_that_no_service_could_run_is_refused_before_anything_changes(
    one: Fleet, mode: str, rights: str, said: str
):
    run = one.deploy("one", *LIMIT)
    assert run.code == 0, run.output
    before = one.snapshot("host1"), one.pids()
    run = one.deploy("one", *LIMIT, model_server_llama_server_path=install(one, mode, rights))
    assert run.code != 0
    assert said in run.text
    assert (one.snapshot("host1"), one.state("host1", Q2)) == (before[0], "active")


def test_an_address_that_the_host_does_not_have_is_no_taken_port(one: Fleet):
    assert one.deploy("one", *LIMIT, model_server_host="192.0.2.1").code != 0
    cause, detail = failure(one)
    assert cause == "address_unavailable"
    assert "it can't listen on 192.0.2.1, port 8080 (Cannot assign requested address)" in detail
