"""magi profile and magi migrate as typed: exit codes, and one document and nothing else on standard output."""

from __future__ import annotations

import json

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory, Model
from ansible_collections.magi.models.plugins.module_utils._models.registry import Registry, save

from magi.cli import main

from ..playbook import copy_profiles
from .known import Q2, Q3, ROOT


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the shipped profiles, a registry, a legacy configuration and magi's state."""
    copy_profiles(tmp_path / "profiles")
    save(str(tmp_path / "registry.json"), Registry(("/models",), Inventory((Model.from_dict(Q2), Model.from_dict(Q3)))))
    (tmp_path / "legacy.yml").write_text(f"models:\n  A: {{name: {Q2['id']}, port: 8080}}\n  B: {{name: gone}}\n")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MAGI_PROJECT", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


NEW, REGISTRY = ("profile", "new", "mine"), ("--registry", "registry.json")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("profile", "list"), 0, "production   2        Q3 and Q4 only"),
        (
            ("profile", "show", "production"),
            0,
            "No host is known yet: run magi discover, or name a registry with --registry.",
        ),
        (("profile", "show", "production", *REGISTRY), 0, f"{Q3['id']}  Q3    free  -"),
        (("profile", "show", "nope"), 2, "magi: Profile nope not found"),
        (("profile", "validate"), 0, "production.yml: ok"),
        (("profile", "validate", "production", *REGISTRY), 0, "production.yml: ok"),
        (("profile", "validate", "bad.yml"), 2, 'bad.yml, line 2: unknown key "tires"'),
        (NEW, 2, "magi: No model is known: run magi discover, or name a registry with --registry."),
        ((*NEW, *REGISTRY), 0, "profiles/mine.yml is written; models in it: 2."),
        (("profile", "new", "production", *REGISTRY), 2, "production.yml exists and stays as it is"),
        (("profile", "new", "../x", *REGISTRY), 2, "A profile's name has letters, digits"),
        (("migrate", "legacy.yml", "--name", "old", *REGISTRY), 0, "legacy.yml, line 3: B (gone): no discovered model"),
        (
            ("migrate", "legacy.yml", "--name", "old"),
            2,
            "legacy.yml: no model is known, so nothing is written; run magi discover, or name a "
            "registry with --registry.",
        ),
        (("migrate", "nope.yml", *REGISTRY), 2, "nope.yml: it can't be read: No such file or directory."),
        (("migrate", "legacy.yml", "--registry", "nope.json"), 2, "The registry nope.json does not exist"),
    ],
)
def test_for_people(here, capsys, arguments, code, said):
    (here / "bad.yml").write_text("enabled_models: ['*']\ntires: 4\n")
    assert main([*arguments, "--dir", str(here / "profiles")]) == code
    out, err = capsys.readouterr()
    assert out == ""  # no terminal: standard output is for programs
    assert said in err


def test_an_empty_folder_is_not_valid(tmp_path, here, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["profile", "validate", "--dir", str(tmp_path / "empty")]) == 2
    said = f"magi: There is no profile in {tmp_path}/empty: magi profile new writes one, --dir names another folder.\n"
    assert capsys.readouterr() == ("", said)


def test_a_file_that_no_deployment_finds_is_named(here, capsys):
    folder = ["--dir", str(here / "profiles")]
    (here / "profiles" / "mine.yaml").write_text("enabled_models: ['*']\n")
    assert main(["profile", "validate", *folder]) == 2
    assert "mine.yaml, line 1: a profile's file must be called <name>.yml" in capsys.readouterr().err
    assert main(["profile", "list", *folder]) == 0
    assert "mine.yaml, line 1: a profile's file must be called <name>.yml" in capsys.readouterr().err
    assert main(["profile", "show", "mine", *folder]) == 2
    assert ": development, fast-only, production." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "keys"),
    [
        (("profile", "list"), 0, {"folder", "profiles"}),
        (("profile", "show", "production"), 0, {"profile", "path", "description", "hosts"}),
        (("profile", "show", "nope"), 2, {"error"}),
        (("profile", "validate"), 0, {"profiles"}),
        ((*NEW, *REGISTRY), 0, {"path", "models"}),
        (("migrate", "legacy.yml", "--name", "old", *REGISTRY), 0, {"path", "entries"}),
    ],
)
def test_for_programs(here, capsys, arguments, code, keys):
    assert main([*arguments, "--json", "--dir", str(here / "profiles")]) == code
    assert json.loads(capsys.readouterr().out).keys() == keys


def test_a_failed_migration_writes_nothing(here):
    before = sorted(path.name for path in (here / "profiles").iterdir())
    assert main(["migrate", "legacy.yml", "--name", "old", "--dir", str(here / "profiles")]) == 2
    assert sorted(path.name for path in (here / "profiles").iterdir()) == before
