from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._config.settings import SETTINGS, SettingError, resolve


@pytest.mark.parametrize(
    ("inventory", "environment", "extra", "name", "value"),
    [
        ({"model_server_host": "::1"}, {}, {}, "host", "::1"),
        ({"model_server_host": "::1"}, {"MODEL_HOST": "0.0.0.0"}, {}, "host", "0.0.0.0"),
        ({"model_server_host": "::1"}, {"MODEL_HOST": ""}, {}, "host", "::1"),
        (
            {"model_server_host": "::1"},
            {"MODEL_HOST": "0.0.0.0"},
            {"model_server_host": "127.0.0.1"},
            "host",
            "127.0.0.1",
        ),
        ({"model_server_profile": "a"}, {"MAGI_PROFILE": "b"}, {"profile": "c"}, "profile", "c"),
        ({"model_server_profile": "a"}, {"MAGI_PROFILE": "b"}, {}, "profile", "b"),
        # an extra variable called profile counts, an inventory's does not: it may mean anything there
        ({"model_server_profile": "a", "profile": "x"}, {}, {}, "profile", "a"),
        ({}, {"MODEL_SCAN_PATH": "/a:/b c:"}, {}, "scan_paths", ["/a", "/b c"]),
        ({"model_server_scan_paths": ["/a"]}, {}, {}, "scan_paths", ["/a"]),
        ({}, {"MODEL_PORT_RANGE": "9000-9010"}, {}, "port_range", [9000, 9010]),
        ({}, {}, {"model_server_port_range": "[9000, 9010]"}, "port_range", [9000, 9010]),
        ({"model_server_port_range": [9000, 9010]}, {}, {}, "port_range", [9000, 9010]),
        ({}, {"MODEL_CONCURRENT_STARTS": "false"}, {}, "concurrent_starts", False),
        ({}, {"MODEL_MAX_STARTUP_TIME": "7"}, {}, "max_startup_time", 7),
        ({"model_server_stop_timeout": 30}, {}, {}, "stop_timeout", 30),
        ({"model_server_resources": {"nice": -20}}, {}, {}, "resources", {"nice": "-20"}),
        ({"model_server_resources": {"memory_max": 1024}}, {}, {}, "resources", {"memory_max": "1024"}),
        ({"model_server_serial": "100%"}, {}, {}, "serial", ["100%"]),
        ({"model_server_serial": 2}, {}, {}, "serial", [2]),
        ({}, {}, {"model_server_serial": "1, 25%"}, "serial", [1, "25%"]),
        ({"model_server_serial": [1, "25%"]}, {}, {}, "serial", [1, "25%"]),
        ({"model_server_max_fail_percentage": 0}, {}, {}, "max_fail_percentage", 0),
        ({}, {}, {"model_server_max_fail_percentage": "30%"}, "max_fail_percentage", 30),
    ],
)
def test_the_source_that_counts_most_wins(inventory, environment, extra, name, value):
    assert resolve(inventory, environment, extra)[0][name] == value


@pytest.mark.parametrize(
    ("environment", "extra", "name", "value"),
    [
        ({"MODEL_SCAN_PATH": "models:/a:../b:~/c"}, {}, "scan_paths", ["/srv/ada/models", "/a", "/srv/b", "~/c"]),
        ({"REGISTRY_PATH": "./r.json"}, {}, "registry_path", "/srv/ada/r.json"),
        ({"LLAMA_SERVER_PATH": "llama-server"}, {}, "llama_server_path", "/srv/ada/llama-server"),
        ({}, {"model_server_report_path": "report.json"}, "report_path", "/srv/ada/report.json"),
        (
            {},
            {"model_server_scan_paths": ["models", "$HOME/models"]},
            "scan_paths",
            ["/srv/ada/models", "$HOME/models"],
        ),
    ],
)
def test_a_relative_path_of_the_command_line_or_the_environment_starts_at_the_working_directory(
    environment, extra, name, value
):
    assert resolve({}, environment, extra, None, "/srv/ada")[0][name] == value


@pytest.mark.parametrize(
    ("inventory", "environment", "extra", "value", "origin"),
    [
        ({"model_server_host": "::1"}, {}, {}, "10.0.0.1", ".env MODEL_HOST"),
        ({}, {"MODEL_HOST": "0.0.0.0"}, {}, "0.0.0.0", "environment MODEL_HOST"),
        ({}, {"MODEL_HOST": ""}, {}, "10.0.0.1", ".env MODEL_HOST"),
        ({}, {}, {"model_server_host": "::1"}, "::1", "-e model_server_host"),
    ],
)
def test_a_file_env_is_over_the_inventory_and_under_the_environment(inventory, environment, extra, value, origin):
    dotenv = {"MODEL_HOST": "10.0.0.1", "MODEL_SCAN_PATH": "models"}
    values, origins = resolve(inventory, environment, extra, None, "/srv/ada", dotenv, "/srv/project")
    assert (values["host"], origins["host"]) == (value, origin)
    assert values["scan_paths"] == ["/srv/project/models"]


@pytest.mark.parametrize("name", ["scan_paths", "registry_path", "llama_server_path", "home"])
def test_a_relative_path_of_an_inventory_is_refused_where_it_is_a_path_on_the_host(name):
    with pytest.raises(SettingError, match=f"^Setting model_server_{name} must be an absolute path, but inventory"):
        resolve({f"model_server_{name}": ["models"] if name == "scan_paths" else "models"}, {}, {}, None, "/srv/ada")


@pytest.mark.parametrize("given", ["/srv/magi/", "/srv//magi", "/srv/./magi"])
def test_a_path_on_a_host_is_the_same_however_it_is_written(given):
    values, _origins = resolve({"model_server_home": given, "model_server_scan_paths": [given]}, {}, {}, None, "/")
    assert (values["home"], values["scan_paths"]) == ("/srv/magi", ["/srv/magi"])


def test_origins_name_the_source():
    _settings, origins = resolve(
        {"model_server_host": "::1"},
        {"MODEL_STOP_TIMEOUT": "3"},
        {"profile": "p"},
        {"model_server_host": "127.0.0.1", "model_server_manager": "auto"},
    )
    assert origins == {
        "profile": "-e profile",
        "host": "inventory model_server_host",
        "manager": "default model_server_manager",
        "stop_timeout": "environment MODEL_STOP_TIMEOUT",
    }


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"MODEL_PORT_RANGE": "8080"}, "model_server_port_range"),
        ({"MODEL_PORT_RANGE": "9-8"}, "model_server_port_range"),
        ({"MODEL_PORT_RANGE": "1-70000"}, "model_server_port_range"),
        ({"MODEL_PORT_RANGE": "a-b"}, "model_server_port_range"),
        ({"MODEL_MAX_STARTUP_TIME": "soon"}, "model_server_max_startup_time"),
        ({"MODEL_MAX_STARTUP_TIME": "0"}, "model_server_max_startup_time"),
        ({"MODEL_MAX_STARTUP_TIME": "1.5"}, "model_server_max_startup_time"),
        ({"MODEL_CONCURRENT_STARTS": "maybe"}, "model_server_concurrent_starts"),
        ({"MODEL_SCAN_PATH": ":"}, "model_server_scan_paths"),
        ({"MAGI_PROFILE": "../etc/passwd"}, "model_server_profile"),
        ({"MODEL_HOST": "a\nb"}, "model_server_host"),
        *(
            ({"MODEL_SERVER_IMAGE": image}, "model_server_image")
            for image in ("llama.cpp", "ghcr.io:5000/llama.cpp", "Llama:1", "a:b c", "-a:1", "a@sha256:0", "a:1\n")
        ),
    ],
)
def test_a_wrong_type_is_one_sentence_that_names_the_setting(environment, named):
    with pytest.raises(SettingError) as error:
        resolve({}, environment, {})
    assert str(error.value).startswith(f"Setting {named} must be ")
    assert next(iter(environment)) in str(error.value)


@pytest.mark.parametrize(
    "image",
    [
        "magi:1",
        "ghcr.io/ggml-org/llama.cpp:server-b11434",
        "localhost:5000/a/b_c:V1",
        f"quay.io/a@sha256:{'0' * 64}",
        f"a:1@sha256:{'0' * 64}",
    ],
)
def test_an_image_has_a_tag_or_a_digest(image):
    assert resolve({"model_server_image": image}, {}, {})[0]["image"] == image


WRONG = {
    "nan": float("nan"),
    "infinite": float("inf"),
    "a fraction": 1.5,
    "huge": 10**30,
    "endless": "9" * 5000,
    "negative": -1,
    "a switch": True,
    "a list of lists": [[1]],
    "a mapping": {1: 2},
    "control characters": "1\x00",
    "other digits": "\u0663",
}
TAKEN = {("bool", "a switch"), *((kind, "endless") for kind in ("path", "slug", "str"))}
TAKEN |= {(kind, "other digits") for kind in ("path", "str")}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_whatever_a_setting_is_given_it_is_taken_or_refused_by_its_name(setting, wrong):
    variable = f"model_server_{setting.name}"
    if (setting.type, wrong) in TAKEN:
        resolve({variable: WRONG[wrong]}, {}, {})
    else:
        with pytest.raises(SettingError, match=f"^Setting {variable} must be .*; correct it there"):
            resolve({variable: WRONG[wrong]}, {}, {})


LIMITS = [(name, value) for name in ("memory_max", "cpu_quota", "nice") for value in WRONG.values()]
LIMITS += [("memory_max", "99999999T"), ("cpu_quota", "150"), ("nice", 20)]


@pytest.mark.parametrize(("name", "value"), [item for item in LIMITS if item != ("nice", -1)])
def test_limits_that_systemd_would_ignore_are_refused(name, value):
    with pytest.raises(SettingError, match=f"^Setting model_server_resources must be a mapping whose {name} is"):
        resolve({"model_server_resources": {name: value}}, {}, {})


@pytest.mark.parametrize(
    ("inventory", "extra", "defaults", "options", "origin"),
    [
        (
            {"": {"a": 1}, "_keys": {"b": 2}},
            {},
            {},
            {"a": 1, "b": 2},
            "inventory model_server_options + model_server_options_keys",
        ),
        # in the order of their names, the plain one at the bottom
        ({"_b": {"a": 3}, "_a": {"a": 2}, "": {"a": 1}}, {}, {}, {"a": 3}, None),
        # null takes an option back here, too
        ({"": {"a": 1}, "_x": {"a": None}}, {}, {}, {"a": None}, None),
        ({"_x": {"b": 2}}, {}, {"": {}}, {"b": 2}, "default model_server_options + model_server_options_x"),
        ({"_x": {"b": 2}}, {}, {}, {"b": 2}, "inventory model_server_options_x"),
        # -e beats all that an inventory says
        ({"": {"a": 1}, "_x": {"b": 1, "c": 1}}, {"": {"b": 2}}, {}, {"b": 2, "c": 1}, None),
        ({"": {"a": 1}, "_x": {"b": 1}}, {"_a": {"b": 2}}, {}, {"a": 1, "b": 2}, None),
    ],
)
def test_levels_of_an_inventory_are_laid_over_each_other(inventory, extra, defaults, options, origin):
    given = [
        {f"model_server_options{name}": value for name, value in part.items()} for part in (inventory, extra, defaults)
    ]
    values, origins = resolve(given[0], {}, given[1], given[2])
    assert values["options"] == options
    assert origin is None or origins["options"] == origin


def test_the_key_file_of_a_group_stays_where_a_host_has_options_of_its_own():
    inventory = {"model_server_options": {"ctx_size": 1}, "model_server_options_keys": {"api_key_file": "/etc/keys"}}
    assert resolve(inventory, {}, {})[0]["options"] == {"ctx_size": 1, "api_key_file": "/etc/keys"}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("model_server_options_x", 1, "Setting model_server_options_x must be a mapping of llama-server options"),
        ("model_server_resources_x", {"nice": 99}, "Setting model_server_resources_x must be a mapping whose nice is"),
        (
            "model_server_environment_x",
            {"HF_TOKEN": "x"},
            "Setting model_server_environment_x must be a mapping of variables",
        ),
        ("model_server_environment", {"MAGI_X": "x"}, "MAGI_X is set by the deployment"),
    ],
)
def test_what_is_wrong_in_a_level_is_named(variable, value, said):
    with pytest.raises(SettingError) as error:
        resolve({variable: value}, {}, {})
    assert said in str(error.value)
