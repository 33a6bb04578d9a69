"""What tests of several modules share: plain values, and a server."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._config.profile import examine_profile
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Listener, Running
from ansible_collections.magi.models.plugins.module_utils._llama.help import parse_help
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion, Inventory, Model
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.values import Settings
from ansible_collections.magi.models.plugins.module_utils._services.values import Capabilities

HELP = (Path(__file__).parents[2] / "fixtures" / "llama-server-help.txt").read_text()
"""What llama-server b11434 prints for --help."""

BINARY = Binary("/opt/llama-server", "11434", "11434 15405344 1795385464", parse_help(HELP), devices=())


def model(model_id, tier="Q4", **more):
    path = more.pop("path", f"/models/{model_id}.gguf")
    values = {
        "id": model_id,
        "display_name": model_id.upper(),
        "quantization": tier,
        "tier": tier,
        "task": "chat",
        "path": path,
        "files": (FileVersion(path, 1000, 5),),
        "size_bytes": 1000,
        "architecture": "llama",
        "parameter_count": 1,
        "context_length": None,
        "shape": {},
        "mmproj": None,
        "duplicates": (),
        "fingerprint": "",
    }
    return Model(**{**values, **more})


MODELS = [model("a-q2_k", "Q2"), model("b-q3_k_m", "Q3"), model("c-q4_k_m"), model("d-q4_1")]


def inventory(*models, rejected=()):
    return Inventory(tuple(models or MODELS), rejected=tuple(rejected))


def profile(*entries, name="test", **more):
    return examine_profile(name, {"enabled_models": list(entries) or ["*"], **more})[0]


def host(*instances, **more):
    values = {
        "manager": "supervisor",
        "home": "/srv/magi",
        "cores": 8,
        "memory_bytes": 1 << 34,
        "binary": BINARY,
        "instances": tuple(instances),
        "can": Capabilities(pools=True),
    }
    return Host(**{**values, **more})


def settings(**more):
    return Settings(**{"port_range": (8080, 8089), **more})


def running(instance, **more):
    """Return ``instance`` of a plan as it looks when it runs."""
    values = {
        "name": instance.name,
        "state": State.RUNNING,
        "pid": 100,
        "port": instance.port,
        "config_hash": instance.config_hash,
        "environment": {k: v for k, v in instance.environment.items() if k.startswith(("LLAMA_ARG_", "MAGI_"))},
    }
    found = Running(**{**values, **more})
    return replace(found, state=State(found.state))


def plan(
    *entries, models=None, rejected=(), of=None, on=None, with_settings=None, scan_paths=("/models",), lost=(), **more
):
    return build_plan(
        host_name="gpu1",
        profile=profile(*entries, **more),
        inventory=of or inventory(*(models or ()), rejected=rejected),
        host=on or host(),
        settings=with_settings or settings(),
        scan_paths=scan_paths,
        lost=lost,
    )


def names(value):
    return [item.name for item in value.instances]


def foreign(port, address="127.0.0.1"):
    return Listener(address, port, 4242, "nc -l")


class FakeServer:
    """Answers each GET by its path: with a status and a body, with each of a list of these (the last one again and
    again), or with a function that writes the answer. Keeps what it was asked, and with which authorization.
    """

    def __init__(self, answers):
        self.asked = asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers["Authorization"]))
                answer = answers.get(self.path) or (404, b"")
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                if callable(answer):
                    with contextlib.suppress(OSError):
                        answer(self.wfile)
                else:
                    self.send_response(answer[0])
                    self.end_headers()
                    self.wfile.write(answer[1])

            def log_message(self, *_arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.environment = {"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": str(self.server.server_port)}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_error):
        self.server.shutdown()
        self.server.server_close()
