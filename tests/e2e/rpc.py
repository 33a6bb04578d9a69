"""The real ggml-rpc-server, which computes for a llama-server of another host."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .conftest import LLAMA_SERVER

BUILD = LLAMA_SERVER.resolve().parent


def rpc_server() -> Path:
    """Return ggml-rpc-server of the build, or build it beside one that was made without it."""
    there, built = BUILD / "ggml-rpc-server", BUILD.parent / "rpc"
    if there.exists() or (there := built / "bin" / "ggml-rpc-server").exists():
        return there
    flags = ("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=OFF", "-DGGML_RPC=ON")
    more = (f"-DLLAMA_{name}=OFF" for name in ("CURL", "OPENSSL", "BUILD_TESTS", "BUILD_EXAMPLES", "USE_PREBUILT_UI"))
    source = BUILD.parent / "source"
    subprocess.run(["cmake", "-G", "Ninja", "-S", source, "-B", built, *flags, *more], check=True)
    subprocess.run(["cmake", "--build", built, "--target", there.name], check=True)
    return there


def with_rpc_server(folder: Path) -> Path:
    """Return llama-server in a new ``folder`` that also has ggml-rpc-server, as the role llama_server installs them."""
    folder.mkdir()
    for program in (BUILD / "llama-server", rpc_server()):
        (folder / program.name).symlink_to(program)
    return folder / "llama-server"
