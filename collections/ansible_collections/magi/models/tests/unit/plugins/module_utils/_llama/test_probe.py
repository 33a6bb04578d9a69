from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.probe import probe, senseless


@pytest.fixture
def asked(tmp_path):
    """Probe a fake server that answers with status and body, None: never; return what was said and what it was asked."""
    servers = []
    hold = threading.Event()

    def ask(status, body, timeout=5.0, model="", sensible=False, load=False, **environment):
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
        return probe({**at, **environment}, timeout, model, sensible=sensible, load=load), got

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
    assert (said, got["path"].removesuffix("?autoload=false"), got["body"].get("model", "")) == ("", path, model)


def test_a_pool_loads_a_model_for_it_only_where_that_is_wanted(asked):
    pool = {"LLAMA_ARG_MODELS_PRESET": "/p.ini"}
    for where in ({}, pool):  # through the gateway, it may be one, too
        loads = '{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
        assert asked(503, loads, model="x", **where)[0] == ""
        assert "answered HTTP status 503" in asked(503, '{"error":{"code":"no_server"}}', model="x", **where)[0]
    gone = '{"error":{"message":"model is not loaded"}}'
    said, got = asked(400, gone, model="x", **pool)
    assert (said, got["path"]) == ("", "/v1/completions?autoload=false")
    assert "answered HTTP status 400" in asked(400, "{}", model="x", **pool)[0]
    assert "HTTP status 401; its file of API keys has changed" in asked(401, "{}", model="x", **pool)[0]
    said, got = asked(200, '{"choices": [1]}', model="x", load=True, **pool)
    assert (said, got["path"]) == ("", "/v1/completions")


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (", the company had a team of 100 employees. However, one", ""),
        (" Paris.\n- The capital of Italy is Rome.\n- The capital of", ""),
        ("很久以前，有一个小村庄", ""),
        (" ha ha ha, said the king", ""),
        ("\n      def x():\n          return 1", ""),
        ("\n\n## Story\n\n------\n", ""),
        (", ______ lived in a small village, and", ""),
        # damaged weights, NaN, and what GPUs are known to print
        ("................", "repeated itself (................)"),
        ("GGGGGGGGGGGGGGGG", "repeated itself (GGGGGGGGGGGGGGGG)"),
        (" is is is is is is is is", "repeated itself (is is is is is is is is)"),
        (' to to to to to to to"\n    print to to to to to the', "repeated itself ("),
        ("", "answered nothing"),
        (" \n", "answered nothing"),
        ("\ufffda\ufffdb\ufffdc", "answered what is no text ("),
    ],
)
def test_what_is_no_text_is_said(asked, text, said):
    assert senseless(text).startswith(said)
    assert bool(senseless(text)) == bool(said)
    found, got = asked(200, json.dumps({"choices": [{"text": text}]}), sensible=True)
    assert found.startswith(f"it was asked for some words and {said}" if said else "")
    assert bool(found) == bool(said)
    assert got["body"]["max_tokens"] > 8
    assert asked(200, json.dumps({"choices": [{"text": text}]}))[0] == ""  # one token says nothing of this


@pytest.mark.parametrize(
    "body", ['{"choices": [{}]}', '{"choices": [1]}', '{"choices": {"a": 1}}', '{"choices": [{"text": 1}]}']
)
def test_an_answer_without_text_is_said(asked, body):
    assert asked(200, body, sensible=True)[0].startswith("it was asked for some words and did not answer (")
