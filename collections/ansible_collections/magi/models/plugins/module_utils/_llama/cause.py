# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why an instance is not serving: from its last lines and its state to a cause and a remedy. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    code: str
    detail: str
    """One sentence: what is wrong, and the remedy."""


# What llama-server prints (ggml/src/gguf.cpp, src/llama-model*.cpp, common/arg.cpp, tools/server), or the shell that
# runs it, first match wins: pattern, code, sentence with the pattern's group.
_TABLE = (
    (
        r"couldn't bind HTTP server socket, hostname: (\S+, port: \d+)",
        "port_taken",
        "another process holds its port ({0}); stop that process or choose another port",
    ),
    (
        r"failed to open GGUF file '(.+)' \(No such file",
        "file_missing",
        "its model file {0} is gone; restore it or take it out of the profile",
    ),
    (
        r"failed to open GGUF file '(.+)' \(Permission denied",
        "file_unreadable",
        "the service's user may not read {0}; make the file and its folders readable",
    ),
    (
        r"error while handling environment variable \"(LLAMA_ARG_API_KEY_FILE)\"",
        "bad_api_key_file",
        "its API key file can't be read; correct the option api_key_file",
    ),
    (
        r"^magi: the API key file holds no key",  # run-instance.sh.j2, magi-llama@instance.conf.j2
        "bad_api_key_file",
        "its API key file holds no key, and it would ask nobody for one; write a key into it",
    ),
    (
        r"error while handling environment variable \"(\w+\": .+)",
        "bad_option",
        'llama-server refuses the value of "{0}; correct that option in the profile',
    ),
    (
        r"(?:error: invalid argument: |error while handling argument |error: the argument )(.+)",
        "bad_option",
        "llama-server refuses the argument {0}; correct the options in the profile",
    ),
    (
        r"unknown model architecture: '(.+)'",
        "architecture_unsupported",
        "this llama-server does not know the architecture {0}; install a newer build",
    ),
    (
        r"(?:(model is corrupted or incomplete)|(invalid magic characters)|gguf_init_from_\w+: (.+))",
        "file_corrupt",
        "its model file is corrupt or truncated ({0}); fetch it again",
    ),
    (
        r"((?:(?:failed|unable) to allocate|out of memory|cudaMalloc failed|bad_alloc|ErrorOutOfDeviceMemory).*)",
        "out_of_memory",
        "it does not fit into memory ({0}); choose a smaller quantization, ctx_size or n_gpu_layers",
    ),
    (
        r"error loading model: (.+)",
        "load_failed",
        "the model does not load ({0}); check the file with gguf_info",
    ),
)


def find_cause(log: Sequence[str], exit_status: str | None) -> Cause:
    """Return why a server ended, from the last lines it printed (oldest first) and how it exited."""
    text = "\n".join(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line) for line in log)
    for pattern, code, sentence in _TABLE:
        match = re.search(pattern, text, re.MULTILINE)
        if match:
            said = next((group for group in match.groups() if group), match.group())
            return Cause(code, sentence.format(said.strip()[:300]))
    status = exit_status or "no exit status"
    # "signal, exit status 9" is all that systemd says where it does not see the kernel's OOM killer (cgroup v1).
    if re.search(r"oom|signal, exit status 9\b|SIGKILL|status 137", status, re.IGNORECASE):
        return Cause("out_of_memory", f"it was killed ({status}), most likely for lack of memory; see the kernel's log")
    if re.search(r"status 243\b", status):  # systemd.exec(5), EXIT_CREDENTIALS
        return Cause("bad_api_key_file", f"systemd can't read its API key file ({status}); correct api_key_file")
    if re.search(r"status 127|status 126|203|ENOENT|can't find", status):
        return Cause("binary_missing", f"llama-server could not be run ({status}); install it again")
    return Cause("crashed", f"it ended ({status}); its log says why")


REPEATED = frozenset({"architecture_unsupported", "bad_option", "crashed", "file_corrupt", "load_failed"})
"""Causes that come again as long as model, options and llama-server stay as they are; what mends the others (a port,
memory, permissions, a file of keys) changes none of these."""


def quarantined(cause: Cause) -> Cause:
    """Return the cause of an instance that is not started again."""
    return Cause(
        cause.code,
        f"{cause.detail} (in quarantine: it is started again when its model, options or llama-server change, or with "
        "-e model_server_retry_quarantined=true)",
    )


def not_ready(seconds: int, status: int) -> Cause:
    """Return the cause of a server that runs but did not get ready in time; ``status`` is the last HTTP status."""
    said = (
        f"still answers {status} (loading)" if status == 503 else f"answers {status}" if status else "does not answer"
    )
    return Cause(
        "timeout",
        f"it {said} after {seconds} s; see its log, and raise model_server_max_startup_time if it only needs longer",
    )


def start_refused(said: str) -> Cause:
    """Return the cause of an instance that its service manager refuses to start; ``said`` is the manager's sentence."""
    return Cause(
        "start_refused",
        f"its service manager refuses to start it ({said.rstrip('.')}); mend that on the host and run again",
    )


def wrong_server(name: str, answered: Sequence[str]) -> Cause:
    return Cause(
        "wrong_server",
        f"its port is served as {', '.join(answered)[:200] or 'nothing'} instead of {name}; another process answers "
        "there, stop it and run again",
    )
