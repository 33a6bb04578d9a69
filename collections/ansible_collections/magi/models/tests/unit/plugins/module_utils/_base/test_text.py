from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.text import SECRET, counted, one_line, printable


@pytest.mark.parametrize(("number", "text"), [(0, "0 hosts"), (1, "1 host"), (2, "2 hosts")])
def test_counted(number, text):
    assert counted(number, "host") == text


@pytest.mark.parametrize(
    ("text", "shown"), [("ä b", "ä b"), ("a\x1b[2J\n", "a\\x1b[2J\\n"), ("\u202ex\udcff", "\\u202ex\\udcff")]
)
def test_printable(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ lookup('pipe', 'touch X') }} %n $HOME", "{{ lookup('pipe', 'touch X') }} %n $HOME"),
        ("a\n[Service]\nExecStart=x", "a [Service] ExecStart=x"),
        ("\x1b[31mred\x1b[0m\0", "[31mred [0m"),
        ("right\u202eleft", "right left"),
        ("x" * (1 << 20), "x" * 200),
        (" \n\t ", None),
        (4711, None),
    ],
)
def test_names_that_files_give_themselves_become_one_line(value, expected):
    assert one_line(value) == expected


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *(
            (name, True)
            for name in ("api_key", "API_KEY", "LLAMA_API_KEY", "hf_token", "HF_TOKEN", "--api-key", "APIKEY")
        ),
        *(
            (name, True)
            for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "DB_PASSWORD", "PGPASSWORD", "ssl-key-file")
        ),
        *(
            (name, True)
            for name in ("api_keys", "GITHUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "--token=x", "PASS", "passwd")
        ),
        *((name, False) for name in ("image_max_tokens", "LLAMA_ARG_MTMD_BATCH_MAX_TOKENS", "n_predict", "keep")),
        *((name, False) for name in ("cache_type_k", "override_kv", "keyboard", "bypass", "max_tokens", "PATH")),
    ],
)
def test_names_of_secrets(name, secret):
    assert bool(SECRET.search(name)) is secret
