"""What clients do with a gateway, with the packages openai and anthropic: ADDRESS EMBEDDER CHAT_MODEL…,
or ADDRESS wrong-key MODEL against a gateway that asks for keys, or ADDRESS while-killed MODEL PID PORT of one of two
servers of that model.

Run in their own environment (tests/clients.py), so nothing of ours is imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import anthropic
import openai

HELLO = [{"role": "user", "content": "What is the capital of France?"}]
LIMITS = {"max_tokens": 8, "temperature": 0}


def with_openai(address: str, embedder: str, models: list[str]) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)
    assert {embedder, *models} <= {model.id for model in client.models.list()}
    for model in models:
        answer = client.chat.completions.create(model=model, messages=HELLO, **LIMITS)
        assert answer.choices[0].message.content, model
        assert answer.usage.completion_tokens <= 8
        stream = client.chat.completions.create(model=model, messages=HELLO, stream=True, **LIMITS)
        pieces = [choice.delta.content for event in stream for choice in event.choices if choice.delta.content]
        assert len(pieces) > 1, model
    vectors = client.embeddings.create(model=embedder, input=["a", "b"]).data
    assert [len(vector.embedding) for vector in vectors] == [384, 384]

    # The package writes "messages" before "model": more of them than HAProxy's usual buffer has room for. (llama-server
    # reads no name.)
    long = [{**HELLO[0], "name": "x" * 300_000}]
    assert client.chat.completions.create(model=models[0], messages=long, **LIMITS).choices

    error = refusal(openai.NotFoundError, client.chat.completions.create, model=models[0][:-1], **LIMITS)
    assert error.code == "model_not_found"
    assert f"did you mean {models[0]}" in error.message, error.message


async def together(address: str, models: list[str]) -> None:
    """Ask all at the same time."""
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        asked = (client.chat.completions.create(model=model, messages=HELLO, **LIMITS) for model in models)
        assert all(answer.choices[0].message.content for answer in await asyncio.gather(*asked))


def with_anthropic(address: str, models: list[str]) -> None:
    client = anthropic.Anthropic(base_url=address, api_key="none", max_retries=0, timeout=60)
    for model in models[:2]:
        answer = client.messages.create(model=model, messages=HELLO, max_tokens=8)
        assert answer.content[0].text, model
    with client.messages.stream(model=models[0], messages=HELLO, max_tokens=8) as stream:
        assert "".join(stream.text_stream)
    error = refusal(anthropic.NotFoundError, client.messages.create, model=models[0][:-1], max_tokens=8)
    assert f"did you mean {models[0]}" in error.message, error.message


def with_wrong_key(address: str, model: str) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0, timeout=60)
    error = refusal(openai.AuthenticationError, client.chat.completions.create, model=model, **LIMITS)
    assert error.code == "invalid_api_key"
    other = anthropic.Anthropic(base_url=address, api_key="wrong", max_retries=0, timeout=60)
    error = refusal(anthropic.AuthenticationError, other.messages.create, model=model, max_tokens=8)
    assert "This needs a valid key" in error.message, error.message


async def while_killed(address: str, model: str, pid: int, port: int) -> None:
    """Kill a server that works on requests and has sent no byte of their answers: none fails, with clients as they are."""
    long = {"model": model, "messages": HELLO, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
    async with (
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client,
        anthropic.AsyncAnthropic(base_url=address, api_key="none") as other,
    ):
        chats = (client.chat.completions.create(**long) for _number in range(5))
        asked = [asyncio.ensure_future(item) for item in (*chats, other.messages.create(**long))]
        deadline = time.monotonic() + 30
        while not await asyncio.to_thread(busy, port):
            assert time.monotonic() < deadline
        assert not any(item.done() for item in asked)
        os.kill(pid, signal.SIGKILL)
        *answers, message = await asyncio.gather(*asked)
    assert all(answer.choices[0].message.content for answer in answers)
    assert message.content[0].text


def busy(port: int) -> int:
    """Return how many requests a server works on."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/slots", timeout=10) as answer:
        return sum(slot["is_processing"] for slot in json.load(answer))


def refusal(kind: type[Exception], ask: Callable[..., object], **arguments: object) -> Any:
    """Return the error of this kind with which a question ends."""
    try:
        ask(messages=HELLO, **arguments)
    except kind as error:
        return error
    raise AssertionError(f"{arguments} is answered")


def main() -> None:
    address, embedder, *models = sys.argv[1:]
    if embedder == "wrong-key":
        with_wrong_key(address, *models)
        return
    if embedder == "while-killed":
        model, pid, port = models
        asyncio.run(while_killed(address, model, int(pid), int(port)))
        return
    with_openai(address, embedder, models)
    asyncio.run(together(address, models))
    with_anthropic(address, models)


if __name__ == "__main__":
    main()
