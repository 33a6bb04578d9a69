from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError
from ansible_collections.magi.models.plugins.module_utils._base.folder import settle

OURS = ("top.yml", "targets/*.json", "deep/*/*/*.py")


def tree(home):
    return {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}


def settled(home, files, keep=(), check_mode=False):
    diff = settle(str(home), files, OURS, keep, check_mode=check_mode)
    return [item["after_header"].removeprefix(f"{home}/") for item in diff]


def test_a_folder_comes_to_hold_the_files(tmp_path):
    home = tmp_path / "home"
    files = {"top.yml": "a", "targets/x.json": "b"}
    assert settled(home, files, check_mode=True) == [*sorted(files)]
    assert not home.exists()
    assert settled(home, files) == [*sorted(files)]
    assert tree(home) == files
    assert (home / "top.yml").stat().st_mode & 0o777 == 0o644
    assert settled(home, files) == []


def test_what_is_no_longer_wanted_goes_and_the_rest_stays(tmp_path):
    (tmp_path / "targets").mkdir()
    for name in ("targets/old.json", "targets/kept.json", "targets/notes.txt", "own.yml"):
        (tmp_path / name).write_text(name)
    assert settled(tmp_path, {"top.yml": "a"}, ["targets/kept.json"]) == ["targets/old.json", "top.yml"]
    assert {*tree(tmp_path)} == {"top.yml", "targets/kept.json", "targets/notes.txt", "own.yml"}


def test_nothing_is_left_of_what_was_only_ours(tmp_path):
    home = tmp_path / "a" / "home"
    settled(home, {"top.yml": "a", "targets/x.json": "b", "deep/a/b/x.py": "c", "deep/a/b/y.py": "d"})
    assert settled(home, {}) == ["deep/a/b/x.py", "deep/a/b/y.py", "targets/x.json", "top.yml"]
    assert [*home.iterdir()] == []
    assert settled(home, {}) == []


def test_an_error_names_the_file(tmp_path):
    (tmp_path / "targets").write_text("no folder")
    with pytest.raises(FileWriteError, match="targets"):
        settled(tmp_path, {"targets/x.json": "b"})
