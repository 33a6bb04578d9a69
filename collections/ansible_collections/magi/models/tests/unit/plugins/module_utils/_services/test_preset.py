from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._services.preset import preset


def test_a_section_has_what_is_the_models_own():
    environment = {
        "LLAMA_ARG_MODEL": "/models/a b=[c]%s$x.gguf",
        "LLAMA_ARG_ALIAS": "a,chat",
        "LLAMA_ARG_HOST": "127.0.0.1",
        "LLAMA_ARG_PORT": "1",
        "LLAMA_ARG_API_KEY_FILE": "/keys",
        "MAGI_TIER": "Q4",
        "OMP_WAIT_POLICY": "passive",
        "MTMD_BACKEND_DEVICE": "CUDA1",
    }
    assert preset("a", environment, ("--sleep-idle-seconds", "60", "--no-x", "--y", "-1"), ("chat", "org/x:y")) == (
        "[a]\n"
        "LLAMA_ARG_ALIAS = chat,org/x:y\n"
        "LLAMA_ARG_MODEL = /models/a b=[c]%s$x.gguf\n"
        "MTMD_BACKEND_DEVICE = CUDA1\n"
        "no-x = true\n"
        "sleep-idle-seconds = 60\n"
        "y = -1\n"
    )


@pytest.mark.parametrize("value", ["a;b", "a#b", "a\nb", "a\r", " a", "a\t"])
def test_what_would_be_read_back_as_something_else_is_refused(value):
    with pytest.raises(ValueError, match=r"can't hold .* \(LLAMA_ARG_MODEL\)"):
        preset("a", {"LLAMA_ARG_MODEL": value}, ())
