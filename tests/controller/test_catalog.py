"""What the controller remembers about hosts."""

from __future__ import annotations

import stat

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory, Model
from ansible_collections.magi.models.plugins.module_utils._models.registry import Registry
from ansible_collections.magi.models.plugins.module_utils._models.registry import save as save_registry

from magi.config import REDACTED
from magi.errors import UsageError
from magi.state.catalog import Known, from_registry, learn, load, save

from .known import BINARY, Q2, Q3, host

REGISTRY = {"models": [Q2], "rejected": [], "companions": [], "registry_path": "/var/lib/magi/model_registry.json"}
SETTINGS = {"settings": {"options": {"n_gpu_layers": "all"}}, "origins": {}}
HOST = {"host": {"binary": BINARY.to_dict(), "cores": 8}}


def test_each_stage_adds_what_it_saw():
    hosts = learn({}, [("gpu1", SETTINGS), ("gpu1", REGISTRY), ("gpu2", {"models": {"gpu1": []}, "drift": []})])
    assert hosts == {"gpu1": Known("gpu1", (Q2,), options={"n_gpu_layers": "all"})}
    hosts = learn(hosts, [("gpu1", HOST), ("gpu1", {"host": {"binary": None}})])
    assert hosts["gpu1"] == Known("gpu1", (Q2,), options={"n_gpu_layers": "all"}, binary=BINARY)
    assert learn({}, [("gpu2", {**REGISTRY, **HOST})])["gpu2"] == Known("gpu2", (Q2,), binary=BINARY)


def test_no_secret_is_remembered():
    options = {"api_key": "canary", "hf_token": "canary", "ctx_size": 1}
    hosts = learn({}, [("gpu1", {"settings": {"options": options}, "origins": {}})])
    assert hosts["gpu1"].options == {"api_key": REDACTED, "hf_token": REDACTED, "ctx_size": 1}


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "state" / "catalog.json"
    hosts = {"gpu1": host(binary=BINARY, options={"ctx_size": 1}, needs={"k": [[], "why"]}), "gpu2": host("gpu2", Q3)}
    save(path, hosts)
    assert load(path) == hosts
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"schema": 99, "hosts": []}', b'{"schema": 6, "hosts": [{}]}', b"\xff"]
)
def test_a_catalog_that_can_t_be_used_is_none(tmp_path, content):
    path = tmp_path / "catalog.json"
    path.write_bytes(content)
    assert load(path) == load(tmp_path / "missing.json") == {}


def test_a_registry_file_is_a_host_of_its_own(tmp_path):
    path = tmp_path / "registry.json"
    save_registry(str(path), Registry(("/models",), Inventory((Model.from_dict(Q2),))))
    assert from_registry(path) == {"registry.json": Known("registry.json", (Q2,))}


def test_a_registry_that_can_t_be_used_is_one_sentence(tmp_path):
    path = tmp_path / "registry.json"
    with pytest.raises(UsageError, match=r"registry\.json does not exist; name another with --registry"):
        from_registry(path)
    path.write_text("{}")
    with pytest.raises(UsageError, match="is not a registry, or is corrupt"):
        from_registry(path)
