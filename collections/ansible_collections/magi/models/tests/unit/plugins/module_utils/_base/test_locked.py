from __future__ import annotations

import os

import pytest
from ansible_collections.magi.models.plugins.module_utils._base import locked as module
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError
from ansible_collections.magi.models.plugins.module_utils._base.locked import locked


def test_one_at_a_time_holds_it(tmp_path):
    path = tmp_path / "folder" / "lock"
    with locked(path) as first, locked(path, wait=False) as second:
        assert os.path.samestat(os.fstat(first), path.stat())
        assert second is None
    with locked(path, wait=False) as third:
        assert third is not None


def test_without_a_file_nothing_is_made_where_nothing_shall_be(tmp_path):
    with locked(tmp_path / "lock", create=False) as descriptor:
        assert descriptor is None
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_file_that_a_teardown_removed_meanwhile_is_not_held(tmp_path, monkeypatch, create, wait, moment):
    path = tmp_path / "home" / "lock"
    path.parent.mkdir()
    path.touch()
    name, owner = {"before": ("open", module.os), "after": ("flock", module.fcntl)}[moment]
    real = getattr(owner, name)
    left = ["once"]

    def late(*arguments):
        if left:
            left.clear()
            path.unlink()  # the teardown that held it ends now
            path.parent.rmdir()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, late)
        with locked(path, create=create, wait=wait) as descriptor:
            assert (descriptor is not None) == create == path.exists()
            if descriptor is not None:
                assert os.path.samestat(os.fstat(descriptor), path.stat())


def test_what_can_not_be_locked_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileWriteError, match=r"Can't write .*/file: "), locked(tmp_path / "file" / "lock"):
        pytest.fail("a file is no folder")
