from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import Key, maps
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import sealed
from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.plugin_utils._ansible.templates import plain_environment
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import configuration, encoded, proxy_name
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Server, routes
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway, GatewayError

ROLE = Path(__file__).parents[5] / "roles" / "gateway"
SOCKETS = Sockets.at("/run/magi-gateway/{}.sock".format)
HOSTILE = (
    *("a b", "x'\"\n`", "%[env(HOME)]", "{{ 1 }}", "é~#", "$HOME", "..", "-", "a::b", "%0A", "\x1b[1m", "\udcff"),
    *("if { always_true }", "\\", "a,b(c)", "#", "x" * 3000),
    *("handed_over", "held_by_the_new", "held", "gateway", "metrics", ":keys", ":handed_over"),
)


class Made(NamedTuple):
    revision: str
    files: dict[str, str]


def rendered(servers=(), **settings):
    environment = plain_environment([str(ROLE / "templates")])
    made = configuration(Gateway(**settings), routes(servers), servers, environment, SOCKETS, "/nowhere")
    return Made(*sealed(made, {}))


def server(instance, host="h1", model_id=None, port=8080, aliases=(), wants_key=False):
    return Server(host, instance, model_id or instance, "127.0.0.1", port, 2, tuple(aliases), wants_key=wants_key)


def refused(folder, made, secrets=None):
    """Return what HAProxy says against a configuration with secret files; empty if it takes it."""
    program = os.environ.get("MAGI_HAPROXY") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.skip("haproxy is not installed (Debian: apt-get install haproxy)")
    for name, content in made.files.items():
        (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    (folder / "secrets").mkdir()
    for name, content in (secrets or {}).items():
        (folder / "secrets" / name).write_text(content)
    done = subprocess.run(
        [program, "-c", "-C", folder, "-f", folder / "haproxy.cfg"],
        env={"MAGI_SECRETS": "secrets"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr + done.stdout or f"exit status {done.returncode}" if done.returncode else ""


@pytest.mark.parametrize(
    ("servers", "settings"),
    [
        ((), {}),
        ((server("a"),), {}),
        ((server("a", aliases=("chat", "o/p:q@1")), server("a-2", model_id="a"), server("a", "h2")), {}),
        ((Server("h1", "a", "a", "fd00::7", 8080, 1), Server("h2", "a", "a", "no.such.host", 8080, 1)), {}),
        ((), {"address": "0.0.0.0"}),
        ((), {"address": "127.0.0.1, ::1", "port": 1, "max_body": 1, "queue": 1, "hold": 1}),
        (tuple(server(name, name, aliases=[f"{name}!"]) for name in HOSTILE), {}),
    ],
)
def test_haproxy_takes_the_configuration(servers, settings, tmp_path):
    assert refused(tmp_path, rendered(servers, **settings)) == ""


def test_haproxy_takes_keys(tmp_path):
    hostile = tuple(server(name, name, aliases=[f"{name}!"], wants_key=True) for name in HOSTILE)
    made = rendered((*hostile, server("a"), server("a-2", model_id="a")), keys_file="/k", backend_key_file="/b")
    keys = [Key("a" * 64, "alice", ("*",), 1, 1, "2027-01-31"), Key("b" * 64, "bob", ("a*", "[!a]?"))]
    secrets = {**maps(keys, made.files["names.txt"], made.files["models.json"]), "backend.map": "key x'\"y\n"}
    assert refused(tmp_path, made, secrets) == ""
    allowed = secrets["allowed.map"].splitlines()
    assert sum(line.startswith("1/") for line in allowed) == len(made.files["names.txt"].splitlines())
    assert all(re.fullmatch(r"[12]/[!-~]+ 1", line, re.ASCII) for line in allowed)
    assert [*map(str.isascii, secrets.values())] == [True] * len(secrets)


def test_haproxy_compiles_no_regular_expression():
    """It would do so into memory that it writes and runs, which its unit forbids: it would not start."""
    servers = [replace(server("p", model_id=name), pooled=True) for name in ("a", "b")]
    files = rendered(servers, keys_file="/k", backend_key_file="/b", tls_certificate="/t").files
    assert "model_ambiguous" in files["haproxy.cfg"]
    assert re.findall(r"(?:\w*_|-m )reg\b|regsub|replace-|capture-req", files["haproxy.cfg"]) == []


def test_what_is_not_set_is_not_in_the_configuration():
    plain = rendered((server("a"),), affinity=False, metrics_port=0).files
    assert "prometheus" not in plain["haproxy.cfg"]
    assert "SECRETS" not in plain["haproxy.cfg"] + plain["gateway.lua"]
    assert "ssl" not in plain["haproxy.cfg"]
    assert "affinity" not in plain["haproxy.cfg"] + plain["gateway.lua"]
    keyed = rendered((server("a", wants_key=True), server("b")), backend_key_file="/b").files["haproxy.cfg"]
    assert keyed.count("set-header authorization") == 1


def test_no_name_leaves_its_place():
    files = rendered([server(name, name, aliases=[f"{name}!"]) for name in HOSTILE]).files
    plain = rendered(
        [server(f"n{number}", f"h{number}", aliases=[f"n{number}!"]) for number in range(len(HOSTILE))]
    ).files
    for name in ("haproxy.cfg", "routes.map", "names.txt"):
        assert len(files[name].splitlines()) == len(plain[name].splitlines())
    assert all(re.fullmatch(r"[!-~]+ [\w.:-]+", line, re.ASCII) for line in files["routes.map"].splitlines())
    assert {item["id"] for item in json.loads(files["models.json"])["data"]} > {*HOSTILE}


@pytest.mark.parametrize("one", HOSTILE)
def test_proxy_names_are_words_that_differ(one):
    assert re.fullmatch(r"[\w.:-]+", proxy_name(one), re.ASCII)
    assert len({proxy_name(other, one) for other in HOSTILE} | {proxy_name(one)}) == len(HOSTILE) + 1
    assert re.fullmatch(r"[\w.%~-]+", encoded(one), re.ASCII)


def test_each_server_is_checked_once_and_takes_its_slots():
    text = rendered([server("a", aliases=("chat",)), server("a-2", model_id="a", port=8081)]).files["haproxy.cfg"]
    lines = [line.strip() for line in text.splitlines() if line.startswith("    server h1")]
    assert lines == [
        "server h1::a 127.0.0.1:8080 maxconn 2 observe layer4",
        "server h1::a-2 127.0.0.1:8081 maxconn 2 observe layer4",
        "server h1::a-2 127.0.0.1:8081 maxconn 2 no-check track a/h1::a-2",
        "server h1::a 127.0.0.1:8080 maxconn 2 no-check track a/h1::a",
    ]


def test_the_list_of_models_has_aliases():
    document = json.loads(rendered([server("b", aliases=("chat",)), server("a")]).files["models.json"])
    assert document["object"] == "list"
    assert [item["id"] for item in document["data"]] == ["a", "b", "chat"]
    assert {item["object"] for item in document["data"]} == {"model"}


def test_the_revision_says_what_is_in_it():
    one, same = rendered([server("a")]), rendered([server("a")])
    assert one == same
    assert f"description magi {one.revision}\n" in one.files["haproxy.cfg"]
    others = {rendered([server("a")], hold=5).revision, rendered([server("a", port=1)]).revision, rendered().revision}
    assert len(others | {one.revision}) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": 0}, "model_gateway_port must be a whole number from 1 to 65535, but is 0"),
        ({"port": 65536}, "model_gateway_port"),
        ({"hold": 0}, "model_gateway_hold"),
        ({"hold": 600}, r"model_gateway_hold \(600\) must be less than model_gateway_stream_timeout \(600\)"),
        ({"max_body": 2000}, "model_gateway_max_body must be a whole number from 1 to 1024"),
        ({"address": "127.0.0.1\n"}, None),
        ({"keys_file": "keys"}, "model_gateway_keys_file must be an absolute path on the host; correct it"),
        ({"tls_certificate": "/a\nb"}, "model_gateway_tls_certificate must be"),
        ({"backend_key_file": "~x/y"}, "model_gateway_backend_key_file must be"),
        ({"keys_file": "/a b/it's"}, None),
        ({"address": "a b"}, "model_gateway_address must be an address"),
        ({"address": "127.0.0.1,"}, "model_gateway_address"),
        ({"address": "::1, 10.0.0.1"}, None),
        ({"metrics_port": 0}, None),
        ({"metrics_port": -1}, "model_gateway_metrics_port must be a whole number from 0 to 65535, but is -1"),
        ({"metrics_address": "0.0.0.0 x"}, "model_gateway_metrics_address must be an address"),
    ],
)
def test_settings_are_checked(given, said):
    values = {**vars(Gateway()), **given}
    if said is None:
        assert Gateway.of(values).addresses
    else:
        with pytest.raises(GatewayError, match=said):
            Gateway.of(values)
