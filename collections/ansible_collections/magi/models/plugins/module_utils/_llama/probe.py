# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking a server for the least that it was started for: a GPU that hangs leaves /health at 200."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping

from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._llama.client import api_key, is_router, request

# What a server does by its options, and the field of its answer that must hold something (llama.cpp
# tools/server/README.md). A reranker has both variables.
_TASKS = (
    ("LLAMA_ARG_RERANKING", "one rerank", "/v1/rerank", {"query": "1", "documents": ["1"]}, "results"),
    ("LLAMA_ARG_EMBEDDINGS", "one embedding", "/v1/embeddings", {"input": "1"}, "data"),
    ("", "one token", "/v1/completions", {"prompt": "1", "max_tokens": 1, "cache_prompt": False}, "choices"),
)
_SOME = {"prompt": "Once upon a time", "max_tokens": 16, "temperature": 0, "ignore_eos": True}
_ON = ("1", "on", "true", "enabled")


def senseless(text: str) -> str:
    """Say why ``text``, some tokens of a model, is no text; empty if it may be. Damaged weights, and a GPU that
    computes nonsense, give the same token again and again, or none that is text."""
    shown = printable(text.strip())[:40]
    if not text.strip():
        return "answered nothing"
    again = re.search(r"(.{0,11}?\S)\1{5,}", text, re.DOTALL)
    if again and 5 * len(again[0]) > 2 * len(text.strip()):
        return f"repeated itself ({shown})"
    if text.count("\ufffd") * 4 > len(text):
        return f"answered what is no text ({shown})"
    return ""


def probe(
    environment: Mapping[str, str], timeout: float, model: str = "", *, sensible: bool = False, load: bool = False
) -> str:
    """Return why the server of ``environment`` (asked_at) does not do its work within ``timeout`` seconds, or an empty
    string where it does: a token of completion, an embedding or a rerank, by its options. With a ``model``, the gateway
    or the pool there is asked for that; a pool is to ``load`` it, or nothing is wrong if it is not in memory, or is
    being loaded. It is to be ``sensible``: a server of completions is asked for some tokens, which must be text."""
    _variable, what, path, body, field = next(
        task for task in _TASKS if not task[0] or environment.get(task[0], "").lower() in _ON
    )
    words = sensible and field == "choices"
    if words:
        what, body = "some words", {**body, **_SOME}
    if model:
        body = {"model": model, **body}
    resident = model and not load
    if resident:
        path += "?autoload=false"  # llama.cpp tools/server/server-models.cpp, is_autoload
    try:
        status, answer = request(environment, path, timeout, api_key(environment), body)
        if status == 200 and json.loads(answer).get(field):
            wrong = senseless(json.loads(answer)[field][0]["text"]) if words else ""
            return wrong and f"it was asked for {what} and {wrong}; compare its model's file with its source"
        if resident and ((status == 400 and b"is not loaded" in answer) or (status == 503 and b"Loading" in answer)):
            return ""
        if model and not is_router(environment) and status in (401, 403):
            return ""  # the gateway wants a client's key, and nobody here has one
    except TimeoutError:
        return f"it did not give {what} in {timeout:g} seconds; see its log and its device (magi logs)"
    except (
        OSError,
        http.client.HTTPException,
        ValueError,
        AttributeError,
        LookupError,
        TypeError,
        RecursionError,
    ) as error:
        return f"it was asked for {what} and did not answer ({printable(str(error))[:100]}); see its log (magi logs)"
    remedy = "its file of API keys has changed since it was started; run magi up" if status == 401 else "see its log"
    return f"it was asked for {what} and answered HTTP status {status}; {remedy}"
