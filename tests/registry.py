"""A registry of one image, which engines can pull from (OCI Distribution Specification)."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

OCI = "application/vnd.oci.image"


@contextmanager
def serving(folder: Path, entrypoint: Sequence[str]) -> Iterator[str]:
    """Serve, within the block, an image of the files in ``folder``, and say its name."""
    layer = subprocess.run(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE, check=True).stdout
    blobs: dict[str, tuple[str, bytes]] = {}

    def added(kind: str, content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[digest] = f"{OCI}.{kind}", content
        return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": len(content)}

    layers = [added("layer.v1.tar", layer)]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": entrypoint},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": added("config.v1+json", json.dumps(config).encode()),
        "layers": layers,
    }
    top = added("manifest.v1+json", json.dumps(manifest).encode())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            last = self.path.rpartition("/")[2]
            kind, content = blobs.get(str(top["digest"]) if last == "1" else last, ("application/json", b"{}"))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if kind.endswith("manifest.v1+json"):
                self.send_header("Docker-Content-Digest", str(top["digest"]))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}/llama:1"
        server.shutdown()
