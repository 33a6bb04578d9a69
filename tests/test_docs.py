"""The documents are true: a test runs every command in them, and every link leads somewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
COLLECTION = ROOT / "collections" / "ansible_collections" / "magi" / "models"
Q2 = "smollm2-135m-instruct.q2_k"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]

# Which file of the tests runs each command, and the text there that does.
RUN_BY = {
    "make up": ("e2e/test_readme.py", 'stranger.run("make up")'),
    "make up MODELS=~/models": ("e2e/test_readme.py", "stranger.run(f\"make up MODELS='{mine}'\")"),
    "make up MODELS=": ("e2e/test_readme.py", 'stranger.run("make up MODELS=")'),
    "make up PROFILE=fast-only": ("e2e/test_readme.py", 'stranger.run("make up PROFILE=fast-only")'),
    "make status": ("e2e/test_readme.py", 'stranger.run("make status")'),
    "make down": ("e2e/test_readme.py", 'stranger.run("make down")'),
    ". .venv/bin/activate": ("e2e/test_readme.py", 'stranger.run(". .venv/bin/activate && ansible-playbook'),
    "ansible-playbook site.yml -e profile=production": (
        "e2e/test_readme.py",
        "activate && ansible-playbook site.yml -e profile=production",
    ),
    "magi doctor": ("e2e/test_verbs.py", 'magi.json("doctor", '),
    "magi rollback": ("e2e/test_gateway.py", 'magi(behind, "rollback")'),
    "magi rollback --check": ("e2e/test_gateway.py", 'magi(behind, "rollback", "--check", '),
    "magi stop --limit gpu1": ("fleet/test_gateway.py", 'begin(tmp_path, "stop", "--limit", "host2", '),
    "magi routes": ("e2e/test_gateway.py", 'magi(behind, "routes")'),
    "magi top": ("e2e/test_terminal.py", 'Terminal(state, "top", '),
    "magi top --sort queue": ("e2e/test_terminal.py", '"top", "--json", "--sort", "queue"'),
    "docker ps --filter label=magi.home=/etc/magi": ("e2e/test_docker.py", 'f"label=magi.home={deployment.home}"'),
    "docker build --file containers/Containerfile --tag magi .": (
        "e2e/test_image.py",
        '"--file", "containers/Containerfile", *tag, "."',
    ),
    'docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/project" --volume ~/.ssh:/home/magi/.ssh:ro magi plan production': (
        "e2e/test_image.py",
        'magi(tmp_path, "plan", "production")',
    ),
    "python -m build --wheel": ("e2e/test_wheel.py", '"-m", "build"'),
    "ansible-builder build --file containers/execution-environment.yml --context build/execution-environment "
    "--tag magi-ee": ("e2e/test_image.py", '"ansible_builder", "create"'),
    # Compose itself is not everywhere: docker runs what the file says.
    **dict.fromkeys(
        ("cd containers", "docker compose up --detach", "docker compose down"),
        ("e2e/test_image.py", "found = service(values)"),
    ),
    "docker compose logs": ("e2e/test_image.py", '"docker", "logs", whole'),
    "docker compose exec magi magi status": ("e2e/test_image.py", '"exec", whole, "magi", "status"'),
    "docker compose exec magi cat /home/magi/.local/state/magi/serve/tokens": (
        "e2e/test_image.py",
        '"exec", whole, "cat", "/home/magi/.local/state/magi/serve/tokens"',
    ),
    "docker compose exec magi magi down": ("e2e/test_image.py", '"exec", name, "magi", "down"'),
    "magi config": ("e2e/test_verbs.py", 'magi.json("config", '),
    f"magi fit {Q2} --ctx-size 8192": ("e2e/test_verbs.py", '"fit", Q2, "--ctx-size", '),
    f"magi logs {Q2} -n 20": ("e2e/test_verbs.py", '"logs", Q2, "-n", '),
    f"magi logs {Q2} -f": ("e2e/test_verbs.py", '"logs", Q2, "-n", "1", "-f", '),
    f'magi ask {Q2} "What is the capital of France?"': ("e2e/test_verbs.py", '"ask", Q2, question, '),
    "magi serve": ("e2e/serving.py", '"serve", "--port", '),
    "magi profile list": ("controller/test_profile_verbs.py", '("profile", "list")'),
    "magi profile show production": ("controller/test_profile_verbs.py", '("profile", "show", "production")'),
    "magi profile validate": ("controller/test_profile_verbs.py", '("profile", "validate")'),
    "magi profile new mine": ("e2e/test_verbs.py", 'magi.json("profile", "new", "mine", '),
    "magi key add alice": ("e2e/test_gateway.py", 'told(behind, "key", "add", "alice")'),
    "magi key add ci --models '*q2_k' --concurrent 1 --per-minute 2 --expires 9000-01-31": (
        "e2e/test_gateway.py",
        '"--models", "*q2_k", "--concurrent", "1", "--per-minute", "2", "--expires", "9000-01-31"',
    ),
    "magi key list": ("e2e/test_gateway.py", 'told(behind, "key", "list")'),
    "magi key revoke alice": ("e2e/test_gateway.py", 'told(behind, "key", "revoke", "alice")'),
    "magi migrate legacy.yml --name old": (
        "controller/test_profile_verbs.py",
        '("migrate", "legacy.yml", "--name", "old")',
    ),
    # The whole block is taken from the document.
    **dict.fromkeys(
        (
            *("magi up production", "magi plan fast-only", "magi status"),
            *("magi health", "magi stop", "magi down"),
        ),
        ("e2e/test_documents.py", 'blocks("controller.md", "console")'),
    ),
    # The whole walk is taken from the document, but for the package, which is no release yet.
    "pipx install magi-models": ("e2e/test_wheel.py", '"install"'),
    **dict.fromkeys(
        (
            *("magi init fleet --host gpu1 --host gpu2", "cd fleet"),
            *("ssh-keygen -t ed25519 -f ~/.ssh/id_ed25519", "ssh-copy-id ops@gpu1", "ssh-copy-id ops@gpu2"),
            *("magi prepare", "magi up development"),
            "openssl rand -hex 32 >api-key",
            "ssh ops@gpu1 'sudo install -m 600 /dev/stdin /etc/magi-keys' <api-key",
            "ssh ops@gpu2 'sudo install -m 600 /dev/stdin /etc/magi-keys' <api-key",
            'curl -s http://gpu1:8080/v1/chat/completions -H "Authorization: Bearer $(cat api-key)" '
            """-d '{"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 64}'""",
        ),
        ("fleet/test_from_nothing.py", '(ROOT / "docs" / "fleet.md").read_text()'),
    ),
    # As a check of syntax: its hosts are examples.
    "cp -r inventories/example inventories/mine": (
        "e2e/test_readme.py",
        'run("cp -r inventories/example inventories/mine")',
    ),
    **{
        f"ansible-playbook -i inventories/mine {playbook}": ("e2e/test_readme.py", f'"{playbook}",')
        for playbook in (
            *("playbooks/prepare.yml", "site.yml -e profile=production"),
            "site.yml -e profile=production -e model_server_serial=1",
        )
    },
    # The whole block is taken from the document.
    **dict.fromkeys(
        (
            ".venv/bin/ansible-playbook -i inventories/local -i inventories/monitoring site.yml",
            "prometheus --config.file=data/monitoring/prometheus.yml --storage.tsdb.path=data/monitoring/series "
            "--web.listen-address=127.0.0.1:9090",
        ),
        ("e2e/test_readme.py", '"docs" / "observability.md"'),
    ),
    "make chaos": ("fleet/test_chaos.py", '"tests.chaos.chaos"'),
    "make test": ("../.ci/run", "exec make test"),
    **dict.fromkeys(
        ("make lint", "make style", "make sanity", "make units"),
        ("test_docs.py", '@pytest.mark.parametrize("part", ["lint", "style", "sanity", "units"])'),
    ),
    **dict.fromkeys(
        ("make unit", "make e2e", "make fleet"),
        ("test_docs.py", 'for target in ("unit", "e2e", "fleet")'),
    ),
    "pre-commit install": ("test_docs.py", '"pre-commit"), "install"]'),
}


def commands(path: Path) -> list[str]:
    blocks = re.findall(r"```(?:console|bash|sh)\n(.*?)```", path.read_text(), re.DOTALL)
    lines = [re.split(r"\s{2,}#", line)[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_run(path: Path):
    for command in commands(path):
        test, text = RUN_BY[command]
        source = (ROOT / "tests" / test).read_text()
        assert text in source.partition("RUN_BY = {")[0] + source.partition("\n}\n")[2], (
            f"{test} does not run {command}"
        )


def test_no_command_is_left_of_what_documents_no_longer_show():
    assert {*RUN_BY} == {command for path in DOCUMENTS for command in commands(path)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_reference_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "reference.md").read_text() == generate.reference(), "run make docs"
    assert (ROOT / "docs" / "magi.1").read_text() == generate.manual(), "run make docs"
    assert (ROOT / "docs" / "alerts.md").read_text() == generate.alerts(), "run make docs"
    assert "ignore:" not in generate.reference()  # markup that only ansible-doc reads


def test_the_changelog_lists_what_came_with_each_release():
    releases = yaml.safe_load((COLLECTION / "changelogs" / "changelog.yaml").read_text())["releases"]
    since = {
        path.stem: re.search(r"^version_added: (\S+)$", path.read_text(), re.MULTILINE).group(1)
        for path in (COLLECTION / "plugins" / "modules").glob("*.py")
    }
    for version, release in releases.items():
        assert {item["name"] for item in release["modules"]} == {name for name in since if since[name] == version}


def test_the_settings_table_is_the_code_s():
    from ansible_collections.magi.models.plugins.module_utils._config.settings import PREFIX, SETTINGS

    rows = re.findall(r"^\| `(\w+)`[^|]*\| (?:`(\w+)`)?", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert dict(rows) == {PREFIX + setting.name: setting.environment or "" for setting in SETTINGS}


def would_run(target: str, *variables: str) -> str:
    """Return the commands of a target of the Makefile."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", target, *variables], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("variables", "command"),
    [
        ((), "ansible-playbook site.yml"),  # so that MAGI_PROFILE and the inventory count
        (("PROFILE=fast-only",), "ansible-playbook site.yml -e profile=fast-only"),
    ],
)
def test_make_up_names_a_profile_only_where_it_is_given_one(variables: tuple[str, ...], command: str):
    assert would_run("up", *variables).splitlines()[-1].strip() == command


@pytest.mark.parametrize("part", ["lint", "style", "sanity", "units"])
def test_make_test_has_these_parts(part: str):
    last = would_run(part).splitlines()[-1]
    assert last in would_run("test").splitlines()


def test_make_test_has_the_programs_before_the_first_test_that_needs_them():
    commands = would_run("test")
    for program in ("haproxy", "promtool", "chromium"):
        assert commands.index(f"command -v {program}") < commands.index("sanity style units"), program


# Collects for several command lines in one process, which imports everything once.
COLLECT = """
import json, pytest, sys
for arguments in json.loads(sys.argv[1]):
    print("status", int(pytest.main([*arguments, "--collect-only", "-q"])), flush=True)
"""


def test_targets_select_tests():
    targets = [shlex.split(would_run(target).splitlines()[-1]) for target in ("unit", "e2e", "fleet")]
    assert {program for program, *_arguments in targets} == {"pytest"}
    given = json.dumps([arguments for _program, *arguments in targets])
    done = subprocess.run([sys.executable, "-c", COLLECT, given], cwd=ROOT, capture_output=True, text=True, check=False)
    collected = re.findall(r"^[1-9]\d*(?:/\d+)? tests collected.*\nstatus 0$", done.stdout, re.MULTILINE)
    assert len(collected) == len(targets), done.stdout + done.stderr


def test_pre_commit_installs(tmp_path: Path):
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(tmp_path / "clone")], check=True)
    subprocess.run([Path(sys.executable).with_name("pre-commit"), "install"], cwd=tmp_path / "clone", check=True)
    assert (tmp_path / "clone" / ".git" / "hooks" / "pre-commit").exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.svg")), ids=lambda path: path.name)
def test_a_picture_names_no_path_and_loads_nothing(path: Path):
    assert not re.findall(r"/(?:home|root|tmp|Users)\b|url\(\s*[\"']?http|@import|href=", path.read_text())
