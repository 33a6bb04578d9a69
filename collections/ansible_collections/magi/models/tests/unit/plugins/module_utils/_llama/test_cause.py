from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.cause import find_cause, not_ready, wrong_server


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
        ("E llama_model_load: error loading model: something new", "", "load_failed", "something new"),
        ("", "oom-kill, exit status 9", "out_of_memory", "oom-kill"),
        ("", "signal, exit status 9", "out_of_memory", "exit status 9"),
        ("", "terminated by SIGKILL", "out_of_memory", "SIGKILL"),
        ("", "signal, exit status 11", "crashed", "exit status 11"),
        ("", "terminated by SIGSEGV (core dumped)", "crashed", "SIGSEGV"),
        ("", "exit-code, exit status 9", "crashed", "exit status 9"),
        ("", "exit status 127", "binary_missing", "127"),
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
    assert "120 s" in cause.detail


def test_another_server_on_the_port():
    assert "as x, y instead of a" in wrong_server("a", ["x", "y"]).detail
