from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._ansible.dotenv import (
    DotenvError,
    find_dotenv,
    parse,
    read_dotenv,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("A = b  ", "b"),
        ("  export A=b\n", "b"),
        ("A=b # why", "b"),
        ("A=b#c", "b#c"),
        ("A=", ""),
        ("A=# nothing", ""),
        ("A=''", ""),
        ("A='two words' # why", "two words"),
        ("A='it\\'s $HOME ${HOME}'", "it's $HOME ${HOME}"),
        ('A="two\\nlines \\"x\\" \\$"', 'two\nlines "x" $'),
        ('A="one\ntwo"\nB=1', "one\ntwo"),
        ("A=${HOME}/models", "/home/ada/models"),
        ('A="${HOME}/models:/srv"', "/home/ada/models:/srv"),
        ("X=1\nA=${X}${NONE:-2}${NONE}", "12"),
        ("A=$HOME", "$HOME"),
        ("A=1\nA=2", "2"),
        ("\ufeffA=b\r\nB=c\r\n".lstrip("\ufeff"), "b"),
        ("# A=0\n\nB\nA=b\n   # end", "b"),
    ],
)
def test_a_line_sets_a_variable(text, value):
    assert parse(text, {"HOME": "/home/ada"})["A"] == value


@pytest.mark.parametrize(
    ("text", "line"),
    [("MODEL_SCAN_PATH /x", 1), ("A=1\n=2", 2), ("A='open", 1), ("# x\nA='b' c\n", 2), ('A=1\nB="x', 2)],
)
def test_a_line_that_sets_nothing_is_named(text, line):
    with pytest.raises(ValueError, match=f"^line {line} is no variable$"):
        parse(text, {})


def test_the_first_folder_with_one_counts_unless_the_environment_names_another(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    assert find_dotenv([first, second], {}) is None
    (first / ".env").mkdir()  # a virtual environment of that name
    (second / ".env").write_text("A=b")
    assert find_dotenv([first, second], {}) == second / ".env"
    assert find_dotenv([first, second], {"MAGI_DOTENV": ""}) == second / ".env"
    assert read_dotenv(find_dotenv([first, second], {"MAGI_DOTENV": "/dev/null"}), {}) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", ".env can't be read .*: correct it, or remove it"),
        (b"A=1\nx y\n", ".env, line 2 is no variable: write NAME=value, or put # before it"),
    ],
)
def test_a_file_that_can_t_be_read_is_one_sentence(tmp_path, content, said):
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(DotenvError, match=f"^{tmp_path}/{said}"):
        read_dotenv(tmp_path / ".env", {})
