from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.history import forget, generations, history, remember


@pytest.mark.parametrize(
    ("began", "left"),
    [
        ([], []),
        ([1.5], [1.5]),
        ([1.5, 2.5, 3.5], [1.5, 2.5, 3.5]),
        ([1.5, 2.5, 3.5, 10.25], [2.5, 3.5, 10.25]),
        ([9.5, 10.5], [9.5, 10.5]),
        ([1.5, 2.5, 2.5], [1.5, 2.5]),
        # what came later is forgotten: a rollback went back behind it
        ([1.5, 2.5, 3.5, 2.5], [1.5, 2.5]),
        ([1.5, 2.5, 3.5, 1.5, 4.5], [1.5, 4.5]),
    ],
)
def test_the_last_three_are_kept(tmp_path, began, left):
    for number, at in enumerate(began):
        remember(str(tmp_path), at, {"made": number})
    found = history(str(tmp_path))
    assert [item["began_at"] for item in found] == left
    assert [item["made"] for item in found] == [max(n for n, at in enumerate(began) if at == x) for x in left]


def test_only_the_owner_reads_them_and_all_are_forgotten(tmp_path):
    remember(str(tmp_path), 1764151234.123456, {"path": "/models/\udce9.gguf"})
    (path,) = generations(str(tmp_path))
    assert path.stat().st_mode & 0o7777 == 0o600
    assert history(str(tmp_path)) == [{"path": "/models/\udce9.gguf", "began_at": 1764151234.123456}]
    forget(str(tmp_path))
    assert [*tmp_path.iterdir()] == []


def test_what_is_not_ours_or_broken_is_left_alone(tmp_path):
    remember(str(tmp_path), 1.5, {})
    remember(str(tmp_path), 2.5, {})
    generations(str(tmp_path))[0].write_text("{")
    (tmp_path / "generations" / "notes.json").write_text("mine")
    assert [item["began_at"] for item in history(str(tmp_path))] == [2.5]
    forget(str(tmp_path))
    assert [path.name for path in (tmp_path / "generations").iterdir()] == ["notes.json"]
