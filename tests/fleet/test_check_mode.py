"""Check mode of every verb, on a bare host and on a deployed one, writes nothing and predicts the real run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from .conftest import LIMIT, Q2, Q3, Q4, Fleet, bare

pytestmark = pytest.mark.fleet

DEPLOY = ("[3/5] Filtering enabled models: plan", "[4/5]")
DISCOVER, STOP, TEARDOWN = "[1/5]", "Stop instances gracefully", "Stop and remove everything"


def test_check_mode_writes_nothing_and_foretells_the_real_diff(fleet: Fleet):
    fleet.profile("one", Q2, Q3)
    fleet.profile("two", {"model": Q2, "options": {"ctx_size": 1024}}, Q4)
    bare(fleet, "host1")
    empty = before = fleet.snapshot("host1")
    assert not [line for line in empty if "magi" in line]

    def run(playbooks: str, *arguments: str, profile: str = "one", **extra):
        done = fleet.play(playbooks, *LIMIT, "--diff", *arguments, profile=profile, **extra)
        assert done.code == 0, done.output
        # What is free of the memory changes from one look to the next.
        return replace(done, output=re.sub(r"of \S+ GiB that instances can have", "of what is free", done.output))

    def check(playbooks: str, **more):
        done = run(playbooks, "--check", **more)
        assert fleet.snapshot("host1") == before
        return done

    def unchanged(playbooks: str, **more):
        assert run(playbooks, **more).changed == 0
        after = fleet.snapshot("host1")
        # The lock file names its holder; a run that changes nothing takes it, too.
        assert {line for line in set(after) ^ set(before) if not line.startswith("/etc/magi/lock ")} == set()
        return after

    # A bare host.
    bare_host = check("status stop discover teardown config doctor")
    assert bare_host.changed == 1  # the registry that discover would write
    planned = check("plan")
    checked = check("site")
    assert run("discover").task(DISCOVER) == bare_host.task(DISCOVER)
    real = run("site")
    assert [real.task(name) for name in DEPLOY] == [checked.task(name) for name in DEPLOY]
    assert real.task(DEPLOY[0]) == planned.task(DEPLOY[0])
    assert "+LLAMA_ARG_MODEL=" in real.output
    before = fleet.snapshot("host1")
    before = unchanged("site")

    # A deployed one.
    assert check("status discover config doctor logs", instance=Q2).changed == 0
    (fleet.folder / "question").write_text("Who?")
    asked = check("ask", instance=Q2, question_file=str(fleet.folder / "question"))
    assert "skipping: [host1]" in asked.task("Ask")
    planned = check("plan", profile="two")
    checked = check("site", profile="two")
    real = run("site", profile="two")
    assert [real.task(name) for name in DEPLOY] == [checked.task(name) for name in DEPLOY]
    assert real.task(DEPLOY[0]) == planned.task(DEPLOY[0])
    assert "+LLAMA_ARG_CTX_SIZE=" in real.output

    before = fleet.snapshot("host1")
    stopping = check("stop")
    removing = check("teardown")
    assert (fleet.state("host1", Q2), fleet.state("host1", Q4)) == ("active", "active")
    assert run("stop").task(STOP) == stopping.task(STOP)
    assert (fleet.state("host1", Q2), fleet.state("host1", Q4)) == ("inactive", "inactive")
    assert run("teardown").task(TEARDOWN) == removing.task(TEARDOWN)
    assert fleet.snapshot("host1") == empty
    assert fleet.sh("host1", "systemctl list-units --all --no-legend 'magi-llama@*'") == ""
    before = empty
    unchanged("stop teardown")
