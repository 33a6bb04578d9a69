from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._plan.options import (
    InstanceError,
    checked_string,
    environment_and_args,
    resolve_options,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import BINARY


def resolve(*layers):
    return resolve_options(BINARY, [(f"layer {i}", layer) for i, layer in enumerate(layers)])


@pytest.mark.parametrize(
    ("layers", "options", "environment", "arguments"),
    [
        ([{"ctx_size": 8192}], {"ctx_size": "8192"}, {"LLAMA_ARG_CTX_SIZE": "8192"}, ()),
        ([{"ctx-size": 1}, {"ctx_size": 2}], {"ctx_size": "2"}, {"LLAMA_ARG_CTX_SIZE": "2"}, ()),
        # one option under two names is still one option
        (
            [{"gpu_layers": 1}, {"n_gpu_layers": 2}],
            {"n_gpu_layers": "2"},
            {"LLAMA_ARG_N_GPU_LAYERS": "2"},
            (),
        ),
        ([{"ctx_size": 1}, {"ctx_size": None}], {}, {}, ()),
        ([{"flash_attn": True}], {"flash_attn": "on"}, {"LLAMA_ARG_FLASH_ATTN": "on"}, ()),
        ([{"tensor_split": [3, 1]}], {"tensor_split": "3,1"}, {"LLAMA_ARG_TENSOR_SPLIT": "3,1"}, ()),
        ([{"jinja": False}], {"jinja": False}, {"LLAMA_ARG_JINJA": "0"}, ()),
        ([{"no_jinja": True}], {"jinja": False}, {"LLAMA_ARG_JINJA": "0"}, ()),
        ([{"jinja": "on"}], {"jinja": True}, {"LLAMA_ARG_JINJA": "1"}, ()),
        ([{"warmup": False}], {"warmup": False}, {}, ("--no-warmup",)),
        ([{"warmup": True}], {"warmup": True}, {}, ("--warmup",)),
        ([{"spm_infill": False}], {"spm_infill": False}, {}, ()),
        ([{"logit_bias": "15043+1"}], {"logit_bias": "15043+1"}, {}, ("--logit-bias", "15043+1")),
        # numbers as llama-server reads them, and the words that it takes instead of one
        ([{"ctx_size": "32_768"}], {"ctx_size": "32768"}, {"LLAMA_ARG_CTX_SIZE": "32768"}, ()),
        ([{"ctx_size": 4096.0}], {"ctx_size": "4096"}, {"LLAMA_ARG_CTX_SIZE": "4096"}, ()),
        ([{"ctx_size": ".0"}], {"ctx_size": "0"}, {"LLAMA_ARG_CTX_SIZE": "0"}, ()),
        ([{"ctx_size": "9" * 40}], {"ctx_size": "9" * 40}, {"LLAMA_ARG_CTX_SIZE": "9" * 40}, ()),
        ([{"rope_scale": "1.5"}], {"rope_scale": "1.5"}, {"LLAMA_ARG_ROPE_SCALE": "1.5"}, ()),
        ([{"temp": 1e-05}], {"temperature": "0.00001"}, {"LLAMA_ARG_TEMPERATURE": "0.00001"}, ()),
        ([{"n_predict": -1}], {"n_predict": "-1"}, {"LLAMA_ARG_N_PREDICT": "-1"}, ()),
        ([{"n_gpu_layers": "all"}], {"n_gpu_layers": "all"}, {"LLAMA_ARG_N_GPU_LAYERS": "all"}, ()),
        (
            [{"chat_template_kwargs": {"a": 1}}],
            {"chat_template_kwargs": '{"a": 1}'},
            {"LLAMA_ARG_CHAT_TEMPLATE_KWARGS": '{"a": 1}'},
            (),
        ),
    ],
)
def test_options_become_variables_or_arguments(layers, options, environment, arguments):
    resolved = resolve(*layers)
    assert resolved == options
    assert environment_and_args(BINARY, resolved) == (environment, arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ctx_sise": 1}, "has no option ctx_sise; did you mean ctx_size?"),
        ({"zzzzzzzz": 1}, "has no option zzzzzzzz; see llama-server --help."),
        ({"draft_max": 1}, "has no option draft_max"),
        ({"model": "/x"}, "can't be set: the entry's model decides it"),
        ({"port": 1}, "can't be set: set the entry's port"),
        ({"models_max": 2}, "can't be set: set loaded of the pool"),
        ({"no_models_autoload": True}, "can't be set: a pool loads a model when it is asked for"),
        ({"api_key": "x"}, "api_key_file"),
        ({"reuse_port": True}, "it would hide that a port is taken"),
        *(
            ({name: value}, f"option {name} can't be set: it gives tools of the host")
            for name, value in [
                ("agent", True),
                ("tools", "all"),
                ("tools_runtime", "docker:debian"),
                ("mcp_servers_config", "/etc/mcp.json"),
                ("mcp_servers_json", {}),
                ("ui_mcp_proxy", True),
                ("webui-mcp-proxy", True),
                ("no_webui_mcp_proxy", True),
            ]
        ),
        *(
            ({name: "x"}, f"option {name} can't be set: a deployment asks each server over plain HTTP at /health")
            for name in ("api_prefix", "ssl_key_file", "ssl_cert_file")
        ),
        ({"hf": "a/b"}, "has no option hf"),
        *(
            ({"ctx_size": value}, f"option ctx_size is a number; write it out in digits, not '{value}'.")
            for value in ("32k", "1e5", "0,7", "four", "1 2", "٣", "0x10", "inf")
        ),
        *(
            ({name: value}, f"option {name} is a whole number; write it without a point, not '{value}'.")
            for name, value in [
                ("ctx_size", 32.768),
                ("parallel", "1.5"),
                ("seed", "-0.1"),
                ("main_gpu", ".5"),
                ("swa_checkpoints", "1.5"),  # its default stands on the next line of the help
            ]
        ),
        *(
            ({name: "0,7"}, f"option {name} is a number; write it out in digits, not '0,7'.")
            for name in ("seed", "main_gpu", "sleep_idle_seconds", "draft_p_min", "slot_prompt_similarity")
        ),
        ({"ctx_size": True}, "option ctx_size is a number"),
        (
            {"n_gpu_layers": "most"},
            "option n_gpu_layers is a number, or auto or all; write it out in digits, not 'most'.",
        ),
        ({"ctx_size": ""}, "option ctx_size is empty; give it a value, or null to leave it unset."),
        ({"chat_template": " "}, "option chat_template is empty"),
        ({"tensor_split": []}, "option tensor_split is empty"),
        ({"hf_repo": "a/b"}, "serve the local file"),
        ({"jinja": "perhaps"}, "is a switch"),
        ({"chat_template": "a\x1bb"}, "control characters"),
    ],
)
def test_a_wrong_option_is_named_with_its_place(options, said):
    with pytest.raises(InstanceError) as error:
        resolve({}, options)
    assert str(error.value).startswith("layer 1: ")
    assert said in str(error.value)


def test_an_unknown_option_names_the_build():
    with pytest.raises(InstanceError, match=r"llama-server \(11434\)"):
        resolve({"nope": 1})


@pytest.mark.parametrize(
    "text", ["a b", "a\nb", "a\tb", "%n $HOME", "{{ x }}", "🐫", "'\"\\`;", "\ufdcf\ufdf0\ufffd\U0001fffd"]
)
def test_texts_that_a_service_file_can_hold(text):
    assert checked_string("it", text) == text


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "\x1b[31m",
        "\r",
        "\x7f",
        "\x9b",
        "\udcff",
        "\ufdd0",
        "\ufdef",
        "\ufffe",
        "\uffff",
        "\U0001fffe",
        "\U0010ffff",
    ],
)
def test_texts_that_it_can_not(text):
    with pytest.raises(InstanceError, match="rename it"):
        checked_string("it", text)
