"""The one door to the collection: what the controller uses of it, under the controller's names.

Controller and collection are one product, so this is always the collection that came with this controller: a process
may work on several projects, and may have imported another collection magi.models before. Each name is imported when it
is first used; --help uses none.
"""

# ruff: noqa: F401, I001 (type checkers read these imports, which others take from here)
from __future__ import annotations

import importlib
import re
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from magi import __version__
from magi.errors import UsageError

if TYPE_CHECKING:
    from ansible_collections.magi.models.plugins.module_utils._base.addresses import exposed
    from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
    from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError, write_atomic
    from ansible_collections.magi.models.plugins.module_utils._base.table import text_table
    from ansible_collections.magi.models.plugins.module_utils._base.text import SECRET, counted, printable
    from ansible_collections.magi.models.plugins.module_utils._config.profile import Entry, Profile
    from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import (
        Key,
        KeysError,
        checked as checked_key,
    )
    from ansible_collections.magi.models.plugins.module_utils._host.values import (
        Host,
        Running,
        foreign_listeners,
    )
    from ansible_collections.magi.models.plugins.module_utils._llama.cause import find_cause, not_on_device
    from ansible_collections.magi.models.plugins.module_utils._llama.need import Need, Told, shown as bytes_shown
    from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
    from ansible_collections.magi.models.plugins.module_utils._models.drift import Drift, drift_lines
    from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory, Model
    from ansible_collections.magi.models.plugins.module_utils._models.naming import (
        slug as model_slug,
        stem as file_stem,
    )
    from ansible_collections.magi.models.plugins.module_utils._models.registry import (
        RegistryError,
        load as load_registry,
    )
    from ansible_collections.magi.models.plugins.module_utils._models.show import inventory_lines
    from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan, open_to_all
    from ansible_collections.magi.models.plugins.module_utils._plan.estimate import context_of, slots_of
    from ansible_collections.magi.models.plugins.module_utils._plan.layers import option_layers, variables_of
    from ansible_collections.magi.models.plugins.module_utils._plan.ledger import (
        account_lines,
        name_of as device_name,
        need_line,
    )
    from ansible_collections.magi.models.plugins.module_utils._plan.options import (
        IDLE,
        InstanceError,
        resolve_options,
    )
    from ansible_collections.magi.models.plugins.module_utils._plan.need import (
        largest_context,
        prompt_share,
        prompt_shares,
    )
    from ansible_collections.magi.models.plugins.module_utils._plan.room import alone, beside, without_ours
    from ansible_collections.magi.models.plugins.module_utils._plan.select import Wanted, select as select_models
    from ansible_collections.magi.models.plugins.module_utils._plan.values import (
        Account,
        AskedForError,
        PlanError,
        Settings as PlanSettings,
    )
    from ansible_collections.magi.models.plugins.module_utils._config.settings import SETTINGS
    from ansible_collections.magi.models.plugins.plugin_utils._ansible.dotenv import (
        NAME as DOTENV,
        DotenvError,
        find_dotenv,
        read_dotenv,
    )
    from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateways import gateway_lines
    from ansible_collections.magi.models.plugins.plugin_utils._fleet.reach import way_to_reach, way_to_root
    from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
    from ansible_collections.magi.models.plugins.plugin_utils._profiles.document import (
        Document,
        DocumentError,
        Remark,
        Where,
        read_document,
    )
    from ansible_collections.magi.models.plugins.plugin_utils._profiles.load import (
        NAME as PROFILE_NAME,
        Checked,
        check_profile,
    )
    from ansible_collections.magi.models.plugins.plugin_utils._fleet.status import memory_shown, status_lines
    from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import address_from
    from ansible_collections.magi.models.plugins.plugin_utils._gateway.show import (
        HEAD as ROUTES_HEAD,
        NUMBERS as ROUTES_NUMBERS,
        gateway_title,
        route_rows,
        routes_lines,
    )
    from ansible_collections.magi.models.plugins.plugin_utils._fleet.report import summary_lines as report_lines

# The same for the interpreter: module below plugins, and its names, with ours if it differs.
_TAKEN = {
    "module_utils._base.addresses": "exposed",
    "module_utils._base.states": "ActionKind State",
    "module_utils._base.files": "FileWriteError write_atomic",
    "module_utils._base.table": "text_table",
    "module_utils._base.text": "SECRET counted printable",
    "module_utils._config.profile": "Entry Profile",
    "module_utils._haproxy.keys": "Key KeysError checked:checked_key",
    "module_utils._host.values": "Host Running foreign_listeners",
    "module_utils._llama.cause": "find_cause not_on_device",
    "module_utils._llama.need": "Need Told shown:bytes_shown",
    "module_utils._llama.options": "Binary",
    "module_utils._models.drift": "Drift drift_lines",
    "module_utils._models.model": "Inventory Model",
    "module_utils._models.naming": "slug:model_slug stem:file_stem",
    "module_utils._models.registry": "RegistryError load:load_registry",
    "module_utils._models.show": "inventory_lines",
    "module_utils._plan.build": "build_plan open_to_all",
    "module_utils._plan.layers": "option_layers variables_of",
    "module_utils._plan.ledger": "account_lines name_of:device_name need_line",
    "module_utils._plan.options": "IDLE InstanceError resolve_options",
    "module_utils._plan.estimate": "context_of slots_of",
    "module_utils._plan.need": "largest_context prompt_share prompt_shares",
    "module_utils._plan.room": "alone beside without_ours",
    "module_utils._plan.select": "Wanted select:select_models",
    "module_utils._plan.values": "Account AskedForError PlanError Settings:PlanSettings",
    "module_utils._config.settings": "SETTINGS",
    "plugin_utils._ansible.dotenv": "NAME:DOTENV DotenvError find_dotenv read_dotenv",
    "plugin_utils._profiles.document": "Document DocumentError Remark Where read_document",
    "plugin_utils._profiles.load": "NAME:PROFILE_NAME Checked check_profile",
    "plugin_utils._fleet.gateways": "gateway_lines",
    "plugin_utils._fleet.reach": "way_to_reach way_to_root",
    "plugin_utils._fleet.report": "summary_lines:report_lines",
    "plugin_utils._fleet.status": "memory_shown status_lines",
    "plugin_utils._fleet.way": "Way",
    "plugin_utils._gateway.routes": "address_from",
    "plugin_utils._gateway.show": "HEAD:ROUTES_HEAD NUMBERS:ROUTES_NUMBERS gateway_title route_rows routes_lines",
}
_PLACES = {
    name.rpartition(":")[2]: (module, name.partition(":")[0])
    for module, names in _TAKEN.items()
    for name in names.split()
}

NAME = "ansible_collections.magi.models"
FOLDER = Path("collections", *NAME.split("."))
"""The path of the collection in a project."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, symbol = _PLACES[name]
    collection()
    value = globals()[name] = getattr(importlib.import_module(f"{NAME}.plugins.{module}"), symbol)
    return value


def collection() -> ModuleType:
    """Return the package of the collection that came with this controller. Raises UsageError if it has another version,
    or if this process has imported another collection."""
    folder = carried()
    if NAME not in sys.modules:
        check_version(folder)
        for name in ("ansible_collections", "ansible_collections.magi"):  # others may have parts in these
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                _package(name, folder.parents[1 if name.endswith("s") else 0])
        _package(NAME, folder)
    package = sys.modules[NAME]
    where = Path(package.__path__[0]).resolve()
    if where != folder:
        raise UsageError(
            f"This process has imported another collection magi.models, from {where}: run magi in a process of its own."
        )
    return package


def _package(name: str, folder: Path) -> None:
    """Import a package without code of its own, even if sys.path has another one of that name."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    module = sys.modules[name] = module_from_spec(spec)
    parent, _dot, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)


def carried() -> Path:
    """Return the folder of the collection that came with this controller: in its package, or in its checkout."""
    here = Path(__file__).resolve()
    places = [here.parent / "carried" / FOLDER, *(above / FOLDER for above in here.parents)]
    return next((place for place in places if (place / "plugins").is_dir()), places[0])


def check_version(folder: Path) -> None:
    """Raise UsageError unless the collection in ``folder`` exists and has this controller's version."""
    for name, pattern in (("galaxy.yml", r"^version:\s*(\S+)"), ("MANIFEST.json", r'"version": "(\S+)"')):
        try:
            version = re.search(pattern, (folder / name).read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:
            continue
        if version and version[1] == __version__:
            return
        raise UsageError(
            f"The collection magi.models in {folder} is {version[1] if version else 'without a version'}, and this "
            f"magi is {__version__}: install the matching magi, or give another project with --project."
        )
    raise UsageError(f"The collection magi.models is missing in {folder}: restore it, or install magi-models again.")
