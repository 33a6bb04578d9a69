from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.probe_all import probe_all

TOKEN = b'{"choices": [{"text": "x"}]}'
BUSY = b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\nllamacpp:n_decode_total 1\n"
BUSY += b"llamacpp:n_busy_slots_per_decode 1\n"


@contextlib.contextmanager
def server(name, health=200, status=200, body=TOKEN, metrics=None, key=b"", models=None):
    """Run a fake server that answers with ``status`` and ``body``, status 0: never; give what probe_all takes. With
    ``models``, it is a pool, and has them in these states."""
    hold = threading.Event()

    class FakeServer(BaseHTTPRequestHandler):
        def do_GET(self):
            listed = [{"id": name, "status": {"value": state}} for name, state in (models or {}).items()]
            said = {
                "/health": (health, b""),
                "/metrics": (200, metrics),
                "/metrics?model=a&autoload=false": (200, metrics),
                "/v1/models": (200, json.dumps({"data": listed}).encode()),
            }[self.path]
            self.answer(*said) if said[1] is not None else hold.wait(10)

        def do_POST(self):
            if key and self.headers["Authorization"] != f"Bearer {key.decode()}":
                return self.answer(401, b"")
            return self.answer(status, body) if status else hold.wait(10)

        def answer(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield {
            "name": name,
            "labels": f'{{instance="{name}"}}',
            "environment": {
                "LLAMA_ARG_HOST": "127.0.0.1",
                "LLAMA_ARG_PORT": str(http.server_port),
                **({} if models is None else {"LLAMA_ARG_MODELS_PRESET": "/p.ini"}),
            },
            "keyed": bool(key),
            "model": "",
        }
        hold.set()
        http.shutdown()


def works(text):
    """Return the verdict on each server."""
    return {name: int(value) for name, value in re.findall(r'^magi_probe_success{instance="(\S+)"} (\d)$', text, re.M)}


def test_a_server_that_does_its_work():
    before = int(time.time())
    with server("a") as a:
        text, wrong = probe_all([a])
    assert wrong == []
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples.keys() == {
        f'magi_probe_{name}{{instance="a"}}' for name in ("success", "duration_seconds", "time_seconds")
    }
    assert samples['magi_probe_success{instance="a"}'] == "1"
    assert before <= int(samples['magi_probe_time_seconds{instance="a"}']) <= time.time()


def test_one_that_does_not_is_named_and_the_others_are_told_of():
    with server("a", status=500) as a, server("b") as b, server("c", status=0) as c:
        text, wrong = probe_all([a, b, c], timeout=0.2)
    assert works(text) == {"a": 0, "b": 1, "c": 0}
    assert [sentence.partition(":")[0] for sentence in wrong] == ["a", "c"]
    assert "did not give one token in 0.2 seconds" in wrong[1]


def test_one_that_works_for_others_does_its_work():
    idle = BUSY.replace(b"processing 1", b"processing 0")
    with server("a", status=0, metrics=BUSY) as a, server("b", status=0, metrics=idle) as b:
        text, _wrong = probe_all([a, b], timeout=0.2)
    assert works(text) == {"a": 1, "b": 0}


def test_one_that_is_not_ready_is_left_out():
    with server("a", health=503) as a, server("b") as b:
        pass  # it has ended
    with server("a", health=503) as a:
        assert probe_all([a, b]) == ("", [])


def of_pool(pool, *models):
    """Return the entries of a pool and of its ``models``."""
    return [pool, *({**pool, "labels": f'{{instance="{name}"}}', "model": name} for name in models)]


def test_of_a_pool_the_models_in_memory_are_asked():
    with server("small", models={"a": "loaded", "b": "unloaded"}) as small:
        text, wrong = probe_all(of_pool(small, "a", "b"))
    assert (works(text), wrong) == ({"a": 1}, [])
    assert 'magi_probe_answers{instance="small"} 1\n' in text
    gone, wrong = probe_all(of_pool(small, "a", "b"))
    assert (works(gone), wrong) == ({}, [])
    assert 'magi_probe_answers{instance="small"} 0\n' in gone
    for metrics, verdict in ((None, 0), (BUSY, 1)):
        with server("small", status=0, models={"a": "loaded"}, metrics=metrics) as small:
            text, wrong = probe_all(of_pool(small, "a"), timeout=0.2)
        assert works(text) == {"a": verdict}
        assert [sentence.partition(": ")[0] for sentence in wrong] == ["small, model a"][verdict:]


@pytest.mark.parametrize(("given", "verdict"), [(b"# ours\nsecret\n", 1), (b"#", 0)])
def test_a_key_comes_from_its_file(tmp_path, given, verdict):
    (tmp_path / "a").write_bytes(given)
    with server("a", key=b"secret") as a:
        text, wrong = probe_all([a], str(tmp_path))
    assert works(text) == {"a": verdict}
    assert "secret" not in f"{text}{wrong}"
