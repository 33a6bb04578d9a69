# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking a server for the least that it was started for: a GPU that hangs leaves /health at 200."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping

from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._llama.client import api_key, request

# What a server does by its options, and the field of its answer that must hold something (llama.cpp
# tools/server/README.md). A reranker has both variables.
_TASKS = (
    ("LLAMA_ARG_RERANKING", "one rerank", "/v1/rerank", {"query": "1", "documents": ["1"]}, "results"),
    ("LLAMA_ARG_EMBEDDINGS", "one embedding", "/v1/embeddings", {"input": "1"}, "data"),
    ("", "one token", "/v1/completions", {"prompt": "1", "max_tokens": 1, "cache_prompt": False}, "choices"),
)
OF_TASK = {"rerank": "LLAMA_ARG_RERANKING", "embedding": "LLAMA_ARG_EMBEDDINGS"}
"""The variable of a server by its model's task; chat has none."""
_ON = ("1", "on", "true", "enabled")


def probe(environment: Mapping[str, str], timeout: float, model: str = "") -> str:
    """Return why the server of ``environment`` (asked_at) does not do its work within ``timeout`` seconds, or an empty
    string where it does: a token of completion, an embedding or a rerank, by its options. With a ``model``, the gateway
    there is asked for that."""
    _variable, what, path, body, field = next(
        task for task in _TASKS if not task[0] or environment.get(task[0], "").lower() in _ON
    )
    if model:
        body = {"model": model, **body}
    try:
        status, answer = request(environment, path, timeout, api_key(environment), body)
        if status == 200 and json.loads(answer).get(field):
            return ""
        if model and status in (401, 403):  # it wants a client's key, and nobody here has one
            return ""
    except TimeoutError:
        return f"it did not give {what} in {timeout:g} seconds; see its log and its device (magi logs)"
    except (OSError, http.client.HTTPException, ValueError, AttributeError, RecursionError) as error:
        return f"it was asked for {what} and did not answer ({printable(str(error))[:100]}); see its log (magi logs)"
    remedy = "its file of API keys has changed since it was started; run magi up" if status == 401 else "see its log"
    return f"it was asked for {what} and answered HTTP status {status}; {remedy}"
