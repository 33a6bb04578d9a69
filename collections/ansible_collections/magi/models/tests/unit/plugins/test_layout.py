"""House rules that a reader relies on."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.magi.models.plugins.module_utils._config.monitoring import MONITORING_OPTIONS
from ansible_collections.magi.models.plugins.module_utils._config.settings import PREFIX, SETTINGS
from ansible_collections.magi.models.plugins.module_utils._config.timing import TIMING
from ansible_collections.magi.models.plugins.module_utils._haproxy.options import GATEWAY_OPTIONS
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import RUNBOOKS
from ansible_collections.magi.models.tests.unit.plugins.layout import OWN, Source, impure, sources, strangers, upward

COLLECTION = Path(__file__).parents[3]
TARGET = sources(COLLECTION / "plugins" / "module_utils")
CONTROLLER = sources(COLLECTION / "plugins" / "plugin_utils")

EFFECTS = {
    *(
        "_ansible",
        "_base.command",
        "_base.cores",
        "_base.files",
        "_base.folder",
        "_base.gpus",
        "_base.history",
        "_base.locked",
        "_base.private_module",
        "_base.stream",
        "_gguf.reader",
        "_install",
        "_profiles",
    ),
    *("_llama.architectures", "_llama.chat", "_llama.client", "_llama.drain", "_llama.probe", "_llama.probe_all"),
    *(
        "_host.activity",
        "_host.apply",
        "_host.binary",
        "_host.claims",
        "_host.inspect",
        "_host.lock",
        "_host.needs",
        "_host.procfs",
        "_host.trial",
        "_host.wait",
        "_models.library",
        "_models.digests",
        "_models.registry",
        "_models.scan",
    ),
    *(f"_haproxy.{name}" for name in ("apply", "choice", "program", "runtime", "secrets", "service", "unit")),
    *(f"_services.{name}" for name in ("choice", "containers", "manager", "supervisor", "systemd", "timer")),
}
"""The files and packages that act on the world. All others only decide."""


def test_a_file_imports_only_what_is_below_it():
    assert upward([*TARGET, *CONTROLLER]) == []


def test_what_decides_does_not_act():
    assert impure([*TARGET, *CONTROLLER], EFFECTS) == []


def test_a_target_needs_nothing_but_python():
    assert strangers(TARGET) == []


def test_no_two_classes_have_the_same_name():
    plugins = COLLECTION / "plugins"
    named = [
        node.name
        for path in plugins.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    of_ansible = {"ActionModule", "FilterModule", "ModuleDocFragment"}
    assert sorted({name for name in named if named.count(name) > 1} - of_ansible) == []


def file(name, *imported):
    rooms = {"_fleet": "plugin_utils."}
    own = (OWN + rooms.get(item.split(".")[0], "module_utils.") + item if item[0] == "_" else item for item in imported)
    return Source(name, frozenset(own))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([file("_plan.a", "_base.b"), file("_base.b")], []),
        ([file("_plan.a", "_plan.b"), file("_plan.b")], []),
        ([file("_base.b", "_plan.a"), file("_plan.a")], ["_base.b imports _plan.a, which is not below it."]),
        ([file("_plan.a", "_fleet.b"), file("_fleet.b")], ["_plan.a imports _fleet.b, which is not below it."]),
        ([file("_gguf.a", "_llama.b"), file("_llama.b")], ["_gguf.a imports _llama.b, which is not below it."]),
        # a file apart from its package
        ([file("_plan.a", "_host.values"), file("_host.values")], []),
        ([file("_plan.a", "_host.lock"), file("_host.lock")], ["_plan.a imports _host.lock, which is not below it."]),
        (
            [file("_host.values", "_host.lock"), file("_host.lock")],
            ["_host.values imports _host.lock, which is not below it."],
        ),
        ([file("_new.a")], ["_new.a is in no package that has a rank."]),
        (
            [file("_plan.a", "_plan.b"), file("_plan.b", "_plan.c"), file("_plan.c", "_plan.a")],
            ["_plan.a imports _plan.b imports _plan.c imports _plan.a: a circle."],
        ),
    ],
)
def test_an_import_that_goes_up_or_round_is_seen(files, said):
    assert upward(files) == said


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([file("_plan.a", "json", "time")], []),
        ([file("_host.lock", "os"), file("_services.b", "os")], []),
        ([file("_plan.a", "os")], ["_plan.a imports os, so it is not pure."]),
        ([file("_plan.a", "pathlib.PurePosixPath")], []),
        ([file("_plan.a", "_services.b"), file("_services.b")], ["_plan.a imports _services.b, so it is not pure."]),
    ],
)
def test_an_import_that_acts_is_seen(files, said):
    there = [file("_host.lock"), file("_services.c")]
    assert impure([*there, *files], {"_host.lock", "_services"}) == said


def test_an_effect_that_is_gone_is_seen():
    assert impure([], {"_host.gone"}) == ["_host.gone is named as an effect and does not exist."]


def test_the_imports_of_a_file_are_read(tmp_path):
    (tmp_path / "_plan").mkdir()
    (tmp_path / "_plan" / "a.py").write_text(
        f"import os.path\nfrom pathlib import PurePath\ndef f():\n    from {OWN}module_utils._host import lock\n"
    )
    (found,) = sources(tmp_path)
    assert found == file("_plan.a", "os", "os.path", "pathlib.PurePath", "_host.lock", "_host")


def test_a_package_that_a_target_may_not_have_is_seen():
    files = [file("_plan.a", "json", "ansible.module_utils.basic", "_base.b", "yaml")]
    assert strangers(files) == ["_plan.a imports yaml, which a target may not have."]


def test_settings_defaults_and_argument_specs_agree():
    role = COLLECTION / "roles" / "model_server"
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert {name: spec["default"] for name, spec in specs.items() if "default" in spec} == defaults
    assert {PREFIX + name: option["default"] for name, option in TIMING.items()}.items() <= defaults.items()
    settings = {PREFIX + setting.name: setting for setting in SETTINGS}
    assert specs.keys() == settings.keys() | {"model_server_stop_instances", "model_server_rollback"}
    for name, setting in settings.items():
        if setting.environment:
            assert f"C({setting.environment})" in " ".join(str(specs[name]["description"]).split())


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({}, "/usr/local/bin/llama-server"),
        ({"model_server_llama_server_path": ""}, "/usr/local/bin/llama-server"),
        ({"model_server_llama_server_path": "/opt/mine"}, "/opt/mine"),
        # LLAMA_SERVER_PATH and -e, which settings.yml has settled
        (
            {
                "model_server_llama_server_path": "/opt/mine",
                "__model_server": {"settings": {"llama_server_path": "/x"}},
            },
            "/x",
        ),
        ({"model_server_llama_server_path": "/opt/mine", "__model_server": {}}, "/opt/mine"),
    ],
)
def test_one_variable_names_the_binary_for_the_role_that_gets_it_too(variables: dict[str, Any], path: str):
    file = COLLECTION / "roles" / "llama_server" / "defaults" / "main.yml"
    default = DataLoader().load_from_file(str(file), trusted_as_template=True)["llama_server_path"]
    assert Templar(DataLoader(), variables).template(default) == path


def test_defaults_and_argument_specs_of_the_gateway_agree():
    role = COLLECTION / "roles" / "gateway"
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert {name: spec["default"] for name, spec in specs.items() if "default" in spec} == defaults
    options = {name.partition("model_gateway_")[2]: value for name, value in defaults.items()}
    module = {name: option["default"] for name, option in GATEWAY_OPTIONS.items() if "default" in option}
    assert options == {**{name: module[name] for name in options if name in module}, "home": options["home"]}
    assert {name: options[name] for name in vars(Gateway())} == vars(Gateway())


def test_defaults_and_argument_specs_of_the_monitoring_agree():
    role = COLLECTION / "roles" / "observability"
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert {name: spec["default"] for name, spec in specs.items() if "default" in spec} == defaults
    options = {f"observability_{name}": option.get("default") for name, option in MONITORING_OPTIONS.items()}
    assert {
        name: value for name, value in options.items() if name in defaults and "home" not in name
    }.items() <= defaults.items()
    assert MONITORING_OPTIONS["runbooks"]["default"] == RUNBOOKS
    given = yaml.safe_load((COLLECTION / "galaxy.yml").read_text())["repository"]
    assert RUNBOOKS.startswith(given)


def test_gateways_and_prometheus_are_told_of_the_same_tasks():
    gateway, monitoring = (
        yaml.safe_load((COLLECTION / "roles" / name / "vars" / "main.yml").read_text())[f"__{name}_hosts"]
        for name in ("gateway", "observability")
    )
    assert gateway == monitoring


@pytest.mark.parametrize("name", ["model_server", "gateway", "observability"])
def test_every_verb_has_its_argument_specs(name):
    role = COLLECTION / "roles" / name
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    assert specs.keys() == {path.stem for path in (role / "tasks").glob("*.yml")}


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("Playbooks", "playbooks/*.yml"),
        ("Modules", "plugins/modules/*.py"),
        ("Roles", "roles/*"),
        ("Filters", "plugins/filter/*.py"),
    ],
)
def test_the_readme_names_all_that_is_there(line, files):
    listed = (COLLECTION / "README.md").read_text().partition("## What is in it\n")[2].partition("\n## ")[0]
    named = [
        name
        for item in re.split(r"^- ", listed, flags=re.MULTILINE)
        if item.startswith(line)
        for name in re.findall(r"`(\w+)`", item)
    ]
    assert sorted(named) == sorted(path.stem for path in COLLECTION.glob(files))


@pytest.mark.parametrize("group", ["services", "gateways"])
def test_an_action_group_is_who_shares_its_options(group):
    """So that module_defaults can give them once."""
    listed = yaml.safe_load((COLLECTION / "meta" / "runtime.yml").read_text())["action_groups"][group]
    modules = (COLLECTION / "plugins" / "modules").glob("*.py")
    shared = [path.stem for path in modules if re.search(rf"^  - magi.models.{group}$", path.read_text(), re.MULTILINE)]
    assert sorted(listed) == sorted(shared)


def test_the_readme_says_which_modules_run_on_the_controller():
    (named,) = re.findall(
        r"^- Modules on the controller: ([^.]*)", (COLLECTION / "README.md").read_text(), re.MULTILINE
    )
    actions = (COLLECTION / "plugins" / "action").glob("*.py")
    assert {*re.findall(r"`(\w+)`", named)} == {
        path.stem for path in actions if re.search(r"class ActionModule\(.*ControllerAction", path.read_text())
    }


def _arguments(path: Path, module: str) -> list[dict[str, str]]:
    """Return what each task of a file gives to ``module``, tasks in blocks included."""

    def tasks(items):
        for item in items:
            yield item
            yield from tasks(item.get("block", ()))

    return [item[module] for item in tasks(yaml.safe_load(path.read_text())) if module in item]


@pytest.mark.parametrize(
    ("role", "files", "module", "own"),
    [
        ("gateway", ("prepare", "configure"), "magi.models.model_gateway", {"state", "optional", "health_from"}),
        (
            "model_server",
            ("phases", "launch", "relieve"),
            "magi.models.llama_instances",
            {"held_back", "beside", "begun", "stand_ins", "relieves"},
        ),
    ],
)
def test_a_gateway_or_a_host_is_told_the_same_in_each_phase(role, files, module, own):
    """A setting that one task has and another has not would be a change in the middle of each deployment."""
    given = [
        item for name in files for item in _arguments(COLLECTION / "roles" / role / "tasks" / f"{name}.yml", module)
    ]
    assert len(given) > 1
    same = [{key: value for key, value in item.items() if key not in own} for item in given]
    assert all(item == same[0] for item in same)
