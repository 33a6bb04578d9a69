from __future__ import annotations

import json
import os

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.stream import Stream


def test_a_reader_finds_all_or_the_last(tmp_path):
    path = tmp_path / "said"
    stream = Stream(str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    stream.tell({"text": "a"})
    stream.tell({"text": "ü"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"text": "a"}, {"text": "ü"}]
    stream.tell({"activity": 1}, alone=True)
    assert path.read_text() == '{"activity": 1}\n'
    stream.end()
    assert path.read_text().endswith('{"end": true}\n')


def test_it_knows_when_nobody_looks(tmp_path):
    stream = Stream(str(tmp_path / "said"))
    assert stream.unread() < 60
    stream.since -= 100
    assert stream.unread() >= 100
    stream.seen.touch()
    assert stream.unread() < 60
    os.utime(stream.seen, (0, 0))
    assert stream.unread() < 60  # the clock was set back
    stream.remove()
    assert [*tmp_path.iterdir()] == []


def test_it_takes_nobody_s_file(tmp_path):
    (tmp_path / "said").symlink_to(tmp_path / "other")
    with pytest.raises(FileExistsError):
        Stream(str(tmp_path / "said"))
