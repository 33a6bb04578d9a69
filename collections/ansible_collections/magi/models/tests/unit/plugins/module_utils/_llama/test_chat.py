from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.chat import (
    ChatError,
    ChatRefusedError,
    chat,
    events,
)


def stream(*items, end="data: [DONE]\n\n"):
    return "".join(f"data: {json.dumps(item)}\n\n" for item in items) + end


def delta(finish=None, **delta):
    return {"choices": [{"delta": delta, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (stream({"a": 1}, {"b": 2}), [{"a": 1}, {"b": 2}]),
        (": keep-alive\n\n" + stream({"a": 1}), [{"a": 1}]),
        (stream({"a": 1}).replace("\n", "\r\n"), [{"a": 1}]),
        (stream({"a": 1}) + stream({"b": 1}), [{"a": 1}]),
    ],
)
def test_a_stream_of_events(text, found):
    assert list(events(text.encode().splitlines())) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (stream({"a": 1}, end=""), "ended in the middle of the answer"),
        ("", "ended in the middle of the answer"),
        ("data: {\n", "something that is no completion"),
        ("data: [1]\n", "something that is no completion"),
        (f"data: {'[' * 100_000}\n", "something that is no completion"),
        ('error: {"code": 500, "message": "context is full."}\n', "the server gave up: context is full; see its log"),
        ('data: {"error": {"message": "\\u001b[31mno"}}\n', r"gave up: \x1b[31mno;"),
    ],
)
def test_a_stream_that_is_no_answer_says_why(text, said):
    with pytest.raises(ChatError) as error:
        list(events(text.encode().splitlines()))
    assert said in str(error.value)


class FakeServer:
    """Answers one request as it is told, and keeps it."""

    def __init__(self, status, body):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                fake.headers = dict(self.headers)
                fake.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.environment = {"LLAMA_ARG_HOST": "0.0.0.0", "LLAMA_ARG_PORT": str(self.server.server_port)}
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve():
    servers = []

    def serve(status, body):
        servers.append(FakeServer(status, body))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def test_the_answer_comes_in_pieces_and_as_a_whole(serve, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\ncanary\n")
    server = serve(
        200,
        stream(
            delta(role="assistant", content=None),
            delta(reasoning_content="hm"),
            delta(content="Par"),
            delta(content="is\n"),
            {**delta(finish="stop"), "timings": {"predicted_n": 2, "predicted_per_second": 9.5}},
        ),
    )
    pieces = []
    answer = chat({**server.environment, "MAGI_API_KEY_FILE": str(keys)}, "{{ x }}", 7, lambda *p: pieces.append(p))
    assert pieces == [("reasoning", "hm"), ("text", "Par"), ("text", "is\n")]
    assert answer == {
        "text": "Paris\n",
        "reasoning": "hm",
        "finish_reason": "stop",
        "tokens": 2,
        "tokens_per_second": 9.5,
    }
    assert server.headers["Authorization"] == "Bearer canary"
    assert server.asked == {"messages": [{"role": "user", "content": "{{ x }}"}], "stream": True, "max_tokens": 7}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, '{"error": {"message": "Invalid API Key"}}', "answers 401 (Invalid API Key): its API key file has"),
        (503, '{"error": {"message": "Loading model"}}', "answers 503 (Loading model): it still loads its model"),
        (500, "<html>", "answers 500 (no reason given): see its log"),
    ],
)
def test_a_refusal_says_why_and_what_to_do(serve, status, body, said):
    with pytest.raises(ChatError) as error:
        chat(serve(status, body).environment, "x", 1, print)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "it answers 404: There is no model x here (did you mean y?)."),
        (401, "it answers 401: There is no model x here (did you mean y?); ask one server with --instance, which"),
    ],
)
def test_a_gateway_is_asked_for_a_model_and_says_itself_what_is_wrong(serve, status, said):
    server = serve(status, '{"error": {"message": "There is no model x here (did you mean y?)"}}')
    with pytest.raises(ChatRefusedError) as error:
        chat(server.environment, "Why?", 1, print, "x")
    assert server.asked["model"] == "x"
    assert (error.value.status, str(error.value)[: len(said)]) == (status, said)


@pytest.mark.parametrize("key", ["пароль", "a\rb"])
def test_any_key_is_sent_as_it_is_or_is_no_answer(serve, tmp_path, key):
    keys = tmp_path / "keys"
    keys.write_text(key, newline="")
    server = serve(200, stream(delta(content="hi")))
    environment = {**server.environment, "LLAMA_ARG_API_KEY_FILE": str(keys)}
    if "\r" in key:
        with pytest.raises(ChatError, match="does not answer"):
            chat(environment, "x", 1, print)
    else:
        assert chat(environment, "x", 1, print)["text"] == "hi"
        assert server.headers["Authorization"].encode("latin-1").decode() == f"Bearer {key}"


@pytest.mark.parametrize("event", [{"choices": 1}, {"choices": [1]}, {"choices": [{"delta": {"content": [1]}}]}])
def test_an_event_that_is_no_completion_says_so(serve, event):
    with pytest.raises(ChatError, match="no completion"):
        chat(serve(200, stream(event)).environment, "x", 1, lambda *_piece: None)


def test_nobody_answers():
    with pytest.raises(ChatError, match=r"the server at 127\.0\.0\.1, port 1, does not answer \("):
        chat({"LLAMA_ARG_PORT": "1"}, "x", 1, print)
