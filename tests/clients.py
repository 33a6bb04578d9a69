"""Real clients of the API, in an environment of their own, which is kept: our own tools need none of what they need."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from .playbook import clean_environment

PACKAGES = ("openai==3.57.0", "anthropic==2.14.0")
CACHE = Path.home() / ".cache" / "magi" / "clients"


def python() -> Path:
    """Return the Python that has ``PACKAGES``; their first use downloads them."""
    folder = CACHE / "-".join((*PACKAGES, f"py{sys.version_info.major}.{sys.version_info.minor}"))
    program, ready = folder / "bin" / "python", folder / "ready"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side
        if not ready.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run(
                [program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True
            )
            ready.touch()
    return program


def talk(*arguments: str) -> str:
    """Run a program of these clients; return what it printed."""
    done = subprocess.run(
        [python(), *arguments],
        env={**clean_environment(), "NO_PROXY": "*"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
