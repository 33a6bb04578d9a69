# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The values of a scan travel through JSON."""

from __future__ import annotations

import json

from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import entry, shards


def test_an_inventory_travels_through_json():
    projector = entry("/m/mmproj.gguf", architecture="clip", projector_types=["mlp"], projector_width=8)
    found = assemble([*shards(2), projector, entry("/m/vocab.gguf", tensor_count=0)])
    assert found.models[0].mmproj.path == projector.file.path
    assert all(found.to_dict().values())
    assert Inventory.from_dict(json.loads(json.dumps(found.to_dict()))) == found
