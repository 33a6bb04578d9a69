from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.gpu_exporters import is_of
from ansible_collections.magi.models.plugins.modules import gpu_exporter_info

# Excerpts of what they print: dcgm-exporter 3.3 (README.md), nvidia_gpu_exporter 1.2 (README.md), and
# device-metrics-exporter 1.2 (docs).
DCGM = """\
# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52"} 139
"""
SAID = {
    "dcgm": DCGM,
    "nvidia": 'nvidia_smi_gpu_info{name="NVIDIA GeForce RTX 2080 SUPER"} 1\n',
    "rocm": 'gpu_gfx_activity{card_model="0x74a1",gpu_id="0",hostname="gpu1"} 12\n',
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("said", [*SAID, "other"])
def test_an_exporter_is_known_by_its_metrics(name, said):
    text = SAID.get(said, "# HELP DCGM_FI_DEV_SM_CLOCK of others\nllamacpp:requests_processing 1\nmy_gpu_1 2\n")
    assert is_of(name, text) == (name == said)


class FakeExporter(http.server.BaseHTTPRequestHandler):
    """Answers as dcgm-exporter does."""

    def do_GET(self):
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(DCGM.encode())

    def log_message(self, *_arguments):
        pass


def test_what_runs_on_this_host_is_found():
    with http.server.HTTPServer(("127.0.0.1", 0), FakeExporter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        arguments = {"ports": {"dcgm": port, "nvidia": port, "rocm": 1}}
        done = subprocess.run(
            [sys.executable, gpu_exporter_info.__file__],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env={"PYTHONPATH": str(Path(gpu_exporter_info.__file__).parents[5])},
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exporters"] == [{"name": "dcgm", "address": "127.0.0.1", "port": port}]
