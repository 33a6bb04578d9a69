"""The documents say what is true: every command in them is run by a test, every link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]

# Which test runs a command that stands in a document; one that stands nowhere here fails test_every_command_is_run.
RUN_BY = {
    "e2e/test_readme.py": {
        "make up",
        "make up PROFILE=fast-only",
        "MODEL_SCAN_PATH=/my/models make up",
        "make status",
        "make down",
        ". .venv/bin/activate",
        "ansible-playbook site.yml -e profile=production",
    },
    "e2e/test_documents.py": {
        "magi up production",
        "magi plan fast-only",
        "magi status",
        "magi stop",
        "magi down",
    },
    "this file, as a check of syntax: its hosts are examples": {
        "ansible-playbook -i inventories/example playbooks/prepare.yml",
        "ansible-playbook -i inventories/example site.yml -e profile=production",
        "ansible-playbook -i inventories/example site.yml -e profile=production -e model_server_serial=1",
    },
    "CI, which is make test, and contributors": {
        "make test",
        "make lint",
        "make sanity",
        "make unit",
        "make e2e",
        "make fleet",
        "pre-commit install",
    },
}


def commands(path: Path) -> list[str]:
    blocks = re.findall(r"```(?:console|bash|sh)\n(.*?)```", path.read_text(), re.DOTALL)
    lines = [re.split(r"\s{2,}#", line)[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_run(path: Path):
    known = set().union(*RUN_BY.values())
    assert set(commands(path)) <= known


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


def test_the_settings_table_is_the_code_s():
    from ansible_collections.magi.models.plugins.module_utils._settings import PREFIX, SETTINGS

    rows = re.findall(r"^\| `(\w+)`[^|]*\| (?:`(\w+)`)?", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert dict(rows) == {PREFIX + setting.name: setting.environment or "" for setting in SETTINGS}


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.svg")), ids=lambda path: path.name)
def test_a_picture_names_no_path_and_loads_nothing(path: Path):
    assert not re.findall(r"/(?:home|root|tmp|Users)\b|url\(\s*[\"']?http|@import|href=", path.read_text())
