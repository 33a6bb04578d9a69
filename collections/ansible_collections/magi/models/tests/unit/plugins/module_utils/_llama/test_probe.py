from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.probe import probe


@pytest.fixture
def asked(tmp_path):
    """Probe a fake server that answers with status and body, None: never; return what was said and what it was asked."""
    servers = []
    hold = threading.Event()

    def ask(status, body, timeout=5.0, model="", **environment):
        got = {}

        class FakeServer(BaseHTTPRequestHandler):
            def do_POST(self):
                got.update(path=self.path, key=self.headers["Authorization"])
                got["body"] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if status is None:
                    hold.wait(10)
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        at = {"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": str(server.server_port)}
        return probe({**at, **environment}, timeout, model), got

    yield ask
    hold.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("environment", "path", "field"),
    [
        ({}, "/v1/completions", "choices"),
        ({"LLAMA_ARG_EMBEDDINGS": "0"}, "/v1/completions", "choices"),
        ({"LLAMA_ARG_EMBEDDINGS": "true"}, "/v1/embeddings", "data"),
        ({"LLAMA_ARG_EMBEDDINGS": "1", "LLAMA_ARG_RERANKING": "1"}, "/v1/rerank", "results"),
    ],
)
@pytest.mark.parametrize("model", ["", "x"])
def test_a_server_is_asked_for_what_it_was_started_for(asked, environment, path, field, model):
    said, got = asked(200, json.dumps({field: [1]}), model=model, **environment)
    assert (said, got["path"], got["body"].get("model", "")) == ("", path, model)


def test_its_key_is_that_of_its_file(asked, tmp_path):
    (tmp_path / "keys").write_text("secret\n")
    said, got = asked(200, '{"choices": [1]}', LLAMA_ARG_API_KEY_FILE=str(tmp_path / "keys"))
    assert (said, got["key"]) == ("", "Bearer secret")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, "{}", "was asked for one token and answered HTTP status 500"),
        (401, "{}", "HTTP status 401; its file of API keys has changed"),
        (200, '{"choices": []}', "answered HTTP status 200"),
        (200, "[", "did not answer"),
        (200, "[]", "did not answer"),
    ],
)
def test_what_is_no_work_is_said(asked, status, body, said):
    assert said in asked(status, body)[0]


def test_a_server_that_hangs_is_given_up(asked):
    assert "did not give one token in 0.2 seconds" in asked(None, "", timeout=0.2)[0]


def test_a_server_that_is_gone_is_said():
    assert "did not answer" in probe({"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": "1"}, 1)


@pytest.mark.parametrize(("model", "silent"), [("", False), ("x", True)])
def test_a_gateway_that_wants_a_client_s_key_does_its_work(asked, model, silent):
    said, _got = asked(401, "{}", model=model)
    assert (said == "") is silent
