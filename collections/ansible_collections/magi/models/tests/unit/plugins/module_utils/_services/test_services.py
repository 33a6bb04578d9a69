from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pytest
from ansible_collections.magi.models.plugins.module_utils._base.managers import (
    CHOICES,
    ENGINES,
    MANAGERS,
    SERVER_CHOICES,
)
from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._haproxy.options import HEALTH_FROM
from ansible_collections.magi.models.plugins.module_utils._install.backend import BACKENDS
from ansible_collections.magi.models.plugins.module_utils._llama.cause import find_cause
from ansible_collections.magi.models.plugins.module_utils._services import choice, supervisor, systemd
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen
from ansible_collections.magi.models.plugins.module_utils._services.manager import (
    ServiceManager,
    environment_value,
    tail,
)
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError, Status

TEMPLATES = Path(__file__).parents[5] / "roles" / "model_server" / "templates"

HOSTILE = [
    "plain",
    "two words",
    'it\'s "quoted"',
    "back\\slash\\",
    "$HOME ${HOME} `id` $(id)",
    "%n %i %(here)s %%",
    "new\nline [Service]\nUser=root",
    "tab\there",
    "a ;comment #comment",
    "🐫 é",
    "{{ 7 * 7 }}",
    "=",
    "",
]


def render(source: str, **values) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters.update({**supervisor.Supervisor.filters, **systemd.Systemd.filters})
    return environment.get_template(source).render(**values)


class FakeInstance:
    name = "a"
    api_key_file = None
    extra_args = ("--x", "it's $5 100% ;x")
    resources = {}
    members = ()

    def __init__(self, environment=None):
        self.environment = environment or {}


def test_a_shell_reads_every_value_back(tmp_path):
    """The script of the supervisor manager, run for real."""
    environment = {f"MAGI_{i}": text for i, text in enumerate(HOSTILE)} | {"MAGI_HOME": str(tmp_path)}
    file = tmp_path / "a b.env"
    file.write_text(render("instance.env.j2", instance=FakeInstance(environment)))
    script = tmp_path / "run"
    script.write_text(render("run-instance.sh.j2"))
    show = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"
    result = subprocess.run(
        ["/bin/sh", str(script), str(file), sys.executable, "-c", show, "one", "two words"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    seen, arguments = json.loads(result.stdout)
    assert {name: seen[name] for name in environment} == environment
    assert seen["HOME"] == f"{tmp_path}/supervisor/home"
    assert arguments == ["one", "two words"]


@pytest.mark.parametrize(
    ("content", "started"), [("k", True), ("# ours\n\nk\n", True), ("", False), ("\n# k\n", False), (None, False)]
)
def test_a_server_that_would_ask_nobody_for_a_key_is_not_started(tmp_path, content, started):
    """By the script of the supervisor manager, and by the one in systemd's drop-in as systemd hands it to the shell."""
    keys = tmp_path / "the keys"
    if content is not None:
        keys.write_text(content)
    environment = {"PATH": "/usr/bin:/bin", "MAGI_HOME": str(tmp_path), "LLAMA_ARG_API_KEY_FILE": str(keys)}
    (tmp_path / "run").write_text(render("run-instance.sh.j2"))
    instance = FakeInstance()
    instance.api_key_file, instance.extra_args = str(keys), ("two words", "$5")
    text = render("magi-llama@instance.conf.j2", instance=instance, llama_server_path="/bin/echo")
    drop_in = shlex.split(text.rpartition("ExecStart=")[2].replace("$$", "$"))
    for command in (["/bin/sh", tmp_path / "run", os.devnull, "/bin/echo", "two words", "$5"], drop_in):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == ((0, "two words $5\n") if started else (1, ""))
        assert find_cause(done.stderr.splitlines(), "exit status 1").code == (
            "crashed" if started else "bad_api_key_file"
        )


def test_a_log_is_that_of_the_last_run(tmp_path):
    """Else an older run's error would pass for the cause of this one's failure."""
    (tmp_path / "run").write_text(render("run-instance.sh.j2"))
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "a.log"
    for said in ("first\nmagi: starts here", "second\nlast"):
        environment = {"PATH": "/usr/bin:/bin", "MAGI_HOME": str(tmp_path)}
        with log.open("a") as output:
            command = ["/bin/sh", tmp_path / "run", os.devnull, "/bin/echo", said]
            subprocess.run(command, env=environment, stdout=output, stderr=output, check=True)
    manager = supervisor.Supervisor(tmp_path, "")
    assert manager.logs("a", 40) == ["second", "last"]
    assert manager.logs("a", 1) == ["last"]
    assert manager.beginning("a", 1) == ["second"]
    log.write_text("no start is seen\n" * 3)  # they are too many to see it
    assert manager.logs("a", 2) == ["no start is seen"] * 2


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\n" not in text])
def test_a_word_of_supervisor_s_command_is_read_back(text):
    # what supervisor does with a setting: cut at a comment behind white space, expand %, split like a shell
    line = supervisor.word(text)
    assert not any(f"{space}{mark}" in line for space in " \t" for mark in ";#")
    assert shlex.split(line % {}) == [text]


@pytest.mark.parametrize("escape", [supervisor.word, supervisor.setting, systemd.systemd_path, systemd.systemd_value])
def test_a_newline_is_refused_where_it_can_not_be_written_down(escape):
    with pytest.raises(ValueError, match="can't hold"):
        escape("a\nb")


def test_a_comment_in_a_setting_is_refused():
    with pytest.raises(ValueError, match="can't hold"):
        supervisor.setting("/models ;x")


@pytest.mark.parametrize(
    ("escape", "text", "written"),
    [
        (systemd.systemd_path, "/a b/c", '"/a b/c"'),
        (systemd.systemd_path, "/a%n", '"/a%%n"'),
        (systemd.systemd_path, '/a"b\\c', '"/a"\'"\'"b\\\\c"'),
        (systemd.systemd_value, "/a b%n$HOME", "/a b%%n$HOME"),
        (systemd.systemd_program, "/a b%$x", '"/a b%%$x"'),
        (systemd.systemd_argument, "$HOME", '"$$HOME"'),
        (environment_value, 'a"b$c`d\\e', '"a\\"b\\$c\\`d\\\\e"'),
    ],
)
def test_what_systemd_reads(escape, text, written):
    assert escape(text) == written


@pytest.mark.parametrize("text", ["a ", "a\\", "a\x1b", "a\udcff", "a\ufffe", "a\ufdd0"])
def test_what_a_unit_file_can_not_hold_is_refused(text):
    with pytest.raises(ValueError, match="unit files can't hold"):
        systemd.systemd_value(text)


def test_the_drop_in_is_empty_without_arguments_and_exact_with_them():
    instance = FakeInstance()
    text = render("magi-llama@instance.conf.j2", instance=instance, llama_server_path="/opt/llama server")
    assert 'ExecStart="/opt/llama server" "--x" "it\'s $$5 100%% ;x"\n' in text
    instance.extra_args = ()
    assert not render("magi-llama@instance.conf.j2", instance=instance, llama_server_path="/x").strip()
    instance.api_key_file = "/etc/100% keys"
    text = render("magi-llama@instance.conf.j2", instance=instance, llama_server_path="/x")
    assert "[Service]\n" in text
    assert "LoadCredential=api-keys:/etc/100%% keys\n" in text
    assert text.endswith('"/x"\n')
    instance.extra_args = ("--x", "$5")
    text = render("magi-llama@instance.conf.j2", instance=instance, llama_server_path="/opt/$x")
    assert text.endswith(' "/opt/$$x" "--x" "$$5"\n')
    instance.api_key_file, instance.extra_args = None, ()
    instance.resources = {"nice": "5", "memory_max": "50%", "cpu_quota": "150%"}
    text = render("magi-llama@instance.conf.j2", instance=instance, llama_server_path="/x")
    assert text.endswith("[Service]\nCPUQuota=150%\nMemoryMax=50%\nNice=5\n")


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({}, []),
        ({"LLAMA_ARG_THREADS": "3"}, ["--threads", "3"]),
        ({"LLAMA_ARG_DEVICE": "CUDA0,CUDA1"}, ["--device", "CUDA0,CUDA1"]),
    ],
)
def test_a_worker_gets_its_options_as_arguments(tmp_path, given, arguments):
    """By the script of the supervisor manager, and by systemd's drop-in with its variables (systemd.service(5))."""
    environment = {
        "LLAMA_ARG_HOST": "10.0.0.2",
        "LLAMA_ARG_PORT": "8089",
        **given,
        "MAGI_WORKER": "gpu1/big",
        "MAGI_WORKER_PATH": "/bin/echo",
        "MAGI_HOME": str(tmp_path),
    }
    instance = FakeInstance(environment)
    instance.extra_args = ()
    expected = ["--host", "10.0.0.2", "--port", "8089", *arguments]
    text = render("magi-llama@instance.conf.j2", instance=instance, llama_server_path="/opt/llama-server")
    reset, command = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    said = re.sub(r"\$\{(\w+)\}", lambda found: environment[found[1]], command)
    assert (reset, shlex.split(said)) == ("", ["/bin/echo", *expected])
    assert "Restart=always\n" in text
    assert 'BindReadOnlyPaths=-"/bin"\n' in text
    program = render("program.conf.j2", instance=instance, home="/h", llama_server_path="/o/s", max_startup_time=9)
    assert program.splitlines()[2].endswith("/h/instances/a.env /bin/echo")
    (tmp_path / "a.env").write_text(render("instance.env.j2", instance=instance))
    (tmp_path / "run").write_text(render("run-instance.sh.j2"))
    command = ["/bin/sh", tmp_path / "run", tmp_path / "a.env", "/bin/echo"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_the_models_of_a_pool_are_a_file_of_their_own():
    instance = FakeInstance()
    assert not render("pool.ini.j2", instance=instance).strip()
    one, two = FakeInstance({"LLAMA_ARG_MODEL": "/m/[b] {{ x }}.gguf", "MAGI_TIER": "Q4"}), FakeInstance()
    one.extra_args, one.aliases, two.name, two.aliases = (), ("chat",), "b", ()
    two.extra_args = ("--sleep-idle-seconds", "60")
    instance.members, instance.extra_args, instance.model_path = (one, two), (), "/etc/100%/a.ini"
    text = render("pool.ini.j2", instance=instance)
    assert text.split("\n", 1)[1].strip() == (
        "[a]\nLLAMA_ARG_ALIAS = chat\nLLAMA_ARG_MODEL = /m/[b] {{ x }}.gguf\n\n[b]\nsleep-idle-seconds = 60"
    )
    drop_in = render("magi-llama@instance.conf.j2", instance=instance, llama_server_path="/x")
    assert drop_in.endswith(
        "[Service]\n# The models of a pool, for a user who exists only while it runs.\n"
        "LoadCredential=models.ini:/etc/100%%/a.ini\n"
    )
    wanted = {"LLAMA_ARG_MODELS_PRESET": "/etc/a.ini"}
    assert supervisor.Supervisor(Path("/m"), "").environment("a", wanted) == wanted
    assert systemd.Systemd(Path("/m")).environment("a", wanted) == {
        "LLAMA_ARG_MODELS_PRESET": "/run/credentials/magi-llama@a.service/models.ini"
    }


def test_a_service_gets_its_keys_where_its_user_may_read_them():
    plain = {"LLAMA_ARG_PORT": "8080"}
    assert (
        systemd.Systemd(Path("/m")).environment("a", plain)
        == supervisor.Supervisor(Path("/m"), "").environment("a", plain)
        == plain
    )
    keys = {"LLAMA_ARG_API_KEY_FILE": "/etc/keys", "MAGI_API_KEY_FILE": "/etc/keys"}
    assert supervisor.Supervisor(Path("/m"), "").environment("a", keys) == keys
    assert systemd.Systemd(Path("/m")).environment("a", keys) == {
        "LLAMA_ARG_API_KEY_FILE": "/run/credentials/magi-llama@a.service/api-keys",
        "MAGI_API_KEY_FILE": "/etc/keys",
    }


@pytest.mark.parametrize("path", ["/opt/it's/llama-server", '/opt/"/x', "/opt/a\\b"])
def test_a_program_that_systemd_refuses_is_refused_by_name(path):
    with pytest.raises(ValueError, match="set model_server_llama_server_path"):
        systemd.systemd_program(path)


@pytest.mark.parametrize("gpu", [False, True])
def test_the_unit_holds_what_it_is_given(gpu):
    text = render(
        "magi-llama@.service.j2",
        llama_server_path="/opt/llama/llama-server",
        home="/etc/magi",
        stop_timeout=30,
        max_startup_time=120,
        model_folders=["/models", "/my models"],
        gpu=gpu,
        gpu_groups=["video"] if gpu else [],
    )
    for line in (
        "EnvironmentFile=/etc/magi/instances/%i.env",
        'ExecStart="/opt/llama/llama-server"',
        "TimeoutStopSec=30",
        "StartLimitIntervalSec=650",
        "StartLimitBurst=4",
        "Type=exec",
        "DynamicUser=yes",
        'BindReadOnlyPaths=-"/my models"',
        f"ProcSubset={'all' if gpu else 'pid'}",
        *(["SupplementaryGroups=video"] if gpu else []),
        f"RestartSec={10 if gpu else 2}",
    ):
        assert f"\n{line}\n" in text


SHOW = """Id=magi-llama@a.service
ActiveState=active
SubState=running
MainPID=42
ExecMainStatus=0
ExecMainStartTimestamp=Sun 2026-11-22 22:11:04 UTC
Result=success

Id=magi-llama@b-2.service
ActiveState=activating
SubState=auto-restart
MainPID=0
ExecMainStatus=1
ExecMainStartTimestamp=Sun 2026-11-22 22:11:04 UTC
Result=exit-code

Id=magi-llama@c.service
ActiveState=failed
SubState=failed
MainPID=0
ExecMainStatus=9
ExecMainStartTimestamp=
Result=oom-kill

Id=magi-llama@d.service
ActiveState=inactive
SubState=dead
MainPID=0
ExecMainStatus=0
ExecMainStartTimestamp=
Result=success

Id=magi-llama@e.service
ActiveState=inactive
SubState=dead
MainPID=0
ExecMainStatus=0
Result=success
Job=917
InvocationID=

Id=magi-llama@f.service
ActiveState=active
SubState=running
MainPID=43
ExecMainPID=43
InvocationID=1f0c

Id=other.service
ActiveState=active
InvocationID=2f0c
"""


def test_status_is_read_from_systemctl_show():
    assert systemd.parse_status(SHOW) == {
        "a": Status(State.RUNNING, 42, 1795385464.0),
        "b-2": Status(State.BACKOFF, exit_status="exit-code, exit status 1"),
        "c": Status(State.FAILED, exit_status="oom-kill, exit status 9"),
        "d": Status(State.STOPPED),
        "e": Status(State.STARTING),
        "f": Status(State.RUNNING, 43),
    }
    ids = ["_SYSTEMD_INVOCATION_ID=1f0c", "+", "INVOCATION_ID=1f0c"]
    assert systemd.parse_runs(SHOW) == {"f": [*ids, "+", "_SYSTEMD_UNIT=magi-llama@f.service", "_PID=43"]}


@pytest.mark.parametrize(
    ("manager", "ours", "theirs"),
    [
        (
            "supervisor",
            [
                *("supervisor/supervisord.conf", "supervisor/run-instance", "supervisor/programs/a.conf"),
                *("supervisor/supervisord.pid", "supervisor/supervisord.log", "supervisor/supervisord.log.1"),
                "supervisor/home/.cache/x",
                *("logs/a.log", "logs/a.log.1", "logs/b.log", "instances/a.env", "instances/.a.env.12.tmp"),
            ],
            ["logs/theirs.log", "logs/a.log.bz2", "instances/theirs", "supervisor/theirs", "supervisor/programs/x"],
        ),
        (
            "systemd",
            [
                *("units/magi-llama@.service", "units/magi-llama@a.service.d/magi.conf"),
                *("instances/a.env", "instances/.a.env.12.tmp"),
            ],
            ["instances/theirs", "units/magi-llama@a.service.d/theirs.conf"],
        ),
    ],
)
def test_teardown_removes_what_is_ours_by_name_and_nothing_else(tmp_path, monkeypatch, manager, ours, theirs):
    monkeypatch.setattr(systemd, "UNITS", tmp_path / "units")
    monkeypatch.setattr(systemd, "FOLDERS", ())
    monkeypatch.setattr(systemd, "Systemd", FakeSystemd)
    for path in (*ours, *theirs):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    services = chosen(manager, str(tmp_path), "")
    if manager == "supervisor":
        services.socket = str(tmp_path / "socket")  # it is elsewhere for a home with a long path
        Path(services.socket).touch()
    services.forget("b")  # an instance of an earlier deployment
    services.remove()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(theirs)
    for path in theirs:
        (tmp_path / path).unlink()
    services.remove()
    assert [path.name for path in tmp_path.rglob("*")] == (["units"] if manager == "systemd" else [])


def test_a_program_is_given_up_where_it_ends_within_its_time_to_start():
    text = render("program.conf.j2", instance=FakeInstance(), home="/m", llama_server_path="/x", max_startup_time=120)
    assert "\nstartsecs=120\nstartretries=2\n" in text


class FakeSystemd(systemd.Systemd):
    """A systemd that says what it is told to, remembers what it is asked, and refuses some commands and units."""

    def __init__(self, home: Path, said: str = "", refuses: Sequence[str] = ()):
        super().__init__(home)
        self.said = said
        self.refuses = {*refuses}
        self.asked: list[tuple[str, ...]] = []

    def _systemctl(self, *arguments: str) -> str:
        self.asked.append(arguments)
        if self.refuses & {*arguments}:
            raise ServiceError(f"systemctl {' '.join(arguments)}: no")
        return self.said


@pytest.mark.parametrize("version", ["247 (247.3-7+deb11u6)", "249 (249.11-0ubuntu3)", "252 (252.39-1~deb12u2)"])
def test_systemd_is_new_enough(tmp_path, version):
    FakeSystemd(tmp_path, f"systemd {version}\n+PAM").prepare()


def test_an_old_systemd_is_refused(tmp_path):
    with pytest.raises(ServiceError, match="systemd 239 is too old for the units, which need 247: upgrade"):
        FakeSystemd(tmp_path, "systemd 239 (239-82.el8_10)\n+PAM").prepare()


def test_what_systemd_is_asked_no_version_refuses(tmp_path):
    services = FakeSystemd(tmp_path)
    services.status()
    (asked,) = services.asked
    assert not [argument for argument in asked if argument.startswith("--timestamp")]


def test_a_unit_that_systemd_refuses_does_not_keep_the_others_from_starting(tmp_path):
    services = FakeSystemd(tmp_path, refuses=["magi-llama@b.service"])
    refused = services.start(["a", "b", "c"])
    assert list(refused) == ["b"]
    assert refused["b"].endswith("magi-llama@b.service: no")
    started = [arguments[-1] for arguments in services.asked if "restart" in arguments]
    assert started == ["magi-llama@a.service", "magi-llama@c.service"]


def test_a_crashed_unit_that_systemd_started_again_meanwhile_gets_its_new_definition(tmp_path):
    """``start`` would leave it as it is: found by make chaos."""
    services = FakeSystemd(tmp_path)
    services.start(["a"])
    assert [asked[0] for asked in services.asked] == ["reset-failed", "enable", "restart"]


def test_stopping_a_unit_that_is_not_loaded_is_no_error_unless_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(systemd, "STOP_GRACE", 0)
    show = "Id=magi-llama@a.service\nActiveState={}\nSubState=dead\nMainPID={}\n"
    FakeSystemd(tmp_path, show.format("inactive", 0), ["stop"]).stop("a")
    with pytest.raises(ServiceError, match="systemctl stop"):
        FakeSystemd(tmp_path, show.format("active", 7), ["stop"]).stop("a")


# Fails so many times with what it is given, then answers.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$0.asked"
[ "$(wc -l <"$0.asked")" -gt {times} ] && echo MainPID=7 && exit
echo "{said}" >&2
exit 1
"""


def ask_systemctl(tmp_path, monkeypatch, said: str, times: int) -> int:
    """Return how often a systemctl was asked for an answer; it fails so many ``times``, and says why."""
    program = tmp_path / "systemctl"
    program.write_text(SYSTEMCTL.format(said=said, times=times))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(systemd.time, "sleep", lambda _seconds: None)
    with contextlib.suppress(ServiceError):
        assert systemd.systemctl("show", "a.service") == "MainPID=7\n"
    return len((tmp_path / "systemctl.asked").read_text().splitlines())


@pytest.mark.parametrize(
    "said",
    [
        "Failed to get properties: Transport endpoint is not connected",
        "Failed to reload daemon: Message recipient disconnected from message bus without replying",
        "Failed to reload daemon: Remote peer disconnected",
        "Failed to connect to bus: No such file or directory",
        "Warning! D-Bus connection terminated.\nFailed to wait for response: Connection reset by peer",
        "Failed to list units: Connection terminated",
        "Failed to enable unit: Broken pipe",
    ],
)
def test_a_systemd_that_is_away_for_a_moment_is_asked_again(tmp_path, monkeypatch, said):
    """It executes itself anew when its package is upgraded."""
    assert ask_systemctl(tmp_path, monkeypatch, said, 5) == 6


def test_a_systemd_that_stays_away_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(systemd, "PATIENCE", 0)
    assert ask_systemctl(tmp_path, monkeypatch, "Failed to connect to bus: Connection refused", 99) == 3


def test_what_systemd_refuses_is_not_asked_for_again(tmp_path, monkeypatch):
    assert ask_systemctl(tmp_path, monkeypatch, "Failed to start a.service: Unit a.service is masked.", 99) == 1


SUPERVISORD_LOG = """\
2026-11-24 14:00:00,001 INFO spawned: 'a' with pid 1
2026-11-24 14:00:01,001 WARN exited: a (exit status 1; not expected)
2026-11-24 14:00:02,001 WARN exited: a (terminated by SIGKILL; not expected)
2026-11-24 14:00:03,001 WARN exited: b-2 (terminated by SIGSEGV (core dumped); not expected)
2026-11-24 14:00:04,001 INFO exited: c (exit status 0; expected)
2026-11-24 14:00:05,001 INFO gave up: a entered FATAL state, too many start retries too quickly
"""


def test_how_a_program_ended_is_read_from_supervisord_s_log():
    assert supervisor.parse_ends(SUPERVISORD_LOG.splitlines()) == {
        "a": "terminated by SIGKILL",
        "b-2": "terminated by SIGSEGV (core dumped)",
        "c": "exit status 0",
    }


def test_a_socket_path_that_would_be_too_long_moves(monkeypatch):
    assert supervisor.socket_path("/srv/magi/") == "/srv/magi/supervisor/supervisord.sock"
    long = supervisor.socket_path("/srv/" + "x" * 100)
    assert len(long) < 100
    assert long != supervisor.socket_path("/srv/" + "y" * 100)
    # The controller writes it down for the host, which may have another user and another temporary folder.
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    monkeypatch.setattr(tempfile, "tempdir", "/elsewhere")
    assert long == supervisor.socket_path("/srv/" + "x" * 100 + "/")


def test_a_socket_of_another_user_is_not_spoken_to(tmp_path, monkeypatch):
    path = tmp_path / "magi.sock"
    monkeypatch.setattr(supervisor, "socket_path", lambda home: str(path))
    monkeypatch.setattr(os, "geteuid", lambda: path.lstat().st_uid + 1)
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(str(path))
        impostor.listen()
        impostor.setblocking(False)
        services = supervisor.Supervisor(tmp_path / "home", sys.executable)
        assert services.status() == {}
        with pytest.raises(
            ServiceError, match=f"can't listen at {path}, which belongs to another user: remove it, or set"
        ):
            services.prepare()
        services.remove()
        assert path.exists()
        with pytest.raises(BlockingIOError):
            impostor.accept()


@pytest.mark.parametrize(("lines", "expected"), [(2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_tail(tmp_path, lines, expected):
    (tmp_path / "log").write_bytes(b"a\nb\nc\n")
    assert tail(tmp_path / "log", lines) == expected
    assert tail(tmp_path / "none", lines) == []


COLLECTION = Path(__file__).parents[5]


@pytest.mark.parametrize("name", [*MANAGERS, *ENGINES])
def test_a_manager_is_all_that_the_protocol_says(tmp_path, name):
    manager = chosen(name, str(tmp_path))
    assert manager.name == name
    protocol = {*ServiceManager.__annotations__, *(item for item in vars(ServiceManager) if not item.startswith("_"))}
    assert [item for item in sorted(protocol) if not hasattr(manager, item)] == []
    assert [template.source for template in manager.templates if not (TEMPLATES / template.source).exists()] == []


def test_an_automatic_choice_is_the_first_manager_that_the_machine_has():
    assert chosen("auto", "/m").name == ("systemd" if Path("/run/systemd/system").is_dir() else "supervisor")


@pytest.mark.parametrize(
    ("files", "now", "found"),
    [
        ([], "supervisor", []),
        (["supervisor/supervisord.conf", "instances/a.env"], "supervisor", []),
        (["supervisor/supervisord.conf", "instances/a.env"], "docker", ["supervisor"]),
        (["docker/a.args", "docker/a.env"], "supervisor", ["docker"]),
        (["docker/pulled"], "podman", ["docker"]),
        (["docker/theirs", "podman/a.args"], "docker", ["podman"]),
        (["podman/boot.service"], "supervisor", ["podman"]),  # all is stopped
        (["unit"], "supervisor", ["systemd"]),
        (["unit"], "systemd", []),
        (["unit of another home"], "supervisor", []),
    ],
)
def test_a_manager_that_was_chosen_before_is_known_by_its_files(tmp_path, monkeypatch, files, now, found):
    home = tmp_path / "home"
    unit = tmp_path / "unit"
    monkeypatch.setattr(choice, "_UNIT", unit)
    for name in files:
        if name.startswith("unit"):
            where = home if name == "unit" else "/elsewhere"
            unit.write_text(f"[Service]\nEnvironmentFile={where}/instances/%i.env\n")
        else:
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).touch()
    assert [item.name for item in choice.others(chosen(now, str(home)), str(home))] == found


def test_the_choices_are_documented():
    files = [path for kind in ("modules", "doc_fragments") for path in (COLLECTION / "plugins" / kind).glob("*.py")]
    found = [line for path in files for line in re.findall(r"^ +choices: \[auto, .*", path.read_text(), re.MULTILINE)]
    assert found
    choices = (CHOICES, SERVER_CHOICES, BACKENDS, HEALTH_FROM["choices"])
    assert {line.strip() for line in found} == {f"choices: [{', '.join(names)}]" for names in choices}


def test_no_other_file_names_a_manager():
    """What depends on one is its own matter, or one of its capabilities."""
    named = re.compile(rf"[\"']({'|'.join([*MANAGERS, *ENGINES])})[\"']")
    plugins = COLLECTION / "plugins"
    allowed = {
        "module_utils/_base/managers.py",
        *(f"module_utils/_services/{name}.py" for name in (*MANAGERS, "choice", "containers")),
    }
    files = {str(path.relative_to(plugins)) for path in plugins.rglob("*.py") if named.search(path.read_text())}
    assert files <= allowed
