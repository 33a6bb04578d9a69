# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why an instance does not serve: from its last lines and its state to a cause and a remedy. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.magi.models.plugins.module_utils._base.states import NOT_STARTED


@dataclass(frozen=True)
class Cause:
    code: str
    detail: str
    """One sentence: what is wrong, and the remedy."""


_PORT_TAKEN = "another process holds its port ({0}); stop that process or choose another port"

# What llama-server prints (ggml/src/gguf.cpp, src/llama-model*.cpp, common/arg.cpp, tools/server), or the shell or the
# loader (glibc's, musl's) that runs it, first match wins: pattern, code, sentence with the pattern's group.
_TABLE = (
    (
        r"version [`'](\S+)' not found \(required by",
        "library_missing",
        "llama-server was built for a newer system than this host's (it needs {0}); install a build for this one (by "
        "role llama_server)",
    ),
    (
        r"symbol lookup error: .+: undefined symbol: ([^\s,]+)",
        "library_missing",
        "llama-server does not go with the libraries that it finds here (they lack {0}); install it with its own",
    ),
    (
        r"(?:error while loading shared libraries: |Error loading shared library )(\S+?): ",
        "library_missing",
        "llama-server does not find the library {0}; install it where services see it (not in a home folder), and run "
        "ldconfig",
    ),
    (
        r"couldn't bind HTTP server socket, hostname: (\S+, port: \d+)",
        "port_taken",
        _PORT_TAKEN,
    ),
    (
        r"^Failed to create server socket",  # a worker (ggml-rpc.cpp)
        "port_taken",
        _PORT_TAKEN,
    ),
    (
        r"Failed to connect to (\S+:\d+)",
        "worker_unreachable",
        "it can't reach its worker at {0}; see in magi status whether that runs, open its port to this host, and run "
        "magi up again",
    ),
    (
        r"RPC handshake failed for (\S+:\d+)",
        "worker_unreachable",
        "its worker at {0} is of another build, or is no worker; install the same build of llama.cpp on both hosts",
    ),
    (
        r"(Remote RPC server crashed or returned malformed response)",
        "worker_lost",
        "it lost a worker that computes for it ({0}); see in magi status and magi logs why that ended, and run magi up "
        "again",
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
        r"invalid device: (\S+)",
        "device_missing",
        "llama-server did not find the device {0} at its start; see that the GPU's driver works (nvidia-smi, rocminfo) "
        "and run magi up again, or correct the option device, or set n_gpu_layers: 0 for the CPU",
    ),
    (
        r"error while handling environment variable \"(LLAMA_ARG_API_KEY_FILE)\"",
        "bad_api_key_file",
        "its API key file can't be read; correct the option api_key_file",
    ),
    (
        r"^magi: the API key file holds no key",  # run-instance.sh.j2, magi-llama@instance.conf.j2
        "bad_api_key_file",
        "its API key file holds no key, so it would let everybody in; write a key into the file",
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
        r"(allocating [\d.]+ MiB on device \d+: cudaMalloc failed: out of memory)",
        "out_of_memory",
        "it does not fit into the memory of its GPU ({0}); choose a smaller quantization, ctx_size or n_gpu_layers, or "
        "end what else is on that GPU",
    ),
    (
        r"((?:(?:failed|unable) to allocate|out of memory|cudaMalloc failed|bad_alloc|ErrorOutOfDeviceMemory).*)",
        "out_of_memory",
        "it does not fit into memory ({0}); choose a smaller quantization, ctx_size or n_gpu_layers",
    ),
    (
        r"llama_init_from_model: (.+ requires .+)",
        "bad_option",
        "its options do not go together ({0}); correct them in the profile",
    ),
    (
        r"failed to load multimodal model, '(.+)'",
        "load_failed",
        "its projector {0} does not load; correct the option mmproj",
    ),
    (
        r"error loading model: (.+)",
        "load_failed",
        "the model does not load ({0}); check the file with gguf_info",
    ),
)


def find_cause(log: Sequence[str], exit_status: str | None, memory_max: str | None = None) -> Cause:
    """Return why a server ended, from its last lines (oldest first) and how it exited; ``memory_max`` is its limit in
    the profile."""
    if exit_status and exit_status.startswith(NOT_STARTED):  # what it printed was in an earlier run
        said = exit_status[len(NOT_STARTED) :].rstrip(".")
        return Cause(
            "service_setup", f"its container could not be started ({said}); mend that on the host, and run again"
        )
    lines = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line) for line in log]
    text = "\n".join(lines)
    for pattern, code, sentence in _TABLE:
        match = re.search(pattern, text, re.MULTILINE)
        if match:
            said = next((group for group in match.groups() if group), match.group())
            return Cause(code, sentence.format(said.strip()[:300]))
    status = exit_status or "no exit status"
    if status.startswith("resources"):  # systemd had what it needs for it not together, such as its files
        said = next((line for line in reversed(lines) if ".service: Failed to " in line), "").partition(".service: ")[2]
        return Cause(
            "service_setup", f"its service could not be set up ({said or status}); mend that on the host, and run again"
        )
    own = re.search(r"status (2[0-3]\d|24[0-35])\b", status)
    if own:
        return _not_set_up(int(own[1]), lines, status)
    # If systemd does not see the kernel's OOM killer (cgroup v1), it says only "signal, exit status 9".
    if re.search(r"oom|signal, exit status 9\b|SIGKILL|status 137", status, re.IGNORECASE):
        if memory_max:
            limit = f"its own limit, memory_max {memory_max}"
            remedy = "raise that, or choose a smaller quantization or ctx_size"
            return Cause("out_of_memory", f"it was killed ({status}), most likely at {limit}; {remedy}")
        return Cause("out_of_memory", f"it was killed ({status}), most likely for lack of memory; see the kernel's log")
    if re.search(r"(?:signal|core-dump), exit status 4\b|SIGILL", status):
        return Cause(
            "illegal_instruction",
            f"llama-server was built for another processor than this host's ({status}); install a build for this one "
            "(by role llama_server, or with GGML_NATIVE=OFF)",
        )
    if re.search(r"status 127|status 126|ENOENT|can't find", status):
        return Cause("binary_missing", f"llama-server could not be run ({status}); install it again")
    return Cause("crashed", f"it ended ({status}); its log says why")


def _not_set_up(number: int, lines: Sequence[str], status: str) -> Cause:
    """Return why systemd could not even begin to run it. The statuses from 200 to 243, and 245, are systemd's
    own (systemd.exec(5), "Process Exit Codes"); the line before the one that names the step says why."""
    failed = [number for number, line in enumerate(lines) if ": Failed at step " in line]
    said = lines[failed[-1] - 1 if failed[-1] else 0].partition(".service: ")[2] if failed else ""
    said = said[:300].rstrip(".") or status
    if number == 203 and "Permission denied" in said:
        return Cause(
            "binary_not_executable",
            f"the service may not execute llama-server ({said}); let all execute it and enter its folders (chmod o+x), "
            "or under SELinux label it bin_t",
        )
    if number == 203:
        return Cause("binary_missing", f"llama-server could not be run ({said}); install it again")
    if number == 243:
        return Cause("bad_api_key_file", f"systemd can't read its API key file ({said}); correct api_key_file")
    what = {
        216: ("a group that it is to have is missing", "make that group, or take it out of SupplementaryGroups="),
        226: ("its sandbox could not be set up", "make what is missing, or mend the drop-in that names it"),
    }.get(number, ("its service could not be set up", "mend that on the host"))
    return Cause("service_setup", f"{what[0]} ({said}); {what[1]}, and run again")


def not_on_device(devices: str, said: str) -> Cause:
    """Return the cause of a server that computes on the CPU, though its host has ``devices``; ``said`` is its line."""
    return Cause(
        "not_on_device",
        f"it computes on the CPU and not on {devices}, which it did not find at its start ({said}); see that the GPU's "
        "driver works (nvidia-smi, rocminfo), then magi up starts it again",
    )


REPEATED = frozenset(
    {"architecture_unsupported", "bad_option", "crashed", "file_corrupt", "illegal_instruction", "load_failed"}
)
"""Causes that come back as long as model, options and llama-server stay the same; the remedies of the others (a port,
memory, permissions, a key file) change none of these."""


def quarantined(cause: Cause) -> Cause:
    """Return the cause of an instance in quarantine, which is not started again."""
    return Cause(
        cause.code,
        f"{cause.detail} (in quarantine: it starts again when its model, options or llama-server change, or with "
        "-e model_server_retry_quarantined=true)",
    )


def not_ready(seconds: float, status: int) -> Cause:
    """Return the cause of a server that runs but is not ready ``seconds`` after its start; ``status`` is the last HTTP
    status."""
    said = (
        f"still answers {status} (loading)" if status == 503 else f"answers {status}" if status else "does not answer"
    )
    return Cause(
        "timeout",
        f"it {said} {seconds:.0f} s after its start; see its log, and raise model_server_max_startup_time if it only "
        "needs longer",
    )


_PUBLISHED = re.compile(
    r"(?:listen tcp\d?|Bind for) (\S+:\d+)(?:: bind: address already in use| failed: port is already allocated)"
)
"""What docker and podman say of a port that a process, or another container, has (moby libnetwork/portallocator and
cmd/docker-proxy; podman libpod/oci_util.go)."""


def port_taken(where: str) -> Cause:
    return Cause("port_taken", _PORT_TAKEN.format(where))


def address_unavailable(address: str, port: int, said: str) -> Cause:
    """Return the cause of a server that may not bind its address; ``said`` is the kernel's word for it."""
    return Cause(
        "address_unavailable",
        f"it can't listen on {address}, port {port} ({said}); correct model_server_host or the port",
    )


def start_refused(said: str) -> Cause:
    """Return the cause of an instance that its service manager refuses to start; ``said`` is the manager's sentence."""
    taken = _PUBLISHED.search(said)
    if taken:
        return port_taken(taken[1])
    return Cause(
        "start_refused",
        f"its service manager refuses to start it ({said.rstrip('.')}); fix that on the host and run again",
    )


def wrong_server(name: str, answered: Sequence[str]) -> Cause:
    return Cause(
        "wrong_server",
        f"the server on its port answers as {', '.join(answered)[:200] or 'nothing'} instead of {name}: another "
        "process is there; stop it and run again",
    )
