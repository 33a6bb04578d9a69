from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._services import containers
from ansible_collections.magi.models.plugins.module_utils._services import manager as manager_module
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen, others
from ansible_collections.magi.models.plugins.module_utils._services.containers import (
    Docker,
    Podman,
    create_arguments,
    gpu_options,
    in_file,
    last_run,
    last_sentence,
    limits,
    mount,
    named_files,
    parse_status,
    publications,
    shown,
)
from ansible_collections.magi.models.plugins.module_utils._services.manager import environment_value
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError, Status
from ansible_collections.magi.models.plugins.plugin_utils._ansible.templates import plain_environment

TEMPLATES = Path(__file__).parents[5] / "roles" / "model_server" / "templates"
IMAGE = "registry.example:5000/llama.cpp:server-b1"
ENVIRONMENT = {
    "LLAMA_ARG_MODEL": "/models/a.gguf",
    "LLAMA_ARG_HOST": "127.0.0.1",
    "LLAMA_ARG_PORT": "8080",
    "MAGI_CONFIG_HASH": "0123456789abcdef",
}


class FakePlan:
    home = "/etc/magi"
    llama_server_path = IMAGE


class FakeInstance:
    name = "a"
    extra_args = ()

    def __init__(self, **environment):
        self.environment = {**ENVIRONMENT, **environment}


def rendered(source: str, instance: FakeInstance, manager=Docker) -> str:
    environment = plain_environment([str(TEMPLATES)])
    environment.filters.update(manager.filters)
    values = manager(Path("/etc/magi")).values()
    return environment.get_template(source).render(plan=FakePlan(), instance=instance, home="/etc/magi", **values)


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("", True),
        ("plain", True),
        ("two words, 50% a=b:c/d@e+f-g_h.i", True),
        (" begins with a space", False),
        ("ends with one ", False),
        ('"quoted"', False),
        ("it's", False),
        ("a #comment", False),
        ("$HOME", False),
        ("back\\slash", False),
        ("new\nline", False),
        ("tab\there", False),
        ("é", False),
        ("{{ 7 * 7 }}", False),
        ("x" * 60000, False),
    ],
)
def test_what_a_file_of_variables_may_hold(value, fits):
    assert in_file("NAME", value) is fits


def test_each_variable_comes_once_from_the_file_or_by_name():
    hostile = {"LLAMA_ARG_ALIAS": 'a "b" {{ x }}', "MAGI_DISPLAY_NAME": "é\n[Service]", "LLAMA_ARG_CTX_SIZE": "512"}
    instance = FakeInstance(**hostile)
    lines = [line for line in rendered("container.env.j2", instance).splitlines() if not line.startswith("#")]
    in_it = dict(line.split("=", 1) for line in lines)
    given = shlex.split(rendered("container.args.j2", instance), comments=True)
    by_name = {word[6:] for word in given if word.startswith("--env=") and "=" not in word[6:]}
    assert in_it == {**ENVIRONMENT, "LLAMA_ARG_CTX_SIZE": "512"}
    assert by_name == {"LLAMA_ARG_ALIAS", "MAGI_DISPLAY_NAME"}


@pytest.mark.parametrize("manager", [Docker, Podman])
def test_a_container_is_created_hardened_with_our_labels_and_the_server_s_arguments_last(manager):
    instance = FakeInstance()
    instance.extra_args = ("--x", "it's $5 100% #x", "#y", "-z")
    given = shlex.split(rendered("container.args.j2", instance, manager), comments=True)
    assert given == create_arguments(manager.name, "/etc/magi", IMAGE, "a", ENVIRONMENT, instance.extra_args)
    options = given[: given.index(IMAGE)]
    assert given[len(options) :] == [IMAGE, "--host", "0.0.0.0", *instance.extra_args]
    assert all(option.startswith("--") for option in options)
    for wanted in (
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pids-limit=4096",
        "--user=65534:65534",
        "--restart=on-failure:3",
        "--stop-signal=SIGKILL",
        "--pull=never",
        "--label=magi.home=/etc/magi",
        "--label=magi.instance=a",
        "--label=magi.config_hash=0123456789abcdef",
        f"--env-file=/etc/magi/{manager.name}/a.env",
        "--publish=127.0.0.1:8080:8080",
    ):
        assert wanted in options
    assert not any("memlock" in option or "/models" in option for option in options)


def test_a_variable_of_a_user_never_changes_the_engine_s_own_command():
    odd = {"PATH": "/a'b", "DOCKER_HOST": "tcp://x #", "LLAMA_ARG_ALIAS": "a b'", "MY_API_KEY": "canary'"}
    given = shlex.split(rendered("container.args.j2", FakeInstance(**odd)), comments=True)
    wanted = {"--env=PATH=/a'b", "--env=DOCKER_HOST=tcp://x #", "--env=LLAMA_ARG_ALIAS", "--env=MY_API_KEY"}
    assert wanted <= {*given}
    assert containers.carried(odd).keys() == {"LLAMA_ARG_ALIAS", "MY_API_KEY"}


def test_memory_is_locked_only_where_that_is_asked_for():
    given = create_arguments("docker", "/m", IMAGE, "a", {**ENVIRONMENT, "LLAMA_ARG_LOAD_MODE": "mmap+mlock"})
    assert "--ulimit=memlock=-1" in given


def test_two_home_folders_have_containers_of_their_own():
    names = {create_arguments("docker", home, IMAGE, "a", ENVIRONMENT)[0] for home in ("/m", "/n")}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("address", "published"),
    [
        ("127.0.0.1", ["127.0.0.1:80:80"]),
        ("localhost", ["127.0.0.1:80:80"]),
        ("::1", ["[::1]:80:80"]),
        ("localhost,127.0.0.1", ["127.0.0.1:80:80"]),
        ("127.0.0.1,0.0.0.0,::1", ["0.0.0.0:80:80", "[::1]:80:80"]),
        ("fe80::1%eth0", None),
        ("127.0.0.1, 10.0.0.1", ["127.0.0.1:80:80", "10.0.0.1:80:80"]),
        ("gpu1.example", None),
        ("/run/a.sock", None),
    ],
)
def test_a_port_is_published_at_addresses_alone(address, published):
    if published is not None:
        assert publications(address, 80) == published
    else:
        with pytest.raises(ValueError, match="correct model_server_host"):
            publications(address, 80)


@pytest.mark.parametrize(
    ("resources", "options"),
    [
        ("", []),
        ("memory_max=4G", ["--memory=4g"]),
        ("memory_max=50%", ["--memory=500"]),
        ("memory_max=1000000000", ["--memory=1000000000"]),
        ("cpu_quota=150%", ["--cpus=1.5"]),
        ("cpu_quota=1600%", ["--cpus=8"]),
        ("nice=0", ["--cpu-shares=1024"]),
        ("nice=5", ["--cpu-shares=336"]),  # sched_prio_to_weight has 335
        ("nice=19", ["--cpu-shares=15"]),
        ("cpu_quota=50% memory_max=2M nice=-20", ["--cpus=0.5", "--memory=2m", "--cpu-shares=88818"]),
    ],
)
def test_limits_in_the_engines_words(resources, options):
    assert limits(resources, 1000, 8) == options


@pytest.mark.parametrize("path", ["/models", "/my models", "/a,b", '/say "hi"', "/a=b:c", "/é\n"])
def test_a_mount_is_read_back_as_csv(path):
    """Both engines read it as CSV (docker/cli opts/mount.go)."""
    (fields,) = csv.reader([mount(path, "/b,c").removeprefix("--mount=")])
    assert fields == ["type=bind", f"source={path}", "target=/b,c", "readonly"]


def test_the_files_that_options_name():
    environment = {
        "LLAMA_ARG_MODEL": "/models/a, b.gguf",
        "LLAMA_ARG_CTX_SIZE": "512",
        "LLAMA_ARG_API_KEY_FILE": containers.KEYS,
        "MAGI_HOME": "/etc/magi",
        "LLAMA_ARG_HOST": "127.0.0.1",
    }
    assert "/models/a\nb.gguf" in named_files({"LLAMA_ARG_MODEL": "/models/a\nb.gguf"}, ())
    found = named_files(environment, ["--lora-scaled", '/l/x.gguf:0.5,"/l/y,z.gguf:1",/l/w', "--grammar-file", "/g,/h"])
    assert {"/models/a, b.gguf", "/l/x.gguf", "/l/y,z.gguf", "/l/w", "/g,/h"} <= {*found}
    assert not {containers.KEYS, "/etc/magi", "/models", "/l", "/g", "/h"} & {*found}


@pytest.mark.parametrize("name", ["a,/root/sec/id_rsa", "a,/root/sec/id_rsa:0.gguf", "/root/sec/id_rsa:0.gguf"])
def test_a_model_s_name_names_no_other_file(name):
    for variable in ("LLAMA_ARG_MODEL", "LLAMA_ARG_MMPROJ", "LLAMA_ARG_CHAT_TEMPLATE_FILE"):
        assert named_files({variable: f"/models/{name}"}, ()) == [f"/models/{name}"]
    assert named_files({}, ["--model-draft", f"/models/{name}"]) == [f"/models/{name}"]


def test_a_container_sees_the_folder_of_a_model_and_no_more(tmp_path):
    for path in (
        "models/a.gguf",
        "models/deep/b.gguf",
        "store/blob",
        "store/secret",
        "etc/template.jinja",
        "etc/other",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "c.gguf").symlink_to("../store/blob")
    (tmp_path / "links" / "d.gguf").symlink_to("down/b.gguf")
    (tmp_path / "links" / "down").symlink_to("../models/deep")
    (tmp_path / "place").symlink_to("models")
    (tmp_path / "models" / "BIG.GGUF").touch()
    for number in range(1, 4):
        (tmp_path / f"store{number}").mkdir()
        (tmp_path / f"store{number}" / "x").touch()
        (tmp_path / "links" / f"e-0000{number}-of-00003.gguf").symlink_to(f"../store{number}/x")
    m = str(tmp_path)

    def seen(*paths: str) -> list[tuple[str, str]]:
        return [(here.removeprefix(m), there.removeprefix(m)) for here, there in shown([m + path for path in paths])]

    assert seen("/models/a.gguf") == [("/models", "/models")]
    assert seen("/models/a.gguf", "/models/deep/b.gguf") == [("/models", "/models")]
    assert seen("/etc/template.jinja") == [("/etc/template.jinja", "/etc/template.jinja")]
    assert seen("/links/c.gguf") == [("/links", "/links"), ("/store", "/store")]
    assert seen("/place/a.gguf") == [("/place", "/place")]
    assert seen("/models", "/none.gguf") == []
    assert seen("/models/BIG.GGUF") == [("/models", "/models")]
    assert seen("/links/d.gguf") == [("/links", "/links"), ("/links/down", "/links/down")]
    stores = [(f"/store{number}", f"/store{number}") for number in (1, 2, 3)]
    assert seen("/links/e-00001-of-00003.gguf") == [("/links", "/links"), *stores]


@pytest.mark.parametrize(
    ("engine", "nodes", "options"),
    [
        ("docker", [], []),
        ("docker", ["/dev/nvidia0", "/dev/nvidia1"], ["--gpus=all"]),
        ("podman", ["/dev/nvidia0"], ["--device=nvidia.com/gpu=all"]),
        (
            "docker",
            ["/dev/kfd", "/dev/dri/renderD128"],
            ["--device=/dev/kfd", "--device=/dev/dri/renderD128", "--group-add=44", "--group-add=105"],
        ),
    ],
)
def test_a_container_gets_the_host_s_gpus(engine, nodes, options):
    assert gpu_options(engine, nodes, [105, 44, 105] if nodes else []) == options


def test_a_rootless_podman_takes_its_user_s_groups_along():
    found = gpu_options("podman", ["/dev/kfd"], [44, 105], rootless=True)
    assert found == ["--device=/dev/kfd", "--group-add=keep-groups"]
    assert gpu_options("podman", [], [], rootless=True) == []


def container(status="running", code=0, restarts=(0, 0), **more):
    state = {"Status": status, "ExitCode": code, "Pid": 7 if status == "running" else 0, **more}
    state.setdefault("StartedAt", "2026-11-26T15:30:56.836660037Z")
    labels = {"magi.instance": "a"}
    return {
        "State": state,
        "Config": {"Labels": labels, "Env": ["A=b=c", "MAGI_CONFIG_HASH=h"]},
        "RestartCount": restarts[0],
        "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": restarts[1]}},
    }


BEGUN = 1795707056.83666
ENDED = "2026-11-26T15:31:00Z"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (container(), (State.RUNNING, 7, BEGUN, None)),
        (container("paused", Pid=7), (State.RUNNING, 7, BEGUN, None)),
        (container("restarting", 1), (State.BACKOFF, None, BEGUN, "exit status 1")),
        (container("exited", 1), (State.FAILED, None, BEGUN, "exit status 1")),
        (container("exited", 137), (State.FAILED, None, BEGUN, "terminated by SIGKILL")),
        (container("exited", 137, OOMKilled=True), (State.FAILED, None, BEGUN, "oom-kill, exit status 137")),
        (container("exited", 132), (State.FAILED, None, BEGUN, "terminated by SIGILL")),
        # podman, between two starts, after the last, and after a reboot
        (container("exited", 1, (2, 3), FinishedAt=ENDED), (State.BACKOFF, None, BEGUN, "exit status 1")),
        (container("stopped", 1, (3, 3), FinishedAt=ENDED), (State.FAILED, None, BEGUN, "exit status 1")),
        (container("exited", 1, (0, 3)), (State.FAILED, None, BEGUN, "exit status 1")),
        # at boot: a mount is missing
        (
            container("exited", 128, (0, 3), FinishedAt=ENDED, Error="no such\ndevice"),
            (State.FAILED, None, BEGUN, "not started: no such device"),
        ),
        (container("exited", 0), (State.STOPPED, None, BEGUN, None)),
        (container("created", 128, StartedAt="0001-01-01T00:00:00Z"), (State.STOPPED, None, None, None)),
        (container("running", StartedAt="2026-11-26T17:30:56.83666+02:00"), (State.RUNNING, 7, BEGUN, None)),
    ],
)
def test_status_is_read_from_inspect(said, status):
    found = parse_status(json.dumps([said]), BEGUN + 5)
    environment = {"A": "b=c", "MAGI_CONFIG_HASH": "h"}
    assert found == {"a": Status(*status[:2], pytest.approx(status[2]) if status[2] else None, status[3], environment)}


def test_a_container_that_asks_for_options_is_no_instance():
    asking = container()
    asking["Config"]["Labels"] = {"magi.home": "/m"}
    assert parse_status(json.dumps([asking]), 0) == {}
    assert parse_status("", 0) == {}


@pytest.mark.parametrize(
    ("begun", "ended", "since"),
    [
        ("2026-11-26T15:30:56.5Z", "0001-01-01T00:00:00Z", 0),
        ("2026-11-26T15:30:56.5Z", "2026-11-26T15:30:55.25Z", 1795707055.25),
        ("2026-11-26T15:30:56.5Z", "2026-11-26T15:30:57Z", 1795707056.25),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", 0),
    ],
)
def test_a_log_is_that_of_the_last_run(begun, ended, since):
    assert last_run({"StartedAt": begun, "FinishedAt": ended}) == since


def test_what_an_engine_says_is_one_line():
    said = "Unable to find image\ndocker: Error response from daemon: no such image.\nSee 'docker run --help'.\n"
    assert last_sentence(said) == "Unable to find image docker: Error response from daemon: no such image"
    said = 'time="2026" level=warning msg="Failed, retrying in 1s"\nError: first\nError: initializing source x.\n'
    assert last_sentence(said) == "Error: initializing source x"
    assert last_sentence("") == "it said nothing"


FAKE = """#!/bin/sh
# FakeDocker: keeps what it is asked, and says what it is told to.
{ for word; do printf '%s\\n' "$word"; done; echo; } >>"$FAKE/asked"
env >"$FAKE/environment"
test ! -e "$FAKE/fails-$1" || { cat "$FAKE/fails-$1" >&2; exit 1; }
test ! -e "$FAKE/says-$1" || cat "$FAKE/says-$1"
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A folder with a FakeDocker; it is the only docker in the PATH."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "docker").write_text(FAKE)
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    return folder


def asked(engine: Path) -> list[list[str]]:
    return [block.split("\n") for block in (engine / "asked").read_bytes().decode().split("\n\n") if block]


@pytest.fixture
def home(tmp_path):
    """A home folder with one instance, its keys and its model."""
    home = tmp_path / "home"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").touch()
    (tmp_path / "keys").write_text("secret\n")
    values = {
        **ENVIRONMENT,
        "LLAMA_ARG_MODEL": f"{tmp_path}/models/a.gguf",
        "MAGI_DISPLAY_NAME": "it's\nodd",
        "MAGI_API_KEY_FILE": f"{tmp_path}/keys",
        "MAGI_RESOURCES": "memory_max=2G",
    }
    for folder in ("instances", "docker"):
        (home / folder).mkdir(parents=True)
    text = "".join(f"{key}={environment_value(value)}\n" for key, value in values.items())
    (home / "instances" / "a.env").write_text(text)
    (home / "docker" / "a.env").touch()
    (home / "docker" / "a.args").write_bytes(f"# ours\n--read-only\n'é\r'\n{IMAGE}\n--host\n0.0.0.0\n".encode())
    return home


def test_a_start_adds_what_only_the_host_knows_and_shows_no_secret(engine, home, tmp_path):
    assert Docker(home).start(["a"]) == {}
    command = next(words for words in asked(engine) if words[0] == "run")
    keys = home / "docker" / "keys" / "a"
    assert command[:2] == ["run", "--detach"]
    assert command[-5:] == ["--read-only", "é\r", IMAGE, "--host", "0.0.0.0"]
    assert {*command[2:-5]} == {
        mount(f"{tmp_path}/models", f"{tmp_path}/models"),
        mount(str(keys), containers.KEYS),
        "--memory=2g",
    }
    assert not any("ulimit" in word for word in command)
    assert "MAGI_DISPLAY_NAME=it's\nodd\n" in (engine / "environment").read_text()
    assert (keys.read_text(), keys.parent.stat().st_mode & 0o777) == ("secret\n", 0o700)
    assert "secret" not in (engine / "asked").read_text()


@pytest.mark.parametrize(
    ("soft", "hard", "given"),
    [
        (1024, 20000, {"nofile=1024:20000", "nproc=1024:20000"}),
        (1024, -1, {"nofile=1024:1048576", "nproc=1024:32768"}),
        (-1, -1, {"nofile=1048576:1048576", "nproc=32768:32768"}),
        (40000, 96365, {"nofile=40000:96365", "nproc=32768:32768"}),
    ],
)
def test_podman_keeps_its_own_limits_of_processes_beside_ours(engine, home, monkeypatch, tmp_path, soft, hard, given):
    (engine / "docker").rename(engine / "podman")
    (home / "docker").rename(home / "podman")
    monkeypatch.setattr(containers.resource, "getrlimit", lambda _number: (soft, hard))
    monkeypatch.setattr(containers, "PID_MAX", tmp_path / "pid_max")
    (tmp_path / "pid_max").write_text("32768\n")
    assert Podman(home).start(["a"]) == {}
    command = next(words for words in asked(engine) if words[0] == "run")
    assert {f"--ulimit={limit}" for limit in given} <= {*command}
    assert "--ulimit=core=0" in containers.HARDENED
    assert "--ulimit=host" not in {*command, *create_arguments("podman", "/m", IMAGE, "a", ENVIRONMENT)}


def test_what_the_engine_refuses_is_said_and_keeps_no_other_from_starting(engine, home):
    (engine / "fails-run").write_text("docker: Error response from daemon: port is already allocated.\n")
    said = Docker(home).start(["a"])
    assert said == {"a": "docker run: docker: Error response from daemon: port is already allocated."}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("models", "mount that folder of the machine into it at the same path"), ("gone", "docker run: docker: Error")],
)
def test_a_folder_that_only_we_see_tells_that_this_is_a_container(engine, home, tmp_path, name, expected):
    said = f'invalid mount config for type "bind": bind source path does not exist: {tmp_path}/{name}.'
    (engine / "fails-run").write_text(f"docker: Error response from daemon: {said}\n")
    assert expected in Docker(home).start(["a"])["a"]


def test_a_server_may_end_by_itself_before_its_container_is_removed(engine, home):
    Docker(home).stop("a")
    assert [words[0] for words in asked(engine)] == ["kill", "wait", "rm"]
    assert asked(engine)[0][1:-1] == ["--signal=TERM"]


def test_one_that_takes_too_long_is_killed(engine, home, monkeypatch):
    monkeypatch.setattr(containers, "STOP_GRACE", 0.01)
    (engine / "docker").write_text(FAKE + 'test "$1" != wait || exec sleep 60\n')
    Docker(home).stop("a")
    assert [words[0] for words in asked(engine)] == ["kill", "wait", "rm"]


def test_a_container_that_is_gone_is_stopped(engine, home):
    for verb in ("kill", "rm"):
        (engine / f"fails-{verb}").write_text("Error response from daemon: No such container: magi-x\n")
    Docker(home).stop("a")
    assert [words[0] for words in asked(engine)] == ["kill", "rm"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "systemctl start docker"),
        ("failed to connect to the docker API at unix:///var/run/docker.sock", "systemctl start docker"),
        ("permission denied while trying to connect to the Docker daemon socket", "as a user who may use it"),
        ("what now?", "docker ps: what now?."),
    ],
)
def test_an_engine_that_does_not_answer_is_one_sentence(engine, home, said, expected):
    (engine / "fails-ps").write_text(said)
    with pytest.raises(ServiceError, match=expected.replace("?", "\\?")):
        Docker(home).status()


def test_an_engine_that_hangs_is_one_sentence(engine, home, monkeypatch):
    monkeypatch.setattr(containers, "ANSWER", 0.01)
    (engine / "docker").write_text(f"{FAKE}exec sleep 60\n")
    with pytest.raises(ServiceError, match=r"docker ps does not end within 0.01 s: .*restart it, and run again\.$"):
        Docker(home).status()
    assert "docker kill does not end" in Docker(home).start(["a"])["a"]


def test_containers_of_which_the_engine_says_nothing_do_not_look_stopped(engine, home):
    (engine / "says-ps").write_text("0123\n4567\n")
    (engine / "fails-inspect").write_text("Error response from daemon: i/o timeout")
    with pytest.raises(ServiceError, match="docker inspect: Error response from daemon: i/o timeout"):
        Docker(home).status()
    (engine / "fails-inspect").write_text("Error: No such container: 0123")  # both have gone in between
    assert Docker(home).status() == {"a": Status(State.STOPPED)}


def test_a_log_that_does_not_come_is_given_up(engine, home, monkeypatch):
    monkeypatch.setattr(containers, "ANSWER", 1)
    (engine / "says-inspect").write_text("{}")
    (engine / "docker").write_text(f'{FAKE}test "$1" != logs || {{ echo first; exec sleep 60; }}\n')
    assert Docker(home).beginning("a", 9) == ["first"]


@pytest.mark.parametrize(("manager", "tail"), [(Docker, ["--tail=2"]), (Podman, [])])
def test_a_log_ends_with_its_last_lines(engine, home, manager, tail):
    """podman logs --tail turns round the parts of a line that was written in several."""
    if manager is Podman:
        (engine / "docker").rename(engine / "podman")
    (engine / "says-inspect").write_text("{}")
    (engine / "says-logs").write_text("1\n2\n3\n")
    assert manager(home).logs("a", 2) == ["2", "3"]
    assert [word for word in asked(engine)[-1] if "tail" in word] == tail
    assert manager(home).logs("a", 0) == []


def test_a_host_without_the_engine_is_told_so(home, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ServiceError, match=r"there is no podman on the host; install it"):
        Podman(home).status()


def test_an_engine_that_is_not_installed_any_more_has_left_files_alone(home, monkeypatch):
    (home / "docker" / "pulled").write_text(f"{IMAGE}\n")
    monkeypatch.setenv("PATH", "/nowhere")
    (left,) = others(chosen("supervisor", str(home)), str(home))
    assert {name: item.state for name, item in left.status().items()} == {"a": State.STOPPED}
    left.stop("a")
    left.forget("a")
    left.remove()
    assert [*home.rglob("*")] == []


def test_an_image_is_pulled_once_and_goes_at_teardown(engine, home):
    manager = Docker(home)
    (engine / "fails-pull").write_text("Error response from daemon: manifest unknown")
    with pytest.raises(ServiceError, match=rf"can't pull the image {IMAGE} .*manifest unknown.*model_server_image"):
        manager.fetch(IMAGE)
    assert not (home / "docker" / "pulled").exists()
    (engine / "fails-pull").unlink()
    manager.fetch(IMAGE)
    assert (home / "docker" / "pulled").read_text() == f"{IMAGE}\n"
    (engine / "says-image").write_text("sha256:1\n")
    before = len(asked(engine))
    manager.fetch(IMAGE)
    assert [words[0] for words in asked(engine)[before:]] == ["image"]
    assert manager.identity(IMAGE) == "sha256:1"
    manager.remove()
    assert ["image", "rm", IMAGE] in asked(engine)
    assert not home.exists() or [*home.rglob("*")] == []


def test_images_that_no_remembered_deployment_needs_go(engine, home):
    manager = Docker(home)
    pulled = home / "docker" / "pulled"
    for image in ("x:1", "x:2", "x:3", "x:2"):
        manager.fetch(image)
    manager.tidy({"x:3", "x:2"})
    assert pulled.read_text() == "x:2\nx:3\n"
    (engine / "fails-image").write_text("Error response from daemon: conflict: image is being used by container 1")
    manager.tidy({"x:3"})
    assert pulled.read_text() == "x:2\nx:3\n"
    (engine / "fails-image").write_text("Error response from daemon: No such image: x:2")
    before = len(asked(engine))
    manager.tidy({"x:3"})
    assert (pulled.read_text(), asked(engine)[before:]) == ("x:3\n", [["image", "rm", "x:2"]])


def test_an_image_that_is_not_there_is_named(engine, home):
    (engine / "fails-image").write_text(f"Error: No such image: {IMAGE}")
    with pytest.raises(ServiceError, match=f"the image {IMAGE} is not on the host"):
        Docker(home).identity(IMAGE)


@pytest.fixture
def no_gpus(monkeypatch):
    monkeypatch.setattr(containers, "gpus", lambda: ())


def test_llama_server_is_asked_as_its_servers_run_without_a_network(engine, home, no_gpus):
    (engine / "says-run").write_text("version: 1\n")
    variables = {"LLAMA_ARG_X": "b c", "PATH": "/none", "DOCKER_HOST": "tcp://x", "HF_TOKEN": "canary"}
    assert Docker(home).ask(IMAGE, ["--help"], variables).stdout == b"version: 1\n"
    (command,) = asked(engine)
    assert command[-2:] == [IMAGE, "--help"]
    wanted = {"--env=LLAMA_ARG_X", "--env=PATH=/none", "--env=DOCKER_HOST=tcp://x", "--env=HF_TOKEN"}
    assert {"--network=none", "--rm", *wanted, *containers.HARDENED} <= {*command}
    environment = (engine / "environment").read_text()
    assert "LLAMA_ARG_X=b c\n" in environment
    assert "DOCKER_HOST" not in environment
    assert "canary" not in (engine / "asked").read_text()


def test_a_trial_sees_the_files_that_its_options_name(engine, home, no_gpus, tmp_path):
    (tmp_path / "chat.jinja").touch()
    Docker(home).ask(IMAGE, ["--lora", f"{tmp_path}/models/a.gguf"], {"LLAMA_ARG_X_FILE": f"{tmp_path}/chat.jinja"})
    (command,) = asked(engine)
    assert mount(f"{tmp_path}/chat.jinja", f"{tmp_path}/chat.jinja") in command
    assert mount(f"{tmp_path}/models", f"{tmp_path}/models") in command


@pytest.mark.parametrize("gpu", [False, True])
def test_a_question_without_an_answer_leaves_no_container(engine, home, monkeypatch, gpu):
    def late(command, _environment):
        raise subprocess.TimeoutExpired(command, manager_module.ASKING)

    monkeypatch.setattr(containers, "gpus", lambda: (os.devnull,) if gpu else ())
    monkeypatch.setattr(containers, "asked", late)
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        Docker(home).ask(IMAGE, ["--help"], {})
    (name,) = (word for word in caught.value.cmd if word.startswith("--name="))
    assert asked(engine) == [["rm", "--force", "--volumes", name[7:]]]


@pytest.mark.parametrize(
    ("code", "without", "options"),
    [
        (0, 0, ["--gpus=all"]),
        (1, 1, ["--gpus=all"]),  # the image's llama-server fails
        (125, 0, []),
        (127, 0, []),  # the runtime's hook for GPUs fails
        (127, 127, ["--gpus=all"]),  # the image has no llama-server
    ],
)
def test_an_engine_that_can_not_hand_over_a_gpu_is_asked_without(engine, home, monkeypatch, code, without, options):
    monkeypatch.setattr(containers, "gpus", lambda: (os.devnull,))
    monkeypatch.setattr(containers, "gpu_options", lambda *_, **_more: ["--gpus=all"])
    (engine / "docker").write_text(f'{FAKE}case "$*" in *--gpus=all*) exit {code};; *) exit {without};; esac\n')
    Docker(home).ask(IMAGE, [], {})
    assert [word for word in asked(engine)[-1] if word == "--gpus=all"] == options


def test_a_rootless_podman_whose_containers_would_end_is_refused_before_anything_ends(
    engine, home, monkeypatch, tmp_path
):
    (engine / "docker").rename(engine / "podman")
    (engine / "says-image").write_text("sha256:1\n")
    user = containers.pwd.getpwuid(os.geteuid())
    monkeypatch.setattr(containers.pwd, "getpwuid", lambda _uid: user)
    monkeypatch.setattr(containers, "BOOTED", tmp_path)
    monkeypatch.setattr(containers, "LINGERS", tmp_path / "linger")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for act in (Podman(home).prepare, lambda: Podman(home).identity(IMAGE)):
        with pytest.raises(ServiceError, match=f"run loginctl enable-linger {user.pw_name} on the host as root"):
            act()
    Podman(home).status()  # what runs is told all the same
    (tmp_path / "linger").mkdir()
    (tmp_path / "linger" / user.pw_name).touch()
    Podman(home).prepare()
    assert Podman(home).identity(IMAGE) == "sha256:1"


def boot_unit(home: str, *folders: str) -> str:
    values = {"home": home, "model_folders": folders}
    return (
        plain_environment([str(TEMPLATES)])
        .get_template("podman-boot.service.j2")
        .render(**values, **Podman(Path(home)).values())
    )


def test_at_boot_systemd_starts_the_containers_of_one_home_folder():
    home = """/a b/100%n/$HOME/it's "x" \\n"""
    lines = boot_unit(home, "/models", "/m 2").splitlines()
    (command,) = (line for line in lines if line.startswith("ExecStart="))
    # What systemd makes of it (systemd.service(5)): words as in a shell, then specifiers and variables.
    words = shlex.split(command.removeprefix("ExecStart="))
    filtered = words.pop().replace("%%", "%").replace("$$", "$")
    assert [*words, filtered] == ["podman", "start", "--all", "--filter", f"label=magi.home={home}"]
    assert {'RequiresMountsFor="/models"', 'RequiresMountsFor="/m 2"', "KillMode=process"} <= {*lines}
    label = f"--label={filtered.removeprefix('label=')}"
    assert label in create_arguments("podman", home, IMAGE, "a", ENVIRONMENT)


@pytest.fixture
def booted(engine, home, monkeypatch, tmp_path):
    """Podman on a machine that systemd runs, with the unit for its boot in the home folder."""
    (engine / "docker").rename(engine / "podman")
    (home / "docker").rename(home / "podman")
    (home / "podman" / "boot.service").write_text("[Unit]\n")
    for name in ("BOOTED", "UNITS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(containers, name, tmp_path / name)
    return Podman(home)


def test_the_unit_for_the_boot_lies_where_systemd_looks_until_teardown(booted, home, tmp_path):
    booted.prepare()
    booted.prepare()  # each deployment does
    (unit,) = (tmp_path / "UNITS").glob("*.service")
    (wanted,) = (tmp_path / "UNITS" / "default.target.wants").iterdir()
    assert (unit.name, unit.read_text()) == (wanted.name, "[Unit]\n")
    assert wanted.samefile(unit)
    other = Podman(tmp_path / "other")
    assert unit.name not in {path.name for path in other._units()}
    other.remove()
    assert wanted.exists()
    booted.remove()
    assert [*(tmp_path / "UNITS").iterdir()] == []
    assert not (home / "podman").exists()


def test_a_user_s_own_systemd_starts_its_containers_at_boot(booted, monkeypatch, tmp_path):
    user = containers.pwd.struct_passwd(("u", "x", 1000, 1000, "", str(tmp_path / "home-of-u"), "/bin/sh"))
    monkeypatch.setattr(containers.pwd, "getpwuid", lambda _uid: user)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(containers, "LINGERS", tmp_path)
    (tmp_path / "u").touch()
    booted.prepare()
    folder = tmp_path / "home-of-u" / ".config" / "systemd" / "user"
    (wanted,) = (folder / "default.target.wants").iterdir()
    assert wanted.read_text() == "[Unit]\n"
    assert [*(tmp_path / "UNITS").iterdir()] == []
    booted.remove()
    assert [*folder.iterdir()] == []


def test_where_systemd_does_not_run_or_no_unit_is_wanted_none_is_put_there(booted, home, monkeypatch, tmp_path):
    (home / "podman" / "boot.service").unlink()
    booted.prepare()
    (home / "podman" / "boot.service").touch()
    monkeypatch.setattr(containers, "BOOTED", tmp_path / "none")
    booted.prepare()
    assert [*(tmp_path / "UNITS").iterdir()] == []


def test_the_servers_user_needs_the_bits_for_others_of_what_it_sees(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a.gguf").touch(0o644)
    tmp_path.chmod(0o700)  # made anew in the container
    manager = Docker(tmp_path)
    assert manager.obstacle(folder / "a.gguf", ()) is None
    (folder / "a.gguf").chmod(0o640)
    assert manager.obstacle(folder / "a.gguf", ()) == (f"{folder}/a.gguf", "-rw-r-----")
    folder.chmod(0o700)
    assert manager.obstacle(folder / "a.gguf", ()) == (str(folder), "drwx------")
    assert manager.obstacle(Path("image:1"), (), program=True) is None


@pytest.mark.parametrize(
    ("folder", "covers"),
    [
        *((folder, True) for folder in ("/tmp", "/app", "/etc", "/usr/lib/x86_64-linux-gnu", "/proc/1/root", "/opt")),
        *((folder, False) for folder in ("/", "/models", "/tmp/models", "/app/models", "/usr/share/models", "/opt/m")),
    ],
)
def test_a_model_must_not_lie_in_a_folder_of_the_image(monkeypatch, folder, covers):
    path = Path(folder, "a.gguf")
    monkeypatch.setattr(containers, "steps", lambda _path: [(Path(os.devnull), path)])
    found = Docker(Path("/m")).obstacle(path, ())
    assert found == ((folder, "covered") if covers else None)
