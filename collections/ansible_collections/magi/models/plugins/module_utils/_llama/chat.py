# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking a server or a gateway on this host one question, and passing on the answer as it is written."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import reachable
from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._llama.client import api_key, connection_to, port_of

_NONSENSE = "the server sent something that is no completion; see its log (magi logs)."
SILENCE = 300  # seconds without a byte, in which a long prompt is read, until the server counts as hung


class ChatError(RuntimeError):
    """There is no answer, or only a part of one; the message says why, and the remedy."""


class ChatRefusedError(ChatError):
    """The answer is no completion; ``status`` is that of HTTP."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def events(lines: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a stream of server-sent events, up to ``[DONE]`` (llama.cpp tools/server/README.md).

    Raises ChatError when the server reports an error in it, sends something else, or ends without ``[DONE]``.
    """
    for line in lines:
        kind, _colon, data = line.decode("utf-8", "replace").strip().partition(":")
        if kind not in ("data", "error"):
            continue
        if data.strip() == "[DONE]":
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            raise ChatError(_NONSENSE)
        if kind == "error" or "error" in event:
            raise ChatError(f"the server gave up: {_said(event)}; see its log (magi logs).")
        yield event
    raise ChatError("the server ended in the middle of the answer; see its log (magi logs).")


def chat(
    environment: Mapping[str, str],
    question: str,
    max_tokens: int,
    tell: Callable[[str, str], None],
    model: str | None = None,
) -> dict[str, Any]:
    """Ask the server of ``environment``, or with a ``model`` the gateway that listens there; return the answer, why it
    ended, and how fast it was.

    ``tell`` gets the kind (``text`` or ``reasoning``) and the words of each piece; an exception of it ends the answer.
    If the server wants a key, it is read from the server's own file and goes nowhere else. Raises ChatError.
    """
    messages = [{"role": "user", "content": question}]
    body = {"messages": messages, "stream": True, "max_tokens": max_tokens, **({"model": model} if model else {})}
    headers: dict[str, str | bytes] = {"Content-Type": "application/json"}
    key = api_key(environment)
    if key:
        headers["Authorization"] = b"Bearer " + key
    said = {"text": "", "reasoning": ""}
    finish: str | None = None
    timings: Mapping[str, Any] = {}
    connection = None
    try:
        connection = connection_to(environment, SILENCE)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise ChatRefusedError(
                _refusal(response.status, response.read(1 << 16), by_gateway=bool(model)), response.status
            )
        for event in events(response):
            timings = event.get("timings") or timings
            for choice in event.get("choices") or ():
                finish = choice.get("finish_reason") or finish
                delta = choice.get("delta") or {}
                for kind, piece in (("reasoning", delta.get("reasoning_content")), ("text", delta.get("content"))):
                    if piece:
                        said[kind] += piece
                        tell(kind, piece)
    except (AttributeError, TypeError):
        raise ChatError(_NONSENSE) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        address, port = reachable(environment.get("LLAMA_ARG_HOST", "127.0.0.1")), port_of(environment)
        who = "gateway" if model else f"server at {address}, port {port},"
        raise ChatError(f"the {who} does not answer ({error}); see magi status.") from None
    finally:
        if connection:
            connection.close()
    return {
        **said,
        "finish_reason": finish,
        "tokens": timings.get("predicted_n"),
        "tokens_per_second": timings.get("predicted_per_second"),
    }


def _said(data: Any) -> str:
    """Return the message of an error, as llama-server wraps it."""
    inner = data.get("error", data) if isinstance(data, dict) else data
    message = inner.get("message", inner) if isinstance(inner, dict) else inner
    return printable(str(message))[:300].rstrip(".")


def _refusal(status: int, body: bytes, *, by_gateway: bool) -> str:
    try:
        message = _said(json.loads(body))
    except (ValueError, RecursionError):
        message = "no reason given"
    if by_gateway:  # its own sentences have the remedy
        key = "; ask one server with --instance, which finds its key on its own host" if status == 401 else ""
        return f"it answers {status}: {message}{key}."
    remedy = {
        401: "its API key file has changed since it was started, or can't be read; run magi up",
        503: "it still loads its model; ask again in a moment",
    }.get(status, "see its log (magi logs)")
    return f"the server answers {status} ({message}): {remedy}."
