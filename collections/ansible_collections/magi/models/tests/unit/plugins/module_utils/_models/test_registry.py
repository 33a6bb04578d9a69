# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The registry's file through crashes and corruption."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base import files
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory
from ansible_collections.magi.models.plugins.module_utils._models.registry import (
    MODE,
    RegistryError,
    dump,
    load,
    parse,
    save,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.folders import (
    ids,
    look,
    scanned,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import (
    model,
    write,
)


def corruptions(data):
    """Damaged registry files, and the code for each."""
    rng = random.Random(11)
    for size in {0, 1, len(data) // 2, len(data) - 1, *(rng.randrange(len(data)) for _number in range(20))}:
        yield data[:size], {"corrupt"}
    for _round in range(300):
        at = rng.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :], {"corrupt", "schema"}
    yield data + b" ", {"corrupt"}
    yield data.replace(b'"schema_version": 5', b'"schema_version": 6'), {"schema"}
    yield b'{"schema_version": 99, "anything": []}', {"schema"}
    yield b'{"models": []}', {"corrupt"}
    yield b"[]", {"corrupt"}
    yield b"\0" * 1000, {"corrupt"}
    yield b"[" * 100_000, {"corrupt"}


def test_any_damage_to_the_file_is_recognised(tmp_path):
    write(tmp_path / "m/x.gguf", model("{{ x }}"))
    write(tmp_path / "m/cut.gguf", model()[:50])
    registry = scanned(tmp_path / "m")
    data = dump(registry)
    assert parse(data, "r") == registry
    for damaged, expected in corruptions(data):
        with pytest.raises(RegistryError) as error:
            parse(damaged, "/r.json")
        assert error.value.code in expected
        assert "/r.json" in str(error.value)


DAMAGED = {
    "corrupt": b"{",
    "schema": b'{"schema_version": 6}',
}


@pytest.mark.parametrize("code", DAMAGED)
def test_a_damaged_registry_is_reported_and_rebuilt_and_nothing_of_it_is_used(tmp_path, registry_path, code):
    write(tmp_path / "m/x.gguf", model())
    write(tmp_path / "state/registry.json", DAMAGED[code])
    outcome = look(tmp_path, registry_path)
    assert (outcome.source, outcome.reason, outcome.before) == ("scan", f"registry {code}", None)
    assert any(registry_path in warning for warning in outcome.warnings)
    assert ids(load(registry_path)) == ["x-q4_k_m"]


def test_what_is_no_file_is_no_registry(tmp_path):
    with pytest.raises(RegistryError, match="not a registry"):
        load(str(tmp_path / "m"))


def test_the_files_mode_is_kept_at_0640(tmp_path, registry_path):
    look(tmp_path, registry_path)
    file = tmp_path / "state/registry.json"
    assert stat.S_IMODE(file.stat().st_mode) == MODE
    file.chmod(0o666)
    assert look(tmp_path, registry_path).changed
    assert stat.S_IMODE(file.stat().st_mode) == MODE
    assert not look(tmp_path, registry_path).changed


def test_kill_9_at_any_moment_leaves_a_valid_registry(tmp_path, registry_path):
    """A writer that endlessly swaps two registries is killed again and again, at random moments."""
    write(tmp_path / "m/x.gguf", model())
    one = scanned(tmp_path / "m")
    two = replace(one, inventory=Inventory((replace(one.inventory.models[0], display_name="x" * 300_000),)))
    save(registry_path, one)
    rng = random.Random(3)
    seen = set()
    for _round in range(60):
        ready, started = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(started, b"x")
            while True:
                save(registry_path, two)
                save(registry_path, one)
        os.read(ready, 1)
        signal.sigtimedwait([], rng.random() / 50)  # a random moment, not a condition to wait for
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(started)
        found = load(registry_path)
        assert found in (one, two)
        seen.add(len(found.inventory.models[0].display_name))
    save(registry_path, one)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["registry.json"]


def test_a_full_disk_leaves_the_old_registry(tmp_path, registry_path, monkeypatch):
    look(tmp_path, registry_path)
    before = (tmp_path / "state/registry.json").read_bytes()

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    write(tmp_path / "m/x.gguf", model())
    with pytest.raises(FileWriteError, match="No space left on device") as error:
        look(tmp_path, registry_path)
    assert registry_path in str(error.value)
    assert (tmp_path / "state/registry.json").read_bytes() == before
