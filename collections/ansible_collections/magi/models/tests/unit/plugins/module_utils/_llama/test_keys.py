from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.keys import KeyFileError, check_api_keys

KEYS = "# who may ask, пароль\n\nalpha\nbeta"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key (it is empty, or has comments only)"),
        ("\n\n", "holds no key"),
        ("# alpha\n#beta\n", "holds no key"),
        ("# me\r\nalpha\r\n", "line 2 ends in a carriage return (CRLF line ends)"),
        ("alpha\nbeta \n", "line 2 has white space at an end"),
        ("   \n", "line 1 has white space at an end"),
        ("\ufeffalpha\n", "line 1 has white space at an end"),
        ("# пароль\nalphaß\n", "line 2 has a character that is not printable ASCII"),
        ("alpha\rbeta\n", "line 1 has a character that is not printable ASCII"),
        ("alpha\tbeta\n", "line 1 has a character that is not printable ASCII"),
    ],
)
def test_a_key_file_that_leaves_a_server_open_or_shut_is_refused(text, said):
    with pytest.raises(KeyFileError) as error:
        check_api_keys("instance a: its API key file /k", text)
    assert said in str(error.value)
    assert str(error.value).startswith("instance a: its API key file /k")
    assert "alpha" not in str(error.value)
    assert "beta" not in str(error.value)


@pytest.mark.parametrize("text", [KEYS, KEYS + "\n", "alpha", "a b"])
def test_a_key_file_with_keys_is_taken(text):
    check_api_keys("x", text)
