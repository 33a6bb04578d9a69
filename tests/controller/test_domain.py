"""The door to the collection: the only one, always to this controller's collection, and opened only when needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

import magi
from magi import domain
from magi.errors import UsageError

from .known import ROOT

SOURCE = ROOT / "src" / "magi"


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it."""
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return modules | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def test_nothing_else_imports_the_collection():
    through = {path.name for path in SOURCE.rglob("*.py") if any("ansible_coll" in name for name in imported(path))}
    assert through == {"domain.py"}


def test_type_checkers_and_the_interpreter_see_the_same_names():
    prefix = f"{domain.NAME}.plugins."
    typed = {
        (alias.asname or alias.name, node.module.removeprefix(prefix), alias.name)
        for node in ast.walk(ast.parse((SOURCE / "domain.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(prefix)
        for alias in node.names
    }
    assert typed == {(name, module, symbol) for name, (module, symbol) in domain._PLACES.items()}
    for name in domain._PLACES:
        assert getattr(domain, name)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _found = domain.nope


def test_names_that_nobody_takes_are_not_offered():
    used = " ".join(path.read_text() for path in SOURCE.rglob("*.py") if path.name != "domain.py")
    assert [name for name in domain._PLACES if not re.search(rf"\b{name}\b", used)] == []


def test_the_controller_and_its_collection_have_one_version():
    assert magi.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    domain.check_version(ROOT / domain.FOLDER)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("galaxy.yml", "namespace: magi\nversion: 9.9.9\n", "is 9.9.9, and this magi is"),
        ("MANIFEST.json", '{"collection_info": {\n  "version": "9.9.9",\n', "is 9.9.9, and this magi is"),
        ("galaxy.yml", "namespace: magi\n", "is without a version, and this magi is"),
        ("README.md", "", "is missing in"),
    ],
)
def test_a_collection_of_another_version_is_one_sentence(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=re.escape(said)) as raised:
        domain.check_version(tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("name", ["galaxy.yml", "MANIFEST.json"])
def test_a_collection_of_this_version_is_taken_from_a_checkout_and_as_it_is_installed(name, tmp_path):
    text = {
        "galaxy.yml": f"namespace: magi\nversion: {magi.__version__}\n",
        "MANIFEST.json": f'{{\n "collection_info": {{\n  "version": "{magi.__version__}",\n',
    }
    (tmp_path / name).write_text(text[name])
    domain.check_version(tmp_path)


def other(folder: Path, *, with_init: bool = False) -> Path:
    """Write a collection magi.models that is not ours; with_init: like the ansible_collections of PyPI's ansible."""
    module = folder / domain.NAME.replace(".", "/") / "plugins" / "module_utils" / "_base" / "text.py"
    module.parent.mkdir(parents=True)
    module.write_text("printable = 'not ours'\n")
    if with_init:
        (folder / "ansible_collections" / "__init__.py").touch()
    return folder


def interpreter(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path[:0] = {[*map(str, path), str(ROOT / 'src')]!r}\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.parametrize("with_init", [False, True])
@pytest.mark.parametrize("before", ["pass", "import ansible_collections", "import ansible_collections.magi"])
def test_the_collection_is_ours_whatever_lies_on_the_path(before, with_init, tmp_path):
    code = f"{before}\nfrom magi import domain; print(domain.printable('a\\tb'), domain.build_plan.__module__)"
    done = interpreter(code, other(tmp_path, with_init=with_init))
    assert (done.stdout, done.stderr) == (f"a\\tb {domain.NAME}.plugins.module_utils._plan.build\n", "")


def test_another_collection_that_the_process_has_imported_is_never_taken(tmp_path):
    code = f"""import {domain.NAME}.plugins.module_utils._base.text
from magi import domain
from magi.errors import UsageError
try:
    domain.printable
except UsageError as error:
    print(error)
"""
    done = interpreter(code, other(tmp_path))
    where = tmp_path / domain.NAME.replace(".", "/")
    assert (done.stdout, done.stderr) == (
        f"This process has imported another collection magi.models, from {where}: run magi in a process of its own.\n",
        "",
    )
