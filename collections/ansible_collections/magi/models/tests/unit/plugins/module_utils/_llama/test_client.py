from __future__ import annotations

import http.client

from ansible_collections.magi.models.plugins.module_utils._llama.client import get


def test_a_module_that_another_thread_has_just_imported_is_not_in_its_package_yet(monkeypatch):
    monkeypatch.delattr(http, "client")
    assert get({"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": "1"}, "/health") == (0, b"")
