"""Files that people write: each mistake is reported with file and line."""

from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._profiles.document import DocumentError, read_document


@pytest.mark.parametrize(
    ("name", "text", "where", "line"),
    [
        ("a.yml", "models:\n  x:\n    port: 1\n", ("models", "x", "port"), 3),
        ("a.yml", "models:\n  - a\n  - b: 1\n", ("models", 1), 3),
        ("a.yml", "models:\n  - a\n  - b: 1\n", ("models", 1, "nothing", "here"), 3),
        ("a.yml", "a: &x {b: 1}\nc: *x\n", ("c", "b"), 2),
        ("a.yml", "a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n", ("c", "d"), 4),
        ("a.yml", "on: 1\n", (True,), 1),
        ("a.yml", "", ("a",), None),
        ("a.json", '{\n\t"a": {\n\t\t"b": "\\ud83d\\udc2b"\n\t}\n}', ("a", "b"), 3),
        ("a.yml", "{a: 1,\n b: 2}", ("b",), 2),
    ],
)
def test_every_part_has_its_line(tmp_path, name, text, where, line):
    path = tmp_path / name
    path.write_text(text)
    assert read_document(path).remark(where, "").line == line


def test_json_is_read_as_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n\t"a": "\\ud83d\\udc2b"\n}')
    assert read_document(path).data == {"a": "🐫"}


def test_a_key_that_stands_twice_is_seen(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("a:\n  b: 1\n  b: 2\n")
    assert read_document(path).repeated == (("a", "b"),)


_TENFOLD = "x0: &x0 xxxxxxxxxx\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 12))
_MERGED = "x0: &x0 {a: 1}\n" + "".join(
    f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize("text", [_TENFOLD, _MERGED, "a: &a\n  - *a\n", "a: &a {b: *a}\n"])
def test_aliases_that_would_fill_the_memory_are_refused(tmp_path, text):
    path = tmp_path / "a.yml"
    path.write_text(text)
    with pytest.raises(DocumentError, match=r"^\S+a\.yml: its aliases \(\*x\) make it too large; write out"):
        read_document(path)


def test_a_long_file_without_aliases_is_read(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("a: '" + "x" * 1_500_000 + "'\nb: [{}" + ",{}" * 1000 + "]\n")
    assert len(read_document(path).data["b"]) == 1001


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yml", b"a: 1\nb: [1,\n", "a.yml, line 3: it is not valid YAML: "),
        ("a.yml", b"a: 1\n\tb: 2\n", "a.yml, line 2: it is not valid YAML: "),
        ("a.yml", b"a: 1\nb: !!python/object:os.system x\n", "a.yml, line 2: it is not valid YAML: "),
        ("a.yml", b"a: 2024-13-45\n", "a.yml: it is not valid YAML: month must be in 1..12"),
        ("a.yml", b"a: 1\nb: \xff\n", "a.yml, line 2: it is not UTF-8; save it as UTF-8."),
        ("a.yml", b"a: \x01\n", "a.yml: it is not valid YAML: "),
        ("a.yml", b"[" * 5000, "a.yml: it is not valid YAML: "),
        ("a.json", b'{\n  "a": 1\n  "b": 2}', "a.json, line 3: it is not valid JSON: "),
    ],
)
def test_what_is_no_document_is_one_sentence_with_its_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DocumentError) as error:
        read_document(path)
    assert said in str(error.value)
    assert str(error.value).count(name) == 1
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DocumentError, match=r"none\.yml: it can't be read: No such file or directory\."):
        read_document(tmp_path / "none.yml")
