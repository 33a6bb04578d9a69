from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.architectures import unknown_architectures

NAMES = b"\0clip\0llama\0gptneox\0newest\0"


def program(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF" + bytes(5000) + content + bytes(5000))
    return str(path)


@pytest.mark.parametrize(
    ("version", "architectures", "unknown"),
    [
        ("0.6.0-dev (build 11434, commit unknown)", ["llama", "qwen3"], set()),  # of that build, and not looked for
        ("0.6.0-dev (build 11434, commit unknown)", ["newest", "future"], {"future"}),
        ("6940 (abcdef1)", ["llama", "qwen3"], {"qwen3"}),  # an older one may lack what that one has
        ("of my own", ["llama", "qwen3"], {"qwen3"}),
    ],
)
def test_an_architecture_that_the_program_does_not_name_is_unknown(tmp_path, version, architectures, unknown):
    path = program(tmp_path / "llama-server", NAMES)
    assert unknown_architectures(path, version, architectures) == unknown


@pytest.mark.parametrize("folder", ["bin", "lib"])
def test_the_names_may_be_in_the_library_beside_it(tmp_path, folder):
    path = program(tmp_path / "bin/llama-server", b"")
    program(tmp_path / folder / "libllama.so.0", NAMES)
    assert unknown_architectures(path, "", ["llama", "future"]) == {"future"}


def test_where_nothing_tells_nothing_is_said(tmp_path):
    assert unknown_architectures(program(tmp_path / "llama-server", b""), "", ["future"]) == set()
    assert unknown_architectures(str(tmp_path / "none"), "", ["future"]) == set()
