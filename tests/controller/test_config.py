"""The settings, merged, with their sources."""

from __future__ import annotations

import pytest

from magi.config import REDACTED, Row, Value, config, redacted, rows


def result(host="127.0.0.1", origin="default model_server_host", **more):
    return {"settings": {"host": host, **more}, "origins": {"host": origin, **{k: f"inventory {k}" for k in more}}}


@pytest.mark.parametrize(
    ("origin", "value"),
    [
        ("-e profile", Value("x", "-e", "profile")),
        ("environment MODEL_HOST", Value("x", "environment", "MODEL_HOST")),
        (".env REGISTRY_PATH", Value("x", ".env", "REGISTRY_PATH")),
        ("inventory model_server_host", Value("x", "inventory", "model_server_host")),
        ("default model_server_host", Value("x", "default", "model_server_host")),
    ],
)
def test_each_value_says_where_it_came_from(origin, value):
    assert config([("gpu1", result("x", origin))])["gpu1"]["host"] == value


def test_other_results_are_passed_by():
    assert config([("gpu1", {"ansible_facts": {}})]) == {}


def test_hosts_that_differ_get_a_row_each():
    hosts = config([("gpu1", result()), ("gpu2", result("::")), ("gpu3", result(home="/x"))])
    default = Value("127.0.0.1", "default", "model_server_host")
    assert rows(hosts) == [
        Row("home", Value("/x", "inventory", "home"), ("gpu3",), False),
        Row("host", default, ("gpu1", "gpu3"), False),
        Row("host", Value("::", "default", "model_server_host"), ("gpu2",), False),
    ]


def test_what_all_hosts_have_is_one_row():
    assert [row.everywhere for row in rows(config([("gpu1", result()), ("gpu2", result())]))] == [True]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"api_key": "canary", "ctx_size": 1}, {"api_key": REDACTED, "ctx_size": 1}),
        ({"hf_token": ["canary", "canary"]}, {"hf_token": [REDACTED, REDACTED]}),
        ({"nested": {"password": "canary"}}, {"nested": {"password": REDACTED}}),
        ({"api_key_file": "/etc/magi/keys"}, {"api_key_file": "/etc/magi/keys"}),
        ({"api_key": ""}, {"api_key": ""}),
        ([8080, 8099], [8080, 8099]),
    ],
)
def test_secrets_are_redacted(value, shown):
    assert redacted(value) == shown
