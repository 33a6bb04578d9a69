# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking the host's own llama-fit-params what servers need of memory; the answers are kept beside the registry."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.cores import cores
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError, write_atomic
from ansible_collections.magi.models.plugins.module_utils._host.binary import find_beside
from ansible_collections.magi.models.plugins.module_utils._llama.need import Told, parse_rows
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._plan.need import Question

TOOL = "llama-fit-params"
LIMIT = 20  # seconds
_KEPT = 1000  # answers
_MISSING = f"there is no {TOOL} beside llama-server, nor in the PATH"


def find_tool(binary: Binary) -> str | None:
    """Return the llama-fit-params of a llama-server."""
    return find_beside(binary.path, TOOL)


class Asker:
    """Asks one llama-fit-params, and stops asking once it hangs."""

    def __init__(self, binary: Binary, tool: str | None, limit: float = LIMIT) -> None:
        self._tool, self._limit = tool, limit
        self._why = self._other_build(binary) if tool else _MISSING

    def ask(self, question: Question, variables: Mapping[str, str] | None = None) -> Told:
        """Return what it says; ``variables`` are laid over those of ``question``."""
        environment = {**question.variables, **(variables or {})}
        # It refuses arguments that it does not know, and llama-server has more.
        for arguments in dict.fromkeys((question.arguments, ())):
            if self._why:
                return Told((), self._why)
            try:
                done = self._run([*arguments, "--fit", "off", "--fit-print", "on"], environment)
            except subprocess.TimeoutExpired:
                self._why = f"{TOOL} did not answer in {self._limit:g} seconds"
            except OSError as error:
                self._why = f"{TOOL} does not run ({error.strerror})"
            else:
                rows = parse_rows(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else ()
                if rows:
                    return Told(rows)
        return Told((), self._why or f"{TOOL} does not print what this model needs")

    def _run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(self._tool), *arguments],
            # where it aborts, it would start a debugger to show where
            env={"PATH": os.defpath, "GGML_NO_BACKTRACE": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=self._limit,
            check=False,
        )

    def _other_build(self, binary: Binary) -> str:
        """Return that it is of another build than llama-server, or an empty string. Not asked of one that lies beside
        that."""
        if os.path.dirname(str(self._tool)) in (
            os.path.dirname(p) for p in (binary.path, os.path.realpath(binary.path))
        ):
            return ""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [str(self._tool), "--version"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self._limit,
                check=False,
            )
            if binary.version in done.stdout.decode("utf-8", "replace"):
                return ""
        return f"{self._tool} is of another build than llama-server"


def read_needs(
    binary: Binary, questions: Iterable[Question], kept_at: Path, *, write: bool, refresh: bool = False
) -> dict[str, Told]:
    """Return what llama-fit-params says to each of ``questions``, by its key; with ``write``, keep that in the file
    ``kept_at``, from which it comes the next time, unless ``refresh``."""
    asked = {item.key: item for item in questions}

    def lasts(told: Told) -> bool:
        """Whether the answer is the same the next time: a program may be installed, and a GPU may be full now."""
        return bool(told.rows) or (told.why != _MISSING and not binary.devices)

    good = {} if refresh else {key: told for key, told in _kept(kept_at).items() if lasts(told)}
    new = [item for key, item in asked.items() if key not in good]
    if new:
        asker = Asker(binary, find_tool(binary))
        # On a GPU, each takes some of its memory while it runs.
        with ThreadPoolExecutor(1 if binary.devices else min(8, cores())) as pool:
            good.update(zip((item.key for item in new), pool.map(asker.ask, new)))
        if write:
            last = {key: told for key, told in [*good.items()][-_KEPT:] if lasts(told)}
            with contextlib.suppress(FileWriteError):  # it is asked again the next time
                write_atomic(kept_at, json.dumps(last, separators=(",", ":")).encode(), 0o640)
    return {key: good[key] for key in asked}


def _kept(path: Path) -> dict[str, Told]:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return {key: Told.of(plain) for key, plain in json.loads(path.read_bytes()).items()}
    return {}


def needs_path(registry_path: str) -> Path:
    """Return the file of the answers, beside a registry."""
    return Path(registry_path).with_suffix(".needs.json")
