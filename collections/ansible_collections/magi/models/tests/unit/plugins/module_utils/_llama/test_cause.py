from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.cause import (
    REPEATED,
    find_cause,
    not_ready,
    start_refused,
    wrong_server,
)
from ansible_collections.magi.models.plugins.module_utils._llama.help import fell_back


# Each line was printed by llama-server b11434.
@pytest.mark.parametrize(
    ("line", "status", "code", "said"),
    [
        (
            "E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 18091",
            "exit status 1",
            "port_taken",
            "127.0.0.1, port: 18091",
        ),
        ("Failed to create server socket", "exit status 0", "port_taken", "another process holds its port"),
        (
            "/src/ggml/src/ggml-rpc/ggml-rpc.cpp:547: Failed to connect to 10.0.0.2:8089",
            "signal, exit status 6",
            "worker_unreachable",
            "its worker at 10.0.0.2:8089;",
        ),
        (
            "/src/ggml/src/ggml-rpc/ggml-rpc.cpp:550: RPC handshake failed for 10.0.0.2:8089",
            "signal, exit status 6",
            "worker_unreachable",
            "of another build",
        ),
        (
            "/src/ggml/src/ggml-rpc/ggml-rpc.cpp:566: Remote RPC server crashed or returned malformed response",
            "signal, exit status 6",
            "worker_lost",
            "it lost a worker",
        ),
        (
            "E gguf_init_from_file: failed to open GGUF file '/nope.gguf' (No such file or directory)",
            "",
            "file_missing",
            "/nope.gguf",
        ),
        (
            "E gguf_init_from_file: failed to open GGUF file '/x.gguf' (Permission denied)",
            "",
            "file_unreadable",
            "/x.gguf",
        ),
        (
            "E llama_model_load: error loading model: tensor 'blk.4.ffn_down.weight' data is not within the file bounds, "
            "model is corrupted or incomplete",
            "",
            "file_corrupt",
            "corrupted or incomplete",
        ),
        (
            "E gguf_init_from_reader: invalid magic characters: '?k??', expected 'GGUF'",
            "",
            "file_corrupt",
            "invalid magic",
        ),
        (
            "0.00.019.060 E ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\n"
            'error while handling environment variable "LLAMA_ARG_DEVICE": invalid device: CUDA0',
            "",
            "device_missing",
            "the device CUDA0 at its start; see that the GPU's driver works",
        ),
        ("error: invalid argument: --nope", "", "bad_option", "--nope"),
        (
            'error while handling environment variable "LLAMA_ARG_CTX_SIZE": stoi',
            "",
            "bad_option",
            '"LLAMA_ARG_CTX_SIZE": stoi',
        ),
        (
            'error while handling argument "--cache-type-k": Unsupported cache type: foo',
            "",
            "bad_option",
            "Unsupported cache type: foo",
        ),
        (
            "error while handling environment variable \"LLAMA_ARG_API_KEY_FILE\": error: failed to open file '/nope'",
            "",
            "bad_api_key_file",
            "api_key_file",
        ),
        (
            "E llama_model_load: error loading model: unknown model architecture: 'madeup'",
            "",
            "architecture_unsupported",
            "madeup",
        ),
        (
            "E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 44789760",
            "",
            "out_of_memory",
            "44789760",
        ),
        (  # of a real card that was full; then it does not even tell how much is free
            "W ggml_backend_cuda_device_get_memory: cudaMemGetInfo failed (out of memory), returning 0/0\n"
            "E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 7277.02 MiB on device 0: cudaMalloc failed: out of "
            "memory\nE ggml_backend_buft_alloc_buffer_n_default: failed to allocate CUDA0 buffer of size 7630503936\n"
            "E llama_model_load: error loading model: unable to allocate CUDA0 buffer",
            "exit status 1",
            "out_of_memory",
            "memory of its GPU (allocating 7277.02 MiB on device 0: cudaMalloc failed: out of memory)",
        ),
        ("E llama_model_load: error loading model: something new", "", "load_failed", "something new"),
        (
            "E llama_init_from_model: quantized V cache requires flash_attn",
            "",
            "bad_option",
            "V cache requires flash_attn",
        ),
        (
            "E srv load_model: failed to load multimodal model, '/x'",
            "",
            "load_failed",
            "its projector /x does not load",
        ),
        ("", "oom-kill, exit status 9", "out_of_memory", "oom-kill"),
        ("", "signal, exit status 9", "out_of_memory", "exit status 9"),
        ("", "terminated by SIGKILL", "out_of_memory", "SIGKILL"),
        ("", "signal, exit status 11", "crashed", "exit status 11"),
        ("", "terminated by SIGSEGV (core dumped)", "crashed", "SIGSEGV"),
        ("", "exit-code, exit status 9", "crashed", "exit status 9"),
        ("", "exit status 127", "binary_missing", "127"),
        (
            "/opt/llama-server: error while loading shared libraries: libmtmd.so.0: cannot open shared object file",
            "exit status 127",
            "library_missing",
            "the library libmtmd.so.0;",
        ),
        (  # musl's loader
            "Error loading shared library libgomp.so.1: No such file or directory (needed by /opt/llama-server)",
            "exit status 127",
            "library_missing",
            "the library libgomp.so.1;",
        ),
        (
            "/opt/llama-server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by "
            "/opt/llama-server)",
            "exit status 1",
            "library_missing",
            "for a newer system than this host's (it needs GLIBC_2.38)",
        ),
        (
            "/opt/llama-server: symbol lookup error: /opt/llama-server: undefined symbol: ggml_backend_dev_count",
            "exit status 127",
            "library_missing",
            "they lack ggml_backend_dev_count",
        ),
        (
            "/opt/llama-server: symbol lookup error: /opt/libggml.so: undefined symbol: omp_get_num_procs, version OMP_1.0",
            "exit status 127",
            "library_missing",
            "they lack omp_get_num_procs)",
        ),
        ("", "signal, exit status 4", "illegal_instruction", "another processor"),
        ("", "core-dump, exit status 4", "illegal_instruction", "exit status 4"),
        ("", "terminated by SIGILL (core dumped)", "illegal_instruction", "SIGILL"),
        ("", "exit-code, exit status 203", "binary_missing", "203"),
        ("", "exit-code, exit status 243", "bad_api_key_file", "243"),
        ("", "exit-code, exit status 200", "service_setup", "could not be set up (exit-code, exit status 200)"),
        ("", "exit-code, exit status 199", "crashed", "199"),
        (
            "magi-llama@a.service: Failed to load environment files: No such file or directory",
            "resources, exit status 0",
            "service_setup",
            "(Failed to load environment files: No such file or directory)",
        ),
        ("", "resources, exit status 0", "service_setup", "(resources, exit status 0)"),
        ("", "exit-code, exit status 244", "crashed", "244"),
        ("", "exit-code, exit status 245", "service_setup", "exit status 245"),
        ("", "exit-code, exit status 246", "crashed", "246"),
        ("nothing telling", "exit status 3", "crashed", "exit status 3"),
        ("", None, "crashed", "no exit status"),
    ],
)
def test_the_cause_of_an_end(line, status, code, said):
    cause = find_cause(["I srv init", line], status)
    assert cause.code == code
    assert said in cause.detail


@pytest.mark.parametrize(("status", "said"), [(503, "still answers 503"), (0, "does not answer"), (500, "answers 500")])
def test_a_server_that_is_not_ready_in_time(status, said):
    cause = not_ready(120, status)
    assert cause.code == "timeout"
    assert said in cause.detail
    assert "120 s after its start" in cause.detail


def test_another_server_on_the_port():
    assert "as x, y instead of a" in wrong_server("a", ["x", "y"]).detail


# What systemd 252 printed.
@pytest.mark.parametrize(
    ("status", "step", "said", "code", "named"),
    [
        (216, "GROUP", "Failed to determine supplementary groups: No such process", "service_setup", "a group"),
        (
            226,
            "NAMESPACE",
            "Failed to set up mount namespacing: /run/systemd/unit-root/x: No such file or directory",
            "service_setup",
            "its sandbox",
        ),
        (
            200,
            "CHDIR",
            "Changing to the requested working directory failed: No such file",
            "service_setup",
            "its service",
        ),
        (203, "EXEC", "Failed to execute /opt/x: Permission denied", "binary_not_executable", "chmod o+x"),
        (203, "EXEC", "Failed to locate executable /opt/x: No such file or directory", "binary_missing", "install it"),
        (243, "CREDENTIALS", "Failed to set up credentials: Protocol error", "bad_api_key_file", "api_key_file"),
    ],
)
def test_what_systemd_itself_could_not_do_is_said_and_tried_again(status, step, said, code, named):
    unit = "magi-llama@a.service"
    log = [f"{unit}: {said}", f"{unit}: Failed at step {step} spawning /opt/x: {said.rpartition(': ')[2]}"]
    log += [f"{unit}: Main process exited, code=exited, status={status}/{step}"]
    cause = find_cause(log, f"exit-code, exit status {status}")
    assert cause.code == code
    assert f"({said})" in cause.detail
    assert named in cause.detail
    assert code not in REPEATED


def test_a_limit_of_the_profile_that_kills_is_named():
    assert "its own limit, memory_max 300M; raise that" in find_cause((), "oom-kill, exit status 9", "300M").detail
    assert "memory_max" not in find_cause((), "oom-kill, exit status 9").detail


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", True),
        ("warning: no usable GPU found, --gpu-layers option will be ignored", True),
        ("ggml_cuda_init: found 1 CUDA devices:", False),
    ],
)
def test_a_fall_back_to_the_cpu_is_seen(line, told):
    for shown in (line, f"  {line}", f"0.00.012.208 E {line}"):
        assert fell_back(["I srv init", shown, "ready"]) == (line if told else "")


def test_a_container_that_could_not_be_started_is_no_fault_of_its_configuration():
    said = find_cause(["error loading model: of an earlier run"], "not started: Bind for 127.0.0.1:8080 failed.")
    assert said.detail.startswith("its container could not be started (Bind for 127.0.0.1:8080 failed); mend that")
    assert said.code not in REPEATED


@pytest.mark.parametrize(
    ("said", "where"),
    [
        (
            "docker run: docker: Error response from daemon: driver failed programming external connectivity on endpoint "
            "magi-x (16db50): Error starting userland proxy: listen tcp4 127.0.0.1:8085: bind: address already in use.",
            "127.0.0.1:8085",
        ),
        (
            "docker run: docker: Error response from daemon: driver failed programming external connectivity on endpoint "
            "magi-x (59d4d6): Bind for 127.0.0.1:8085 failed: port is already allocated.",
            "127.0.0.1:8085",
        ),
        (
            "podman run: Error: cannot listen on the TCP port: listen tcp6 [::1]:8085: bind: address already in use.",
            "[::1]:8085",
        ),
        ("docker run: docker: Error response from daemon: Conflict. The container name is already in use.", None),
    ],
)
def test_a_port_that_an_engine_can_not_publish_is_taken(said, where):
    cause = start_refused(said)
    assert cause.code == ("port_taken" if where else "start_refused")
    assert f"another process holds its port ({where});" in cause.detail if where else said[:-1] in cause.detail
