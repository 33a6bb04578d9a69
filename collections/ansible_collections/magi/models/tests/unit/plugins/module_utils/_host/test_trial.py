from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.trial import try_options
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import BINARY

HOST = chosen("supervisor", "/m")


@pytest.fixture
def build(tmp_path):
    """A build that refuses one value of a variable, one argument, and shows which variables it has."""
    path = tmp_path / "llama-server"
    path.write_text(
        "#!/bin/sh\n"
        'case "$LLAMA_ARG_CACHE_TYPE_K" in q9_0) echo; echo "bad cache type"; echo usage; exit 1;; esac\n'
        'case "$*" in *bad*) echo "bad bias"; exit 1;; esac\n'
        'test -z "$PROBE" || { echo "$PROBE"; exit 1; }\n'
        'test "$LLAMA_ARG_CTX_SIZE" != 7 || kill -9 $$\n'
    )
    path.chmod(0o755)
    return replace(BINARY, path=str(path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cache_type_k": "q8_0"}, ""),
        ({"cache_type_k": "q9_0"}, "bad cache type"),
        ({"logit_bias": "bad"}, "bad bias"),
        # what the plan refuses is not tried; a build that dies says nothing of its options
        ({"ctx_sise": 1, "cache_type_k": "q9_0"}, ""),
        ({"ctx_size": 7}, ""),
    ],
)
def test_what_a_build_says_against_options(build, options, said):
    assert try_options(HOST, build, [{}, options], {}) == ("", said)


def test_it_runs_in_the_environment_of_the_host(build):
    assert try_options(HOST, build, [{}], {"PROBE": "seen"}) == ("seen",)


def test_without_options_nothing_is_run():
    assert try_options(HOST, replace(BINARY, path="/none"), [], {}) == ()
