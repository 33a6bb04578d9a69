"""Rules of the house that a reader relies on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from ansible_collections.magi.models.plugins.module_utils._config.settings import PREFIX, SETTINGS

COLLECTION = Path(__file__).parents[3]
UTILS = COLLECTION / "plugins" / "module_utils"

# The files in the order in which a value flows; each imports only those before it.
ORDER = [
    *("_base.text", "_base.table", "_base.states", "_base.files", "_base.cores", "_config.settings"),
    *("_gguf.format", "_gguf.reader", "_models.facts", "_models.quantization", "_models.naming", "_models.model"),
    *("_models.found", "_models.shards", "_models.draft", "_models.projectors", "_models.assemble"),
    *("_models.drift", "_models.show", "_models.library", "_models.digests", "_models.registry", "_models.scan"),
    *("_config.profile", "_host.values"),
    *("_plan.capacity", "_plan.instance", "_llama.cause", "_plan.build"),
    *("_services.manager", "_services.supervisor", "_services.systemd"),
    *("_host.lock", "_host.inspect", "_llama.chat", "_host.apply"),
    *("_base.command", "_install.step", "_install.download", "_install.archive", "_install.binary"),
    *("_install.build", "_install.release"),
]
# Decide, and nothing else: no process, no socket, no file.
PURE = [
    *(
        "_base.text",
        "_base.states",
        "_config.settings",
        "_config.profile",
        "_host.values",
        "_llama.cause",
    ),
    *("_base.table", "_gguf.format", "_models.facts", "_models.quantization", "_models.naming", "_models.model"),
    *("_models.found", "_models.shards", "_models.draft", "_models.projectors", "_models.assemble"),
    *("_models.drift", "_models.show"),
    *("_plan.capacity", "_plan.instance", "_plan.build"),
]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_noun_has_its_place():
    assert {f"{path.parent.name}.{path.stem}" for path in UTILS.glob("_*/*.py")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_noun_imports_only_those_before_it(name):
    path = UTILS / name.replace(".", "/")
    for module in {m for m in imports(path.with_suffix(".py")) if m.count(".") == 6 and ".module_utils._" in m}:
        other = module.split(".module_utils.")[1]
        if (name, other.split(".")[0]) != ("_services.manager", "_services"):
            assert ORDER.index(other) < ORDER.index(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", PURE)
def test_what_decides_does_not_act(name):
    forbidden = {"subprocess", "socket", "http.client", "os", "pathlib", "urllib.request"}
    assert not imports(UTILS / f"{name.replace('.', '/')}.py") & forbidden


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
