"""What `make up` was told is kept in .env."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from magi import domain, remember
from magi.errors import UsageError


@pytest.mark.parametrize(
    ("text", "given", "after"),
    [
        ("", {"A": "/x"}, "A=/x\n"),
        ("", {"A": ""}, ""),
        ("# mine\nB=1", {"A": "/two words"}, "# mine\nB=1\nA='/two words'\n"),
        ("export A=1 # old\nB=2\n", {"A": "/x"}, "A=/x\nB=2\n"),
        ("A=1\nB=2\nA=3\n", {"A": "/x"}, "B=2\nA=/x\n"),
        ("A=1\nB=2\n", {"A": ""}, "B=2\n"),
        ("#A=1\nAA=2\n", {"A": "/x"}, "#A=1\nAA=2\nA=/x\n"),
    ],
)
def test_a_variable_has_one_line_and_the_others_stay(text, given, after):
    assert remember.remembered(text, given) == after
    assert remember.remembered(after, given) == after


@pytest.mark.parametrize("name", ["it's", "two words", "a$b", 'q"uote', "#x", "${HOME}", "\\n"])
def test_what_is_written_is_what_is_read(tmp_path: Path, name: str):
    folder = tmp_path / name
    folder.mkdir()
    remember.remember(tmp_path / ".env", {"MODEL_SCAN_PATH": str(folder)})
    assert domain.read_dotenv(tmp_path / ".env", os.environ) == {"MODEL_SCAN_PATH": str(folder)}


def test_paths_hold_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert remember.absolute("MODEL_SCAN_PATH", "models:~/models:") == f"{tmp_path}/models:{tmp_path}/models"
    with pytest.raises(UsageError, match=f"^MODEL_SCAN_PATH: there is no {tmp_path}/modles; name one that is there"):
        remember.absolute("MODEL_SCAN_PATH", "modles")


def test_a_llama_server_that_is_named_once_holds_from_then_on(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in remember.KEPT:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "llama-server").touch()
    # as the Makefile does for make up LLAMA_SERVER_PATH=llama-server
    monkeypatch.setattr(sys, "argv", ["remember", "LLAMA_SERVER_PATH"])
    monkeypatch.setenv("LLAMA_SERVER_PATH", "llama-server")
    remember.main()
    assert capsys.readouterr().out == f".env: LLAMA_SERVER_PATH={tmp_path}/llama-server\n"
    monkeypatch.setattr(sys, "argv", ["remember"])
    monkeypatch.delenv("LLAMA_SERVER_PATH")
    remember.main()
    assert domain.read_dotenv(Path(".env"), os.environ) == {"LLAMA_SERVER_PATH": f"{tmp_path}/llama-server"}
    monkeypatch.setattr(sys, "argv", ["remember", "LLAMA_SERVER_PATH"])
    remember.main()
    assert Path(".env").read_text() == ""


def test_only_what_changes_is_written_and_said(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in remember.KEPT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["remember"])
    remember.main()
    assert not Path(".env").exists()
    monkeypatch.setenv("MODEL_SCAN_PATH", ".")
    remember.main()
    assert Path(".env").read_text() == f"MODEL_SCAN_PATH={tmp_path}\n"
    Path(".env").chmod(0o640)
    before = Path(".env").stat()
    remember.main()
    assert Path(".env").stat() == before
    assert capsys.readouterr().out == f".env: MODEL_SCAN_PATH={tmp_path}\n"
    monkeypatch.setenv("MODEL_SCAN_PATH", "")
    remember.main()  # set to nothing is not set
    assert Path(".env").stat() == before
    monkeypatch.setattr(sys, "argv", ["remember", "MODEL_SCAN_PATH"])
    remember.main()
    assert (Path(".env").read_text(), Path(".env").stat().st_mode & 0o777) == ("", 0o640)
    monkeypatch.setenv("MODEL_SCAN_PATH", "/nonexistent")
    with pytest.raises(SystemExit, match=r"^magi: MODEL_SCAN_PATH: there is no /nonexistent; "):
        remember.main()
