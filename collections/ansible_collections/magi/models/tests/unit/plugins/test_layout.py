"""Rules of the house that a reader relies on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from ansible_collections.magi.models.plugins.module_utils._settings import PREFIX, SETTINGS

COLLECTION = Path(__file__).parents[3]
UTILS = COLLECTION / "plugins" / "module_utils"

# The nouns in the order in which a value flows; each imports only those before it.
ORDER = [
    "_text",
    "_files",
    "_cores",
    "_settings",
    "_gguf",
    "_model",
    "_library",
    "_registry",
    "_profile",
    "_host",
    "_capacity",
    "_instance",
    "_cause",
    "_plan",
    "_services",
    "_generation",
    "_report",
    "_rollout",
    "_probe",
    "_chat",
    "_apply",
    "_command",
    "_archive",
    "_binary",
]
# Decide, and nothing else: no process, no socket, no file.
PURE = ["_capacity", "_cause", "_host", "_instance", "_plan", "_profile", "_report", "_rollout", "_settings", "_text"]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_noun_has_its_place():
    assert {path.stem for path in UTILS.iterdir() if path.stem not in ("__init__", "__pycache__")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_noun_imports_only_those_before_it(name):
    path = UTILS / name
    files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else list(path.glob("*.py"))
    for module in {m for file in files for m in imports(file) if ".module_utils._" in m}:
        other = "_" + module.split(".module_utils._")[1].split(".")[0]
        assert other == name or ORDER.index(other) < ORDER.index(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", PURE)
def test_what_decides_does_not_act(name):
    forbidden = {"subprocess", "socket", "http.client", "os", "pathlib", "urllib.request"}
    assert not imports(UTILS / f"{name}.py") & forbidden


def test_settings_defaults_and_argument_specs_agree():
    role = COLLECTION / "roles" / "model_server"
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert {name: spec["default"] for name, spec in specs.items() if "default" in spec} == defaults
    settings = {PREFIX + setting.name: setting for setting in SETTINGS}
    assert specs.keys() == settings.keys() | {"model_server_stop_instances"}
    for name, setting in settings.items():
        if setting.environment:
            assert f"C({setting.environment})" in " ".join(str(specs[name]["description"]).split())


def test_every_verb_has_its_argument_specs():
    role = COLLECTION / "roles" / "model_server"
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    assert specs.keys() == {path.stem for path in (role / "tasks").glob("*.yml")}
