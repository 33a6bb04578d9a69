from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion
from ansible_collections.magi.models.plugins.module_utils._plan.instance import config_hash
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import BINARY

FILES = [FileVersion("/a", 1, 2)]
ENVIRONMENT = {"LLAMA_ARG_CTX_SIZE": "1", "LLAMA_ARG_THREADS": "2", "MAGI_THREADS": "shared"}


@pytest.mark.parametrize(
    ("environment", "arguments", "files", "binary", "same"),
    [
        (ENVIRONMENT, (), FILES, BINARY, True),
        # the share of the cores changes with the neighbours: no reason to restart a server that people use
        ({**ENVIRONMENT, "LLAMA_ARG_THREADS": "8"}, (), FILES, BINARY, True),
        ({**ENVIRONMENT, "LLAMA_ARG_CTX_SIZE": "2"}, (), FILES, BINARY, False),
        (ENVIRONMENT, ("--no-warmup",), FILES, BINARY, False),
        (ENVIRONMENT, (), [FileVersion("/a", 1, 3)], BINARY, False),
        (ENVIRONMENT, (), [FileVersion("/a", 3, 2)], BINARY, False),
        (ENVIRONMENT, (), FILES, type(BINARY)(BINARY.path, "11434", "other"), False),
    ],
)
def test_the_hash_covers_what_a_process_is_made_of(environment, arguments, files, binary, same):
    assert (config_hash(environment, arguments, files, binary) == config_hash(ENVIRONMENT, (), FILES, BINARY)) is same


def test_threads_that_the_profile_decides_count():
    one, two = ({"LLAMA_ARG_THREADS": n} for n in "12")
    assert config_hash(one, (), FILES, BINARY) != config_hash(two, (), FILES, BINARY)
