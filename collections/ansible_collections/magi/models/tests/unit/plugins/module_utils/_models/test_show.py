# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a scan found, shown to people."""

from __future__ import annotations

from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory
from ansible_collections.magi.models.plugins.module_utils._models.show import difference, inventory_lines
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import entry
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.folders import look
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import model, write


def test_the_table_lists_models_and_what_was_set_aside():
    inventory = assemble(
        [
            entry("/m/x-Q4_K_M.gguf", size=5 << 30, parameter_count=8_190_000_000),
            entry("/m/v.gguf", tensor_count=0),
        ]
    )
    assert inventory_lines(inventory) == [
        "id        tier  task     size  parameters  context  path",
        "--------  ----  ----  -------  ----------  -------  ----------------",
        "x-q4_k_m  Q4    chat  5.0 GiB       8.2 B     4096  /m/x-Q4_K_M.gguf",
        "",
        "Set aside:",
        "  /m/v.gguf holds a vocabulary and no weights.",
    ]


def test_an_empty_table_has_its_head():
    assert inventory_lines(Inventory()) == [
        "id  tier  task  size  parameters  context  path",
        "--  ----  ----  ----  ----------  -------  ----",
    ]


def test_the_difference_is_by_id(tmp_path, registry_path):
    write(tmp_path / "m/a-Q4_0.gguf", model("A"))
    write(tmp_path / "m/b-Q4_0.gguf", model("B"))
    before = look(tmp_path, registry_path).registry
    (tmp_path / "m/a-Q4_0.gguf").unlink()
    write(tmp_path / "m/b-Q4_0.gguf", model("Other"))
    write(tmp_path / "m/c-Q4_0.gguf", model("C"))
    after = look(tmp_path, registry_path).registry
    shown = difference(before.inventory, after.inventory)
    lines = {side: set(text.splitlines()) for side, text in shown.items()}
    assert {line.split(":")[0] for line in lines["before"] - lines["after"]} == {"a-q4_0", "b-q4_0"}
    assert {line.split(":")[0] for line in lines["after"] - lines["before"]} == {"b-q4_0", "c-q4_0"}
