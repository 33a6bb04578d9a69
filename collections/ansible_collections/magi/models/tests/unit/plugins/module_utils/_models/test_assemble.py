# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is no model is set aside."""

from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import entry

ASIDE = {
    "projector": ({"architecture": "clip"}, "mmproj"),
    "projector by type": ({"kind": "mmproj"}, "mmproj"),
    "adapter": ({"kind": "adapter"}, "adapter"),
    "control vector": ({"architecture": "controlvector"}, "control_vector"),
    "imatrix": ({"kind": "imatrix", "architecture": None}, "imatrix"),
    "no architecture": ({"architecture": None}, "no_architecture"),
    "vocabulary": ({"tensor_count": 0}, "vocab_only"),
}


@pytest.mark.parametrize("kind", ASIDE)
def test_what_is_no_model_is_set_aside_with_a_reason(kind):
    facts, code = ASIDE[kind]
    inventory = assemble([entry("/m/x.gguf", **facts)])
    assert inventory.models == ()
    (item,) = [*inventory.companions, *inventory.rejected]
    assert getattr(item, "kind", None) or item.code == code
    assert item.reason.startswith("/m/x.gguf")
    assert item.reason.endswith(".")
