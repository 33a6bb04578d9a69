"""What a run means: a table of how runs end, with each exit code, and what can't be trusted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magi import lines
from magi.errors import DeploymentFailed, ExitCode, HostUnreachable, Interrupted, ProfileError, UsageError
from magi.events import Event, Run
from magi.result import Result
from magi.verdict import deployments
from magi.verdict.belief import checked, interruption

from . import recorded
from .recorded import Q2, Q3

TASK, STATS = Event("task", "Plan", "Settle the settings"), Event("stats")
LAUNCH, PLAN = "magi.models.llama_instances", "magi.models.deployment_plan"


def run(*events: Event, rc: int | None = 0, **more) -> Run:
    """A run that began and ended."""
    return Run(rc, (TASK, *events, STATS), **more)


def ok(host: str = "gpu1", action: str = "", **result) -> Event:
    return Event("ok", host=host, action=action, result=result)


def failed(msg: str, action: str = "", host: str = "gpu1", *, ignored: bool = False, **result) -> Event:
    return Event("failed", host=host, action=action, result={"msg": msg, **result}, ignored=ignored)


def unreachable(host: str = "gpu2", said: str = "no route to it.") -> Event:
    return Event("unreachable", host=host, result={"msg": said})


def said_by_ansible(*texts: str) -> tuple[Event, ...]:
    return tuple(Event("message", text=text) for text in texts)


def report(*causes: str, ready: int = 1, degraded=()) -> dict:
    return {
        "total_servers": 2,
        "ready_servers": ready,
        "servers": [],
        "summary": {
            "profile": "p",
            "failed": [{"host": "gpu1", "instance": "x", "cause": cause} for cause in causes],
            "degraded": list(degraded),
        },
    }


MISSING = [{"host": "gpu1", "detail": "Profile p, entry 2 (x): no such model on gpu1."}]


# --- what can be believed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["up", "plan", "status", "discover", "down"])
def test_a_recorded_run_is_believed(name):
    given = recorded.run(name)
    assert checked(given) is given


@pytest.mark.parametrize(
    ("given", "kind", "parts"),
    [
        (recorded.run("profile-missing", 2), ProfileError, ["Profile nope not found", "Profiles there: p."]),
        (run(failed("Setting x must be y.", "magi.models.settings_info"), rc=2), UsageError, ["Setting x must be y."]),
        # Only a look at the host shows that its llama-server lacks an option.
        (
            run(ok(plan=None), failed("Host gpu1: no option ctx_sise.", PLAN, wrong="profile"), rc=2),
            ProfileError,
            ["Host gpu1: no option ctx_sise."],
        ),
        (
            run(
                failed("Setting x must be y.", "magi.models.settings_info"),
                failed("Host gpu2: port 8080 is taken.", PLAN, "gpu2"),
                unreachable("gpu3"),
                rc=2,
            ),
            UsageError,
            ["Setting x must be y. Host gpu2: port 8080 is taken."],
        ),
        # No play matched a host.
        (
            Run(0, (Event("play"), Event("no_hosts"), STATS)),
            UsageError,
            ["No host to work on: the inventory of ansible.cfg has none in the group model_servers."],
        ),
        # Ansible could not begin: the sentence has what it said.
        (
            Run(
                4,
                (Event("message", text="[ERROR]: We were unable to read as JSON\nOrigin: x"),),
                output="/r/output.log",
            ),
            UsageError,
            ["Ansible could not begin: We were unable to read as JSON;", "/r/output.log"],
        ),
        # Its error says why it ended; the warnings before don't.
        (
            Run(1, said_by_ansible("[WARNING]: Unable to parse x", "[ERROR]: Unable to find limit file b'x'")),
            UsageError,
            ["Ansible could not begin: Unable to find limit file b'x'."],
        ),
        (
            Run(
                1,
                said_by_ansible(
                    "[WARNING]: Failed to parse inventory with 'auto' plugin: no root 'plugin' key found",
                    "[WARNING]: Failed to parse inventory with 'yaml' plugin: YAML parsing failed: no end.",
                    "[WARNING]: Failed to parse inventory with 'ini' plugin: Invalid host pattern",
                    "[ERROR]: Completely failed to parse inventory source /inv/b.yml",
                ),
            ),
            UsageError,
            ["The inventory can't be read: /inv/b.yml (YAML parsing failed: no end); correct it"],
        ),
        (
            Run(
                1,
                said_by_ansible(
                    "[WARNING]: Failed to parse inventory with 'yaml' plugin: no vault secrets found",
                    "[WARNING]: Failed to parse inventory with 'ini' plugin: no vault secrets found",
                    "[ERROR]: Completely failed to parse inventory source /inv/b.yml",
                ),
            ),
            UsageError,
            ["The inventory, or a file of -e, can't be read: /inv/b.yml (no vault secrets found);"],
        ),
        (
            Run(1, said_by_ansible("[ERROR]: Could not match supplied host pattern, ignoring: model_servers")),
            UsageError,
            ["No host to work on: the inventory of ansible.cfg has none in the group model_servers."],
        ),
        (Run(250, ()), UsageError, ["Ansible could not begin: exit status 250."]),
        # Neither exit status nor statistics: nothing is known.
        (Run(None, (TASK,)), DeploymentFailed, ["did not finish", "exit status None"]),
        (
            Run(0, (TASK, Event("message", text="[ERROR]: Unexpected Exception")), output="/r/output.log"),
            DeploymentFailed,
            ["did not finish", "Unexpected Exception; all that Ansible said is in /r/output.log."],
        ),
        (run(rc=None), DeploymentFailed, ["did not finish"]),
        (run(interrupted=True), Interrupted, ["Stopped by a signal"]),
        # An interrupt outranks whatever it may have caused.
        (Run(None, (failed("x", "magi.models.settings_info"),), True), Interrupted, ["not begun on gpu1"]),
    ],
)
def test_what_is_not_believed(given, kind, parts):
    with pytest.raises(kind) as raised:
        checked(given)
    assert type(raised.value) is kind
    for part in parts:
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (None, "There is no gateway: inventory inv has no host in the group model_gateways; put one into it and run"),
        ("gpu1", "has no host in the group model_gateways within --limit gpu1; put one into it"),
    ],
)
def test_an_inventory_without_a_gateway(limit, said):
    with pytest.raises(UsageError, match=said):
        checked(Run(0, (Event("play"), Event("no_hosts"), STATS)), ["inv"], limit, "model_gateways")


def test_no_hosts_names_the_inventory_and_the_limit():
    with pytest.raises(UsageError) as raised:
        checked(Run(0, (Event("message", text="[WARNING]: Could not match supplied host pattern"),)), ["inv"], "nobody")
    assert "inventory inv has none in the group model_servers within --limit nobody." in str(raised.value)
    assert "Ansible says: Could not match" in str(raised.value)


def test_what_a_limit_names_and_nobody_has_is_named():
    nobody = said_by_ansible("[ERROR]: Could not match supplied host pattern, ignoring: nobody")
    with pytest.raises(
        UsageError, match=r"^--limit good,nobody: nobody is no host or group of inventory inv; correct it"
    ):
        checked(Run(1, nobody), ["inv"], "good,nobody")


def test_a_wrong_setting_of_one_host_hides_nothing_that_was_done_on_another():
    """Without the report nobody would know which servers were started."""
    wrong = failed("Setting x must be y.", "magi.models.settings_info", "gpu2")
    given = run(wrong, ok("gpu1", LAUNCH, actions=[]), ok(report=report("host_failed"), problems={"gpu2": "no."}), rc=2)
    assert deployments.deployed(checked(given)).exit_code is ExitCode.FAILED


@pytest.mark.parametrize(
    ("verb", "result"),
    [
        (deployments.planned, {"plan": {"actions": []}}),
        (deployments.seen, {"status": {"ready_servers": 1, "total_servers": 1}}),
        (deployments.discovered, {"models": [], "registry_path": "/r.json"}),
        (deployments.ended, {"actions": []}),
    ],
)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (failed("Setting x must be y.", "magi.models.settings_info", "gpu2"), "Host gpu2: Setting x must be y."),
        (failed("Host gpu2: no option z.", PLAN, "gpu2", wrong="profile"), "Host gpu2: no option z."),
        # what a module raised, in Ansible's words
        (failed("Task failed: Module failed: Disk quota exceeded", PLAN, "gpu2"), "Host gpu2: Disk quota exceeded"),
        (
            failed("Task failed: Module failed: [Errno 13] Permission denied: '/srv/x'", PLAN, "gpu2"),
            "Host gpu2: [Errno 13] Permission denied: '/srv/x'; let the user read and write there, or become root "
            "(become: true), and run again.",
        ),
    ],
)
def test_what_is_wrong_for_one_host_hides_nothing_of_another(verb, result, wrong, said):
    outcome = verb(checked(run(wrong, ok("gpu1", **result), rc=2)))
    assert (outcome.exit_code, outcome.problem) == (ExitCode.FAILED, said)


def test_a_host_that_failed_early_is_explained_by_its_own_message():
    problems = {"gpu2": "Host gpu2: it failed before its plan was made."}
    given = run(failed("Port 8080\nis taken.", host="gpu2"), ok(report=report("host_failed"), problems=problems), rc=2)
    outcome = deployments.deployed(given)
    assert outcome.problem == "Host gpu2: it failed before its plan was made. Port 8080 is taken."
    repeated = run(*given.events, failed(problems["gpu2"], host="gpu2"), rc=2)
    assert deployments.deployed(repeated) == outcome


def test_a_limit_that_leaves_nothing_is_said_though_ansible_has_a_status_for_it():
    text = "[ERROR]: Specified inventory, host pattern and/or --limit leaves us with no hosts to target."
    with pytest.raises(UsageError, match=r"^No host to work on: .* within --limit nobody"):
        checked(Run(1, (Event("message", text=text),)), (), "nobody")


def test_an_ignored_failure_is_none():
    checked(run(failed("x", "magi.models.settings_info", ignored=True)))


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ((), "Stopped by a signal: nothing was begun. Run it again: it goes on from there."),
        ((ok("a"), ok("b")), "not begun on a, b"),
        ((ok("a"), Event("start", host="a", action=LAUNCH)), "Stopped by a signal: begun on a. Run"),
        (
            (
                ok("c"),
                *(Event("start", host=h, action=LAUNCH) for h in "ab"),
                ok("a", LAUNCH),
            ),
            "done on a; begun on b; not begun on c.",
        ),
        ((Event("start", host="a", action=LAUNCH), failed("x", LAUNCH, "a")), "begun on a"),
    ],
)
def test_an_interruption_says_what_was_done(events, said):
    assert said in interruption(Run(None, events, True))


# --- up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "code", "problem"),
    [
        ({"report": report(ready=2), "problems": {}}, ExitCode.OK, ""),
        ({"report": report("bad_option"), "problems": {}}, ExitCode.DEGRADED, ""),
        # All planned servers are ready, but the plan lacks something that the profile enables.
        ({"report": report(ready=2, degraded=MISSING), "problems": {}}, ExitCode.DEGRADED, ""),
        ({"report": report(ready=2, degraded=MISSING), "problems": {"gpu1": "no."}}, ExitCode.FAILED, "no."),
        ({"report": report("bad_option"), "problems": {"gpu1": "strict is set."}}, ExitCode.FAILED, "strict is set."),
        (
            {"report": report("bad_option", ready=0), "problems": {"gpu1": "None is ready.", "gpu2": "None is ready."}},
            ExitCode.FAILED,
            "None is ready.",
        ),
        ({"report": report("host_unreachable"), "problems": {"gpu2": "gone."}}, ExitCode.UNREACHABLE, "gone."),
        # An unreachable host outranks whatever else went wrong.
        (
            {"report": report("host_failed", "host_unreachable"), "problems": {"gpu1": "a.", "gpu2": "b."}},
            ExitCode.UNREACHABLE,
            "a. b.",
        ),
    ],
)
def test_a_deployment(result, code, problem):
    outcome = deployments.deployed(run(ok(**result)))
    assert outcome == Result(result["report"], code, problem)


def test_hosts_that_are_not_reached_are_one_sentence_beside_a_report():
    gone = [unreachable(f"gpu{i}", f"no route to 10.0.0.{i}.") for i in (2, 3)]
    problems = {f"gpu{i}": f"Host gpu{i}: it can't be reached (no route to 10.0.0.{i}); bring it back." for i in (2, 3)}
    problems |= {f"gpu{i}": f"Host gpu{i}: held back." for i in (4, 5)}
    early = failed("Host gpu6: held back.", host="gpu6")
    outcome = deployments.deployed(run(*gone, early, ok(report=report("host_unreachable"), problems=problems)))
    assert outcome.problem == (
        "Not reached: 2 hosts (gpu2, gpu3), the first: no route to 10.0.0.2. Bring them back and run again. "
        "3 hosts (gpu4, gpu5, gpu6): held back."
    )


def test_what_a_host_says_does_nothing_to_a_terminal():
    problems = {"gpu1": "None\x1b[2J\nof 2."}
    assert deployments.deployed(run(ok(report=report("x"), problems=problems))).problem == r"None\x1b[2J of 2."


def test_a_recorded_deployment_with_a_host_that_is_gone():
    outcome = deployments.deployed(recorded.run("up", 4))
    assert outcome.exit_code is ExitCode.UNREACHABLE
    assert outcome.document["ready_servers"] == 1
    assert outcome.problem.startswith("Host gone: it can't be reached")


@pytest.mark.parametrize(
    ("events", "kind", "said"),
    [
        ((unreachable(),), HostUnreachable, "Not reached: gpu2: no route to it. Bring them back and run again."),
        (
            (unreachable(said="Host key verification failed."),),
            HostUnreachable,
            "Not reached: gpu2: Host key verification failed. Compare its host key with the one in known_hosts, and "
            "record the right one there and run again.",
        ),
        ((failed("no plan."), failed("no plan.", host="gpu2")), DeploymentFailed, "no plan."),
        (
            (unreachable(), failed("no plan.")),
            HostUnreachable,
            "Not reached: gpu2: no route to it. Bring them back and run again. no plan.",
        ),
        ((ok(problems={"gpu1": "port 8080 is taken."}),), DeploymentFailed, "port 8080 is taken."),
        # Many hosts are one line.
        (
            [unreachable(f"gpu{i}", f"no route to 10.0.0.{i}.") for i in range(38)],
            HostUnreachable,
            f"Not reached: 38 hosts ({', '.join(f'gpu{i}' for i in range(38))}), the first: no route to 10.0.0.0. Bring "
            "them back and run again.",
        ),
        (
            [unreachable("a", "no route."), unreachable("b", "Connection refused"), unreachable("c", "no route.")],
            HostUnreachable,
            "Not reached: 2 hosts (a, c), the first: no route; b: Connection refused. Bring them back; start its SSH "
            "server, or correct ansible_host and ansible_port and run again.",
        ),
        (  # in the order of the inventory, whoever is given up first
            [*(Event("start", host=name) for name in "ab"), *(unreachable(name, "no route.") for name in "ba")],
            HostUnreachable,
            "Not reached: 2 hosts (a, b), the first: no route. Bring them back and run again.",
        ),
        (
            [failed(f"Host gpu{i}: no room.", host=f"gpu{i}") for i in (1, 2)],
            DeploymentFailed,
            "2 hosts (gpu1, gpu2): no room.",
        ),
    ],
)
def test_a_deployment_without_a_report_failed(events, kind, said):
    with pytest.raises(kind) as raised:
        deployments.deployed(run(*events, rc=2))
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"check": True}, {"check": True}),
        ({"tags": "plan"}, {"tags": "plan"}),
        ({"check": True, "tags": "plan"}, {"check": True, "tags": "plan"}),
    ],
)
def test_a_deployment_that_only_looked_returns_the_plans(given, said):
    plan = {"actions": []}
    looked = {**said, "hosts": {"a": plan, "b": plan}, "gateways": [], "changes": 0, "unreachable": []}
    assert deployments.deployed(run(ok("b", plan=plan), ok("a", plan=plan), ok(problems={})), **given) == Result(looked)
    lost = deployments.deployed(run(ok("a", plan=plan), unreachable(), ok(problems={"gpu2": "gone."}), rc=4), **given)
    assert (list(lost.document["hosts"]), lost.exit_code) == (["a"], ExitCode.UNREACHABLE)


def test_a_deployment_that_made_no_report_is_no_success():
    with pytest.raises(DeploymentFailed, match="ended without a report"):
        deployments.deployed(run(ok(plan={"actions": []})))


def test_hosts_come_in_the_order_in_which_they_are_started():
    plan = {"actions": []}
    starts = [Event("start", host=name) for name in ("host2", "host10")]
    outcome = deployments.planned(run(*starts, ok("host10", plan=plan), ok("host2", plan=plan)))
    assert list(outcome.document["hosts"]) == ["host2", "host10"]


# --- the other verbs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "code", "changes"),
    [
        ([], ExitCode.OK, 0),
        (["keep", "keep"], ExitCode.OK, 0),
        (["keep", "quarantine"], ExitCode.OK, 0),
        (["start", "restart", "stop", "keep"], ExitCode.CHANGES, 3),
    ],
)
def test_a_plan(actions, code, changes):
    outcome = deployments.planned(
        run(ok(plan={"actions": [{"action": action, "instance": "a"} for action in actions]}))
    )
    assert outcome.exit_code is code
    assert outcome.document["changes"] == changes
    assert outcome.document["unreachable"] == []


@pytest.mark.parametrize(
    ("done", "code", "said"),
    [
        ([], ExitCode.OK, "Nothing to change."),
        (
            ["write", "reload"],
            ExitCode.CHANGES,
            "Gateway gw1: writes its configuration, reloads\n\n1 to change: run magi up.",
        ),
    ],
)
def test_a_plan_that_changes_gateways_alone(done, code, said):
    gateway = ok(host="gw1", done=done, missing="", installable=False)
    outcome = deployments.planned(run(ok(plan={"actions": []}), gateway))
    assert (outcome.exit_code, outcome.document["changes"]) == (code, int(bool(done)))
    assert outcome.document["gateways"] == [{"host": "gw1", "actions": done}]
    assert "\n".join(lines.plan({**outcome.document, "hosts": {}})).strip() == said


@pytest.mark.parametrize(
    ("event", "code"), [(unreachable(), ExitCode.UNREACHABLE), (failed("no.", host="gpu2"), ExitCode.FAILED)]
)
def test_a_plan_of_some_hosts(event, code):
    outcome = deployments.planned(run(ok(plan={"actions": [{"action": "start", "instance": "a"}]}), event, rc=4))
    assert outcome.exit_code is code
    assert list(outcome.document["hosts"]) == ["gpu1"]
    assert outcome.problem


def test_a_plan_says_what_happens_to_clients():
    actions = [{"action": "restart", "instance": "a"}, {"action": "keep", "instance": "b"}]
    outcome = deployments.planned(run(ok(plan={"actions": actions}), ok(clients={"gpu1": {"a": "held"}})))
    assert [item["clients"] for item in outcome.document["hosts"]["gpu1"]["actions"]] == ["held", ""]


def test_a_recorded_plan_after_its_deployment_with_a_host_that_is_gone():
    outcome = deployments.planned(recorded.run("plan", 4))
    assert outcome.exit_code is ExitCode.UNREACHABLE
    assert outcome.document["unreachable"] == ["gone"]
    assert {item["instance"] for item in outcome.document["hosts"]["localhost"]["actions"]} == {Q2, Q3}


@pytest.mark.parametrize(
    ("ready", "events", "code"),
    [
        (2, (), ExitCode.OK),
        (1, (), ExitCode.DEGRADED),
        (2, (unreachable(),), ExitCode.UNREACHABLE),
        (2, (failed("no."),), ExitCode.FAILED),
    ],
)
def test_a_status(ready, events, code):
    status = {"ready_servers": ready, "total_servers": 2}
    outcome = deployments.seen(run(*events, ok(status=status)))
    assert (outcome.document, outcome.exit_code) == (status, code)


def test_a_recorded_status():
    outcome = deployments.seen(recorded.run("status", 4))
    assert outcome.exit_code is ExitCode.UNREACHABLE
    assert outcome.document["summary"]["unreachable"] == ["gone"]
    assert [server["is_ready"] for server in outcome.document["servers"]] == [True, False]


def test_recorded_models():
    outcome = deployments.discovered(recorded.run("discover", 4))
    assert outcome.exit_code is ExitCode.UNREACHABLE
    assert [model["id"] for model in outcome.document["hosts"]["localhost"]["models"]] == [Q2, Q3]
    assert outcome.document["drift"] == []
    assert outcome.document["unreachable"] == ["gone"]


def test_a_recorded_teardown():
    outcome = deployments.ended(recorded.run("down", 4))
    assert outcome.exit_code is ExitCode.UNREACHABLE
    assert [item["instance"] for item in outcome.document["hosts"]["localhost"]] == [Q2, Q3]


@pytest.mark.parametrize(
    "verb", [deployments.planned, deployments.seen, deployments.discovered, deployments.ended, deployments.deployed]
)
@pytest.mark.parametrize(("event", "kind"), [(unreachable(), HostUnreachable), (failed("no."), DeploymentFailed)])
def test_no_host_answered(verb, event, kind):
    with pytest.raises(kind):
        verb(run(event, rc=4))


def test_a_status_that_never_came_is_a_failure():
    with pytest.raises(DeploymentFailed, match="No host returned its status"):
        deployments.seen(run())


def test_what_a_gateway_did_not_take_in_is_said_of_a_stop():
    told = ok(results=[{"left": 0, "item": "gw1"}, {"left": 2, "item": "gw2", "warned": "After 30 s: 2 requests."}])
    outcome = deployments.ended(run(told, ok(actions=[{"instance": Q2, "action": "stop"}])), done="stopped")
    assert (outcome.exit_code, outcome.problem) == (ExitCode.OK, "")
    assert outcome.lines == [f"gpu1: stop {Q2}", "Warning: After 30 s: 2 requests."]


def test_nothing_to_stop_is_no_failure():
    assert deployments.ended(replace(run(), rc=0)) == Result({"hosts": {}})
