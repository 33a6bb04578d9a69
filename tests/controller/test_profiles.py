"""Profiles as files: found, checked with file and line, resolved per host, and drafted."""

from __future__ import annotations

import pytest
import yaml

from magi.errors import ProfileError
from magi.init import PROFILES
from magi.profiles import files
from magi.profiles.draft import draft, scalar
from magi.profiles.resolve import Resolved, resolve

from .known import BINARY, Q2, Q3, Q4, ROOT, host

GOOD = "name: p\nenabled_models: ['*']\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="p.yml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", PROFILES)
def test_the_profiles_that_are_shipped_are_good(name):
    checked = files.check(ROOT / "profiles" / f"{name}.yml", [host(binary=BINARY)])
    assert checked.remarks == ()
    assert checked.profile.description


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "# one\nname: p\nenabled_model:\n  - '*'\n",
            {3: 'unknown key "enabled_model": did you mean "enabled_models"?'},
        ),
        ("name: q\nenabled_models: ['*']\n", {1: "its file says name: q; make the two equal."}),
        ("enabled_models: ['*']\nenabled_models: [a]\n", {2: 'duplicate key "enabled_models"; keep one.'}),
        ("", {None: "a profile must be a mapping, not NoneType."}),
        ("- a\n", {1: "a profile must be a mapping, not list."}),
        ("name: p\n", {1: 'enabled_models is missing; enable a model, or "*" for all.'}),
        ("enabled_models: [\n", {2: "it is not valid YAML"}),
        (
            "enabled_models:\n  - a\n  - model: b\n    instances: 0\n    prot: 1\n  - 7\nstrict: maybe\n",
            {
                4: "entry 2: instances must be 1 or more, not 0.",
                5: 'entry 2: unknown key "prot": did you mean "port"?',
                6: "entry 3 must be a mapping, not int.",
                7: "strict must be true or false, not 'maybe'.",
            },
        ),
        (
            "enabled_models:\n  - model: a\n    options:\n      ctx_sise: 1\noptions:\n  port: 1\n",
            {
                4: "entry 1: llama-server (11434) has no option ctx_sise; did you mean ctx_size?",
                6: "options: option port can't be set: set the entry's port",
            },
        ),
        (
            "pools:\n  - name: small\n    models:\n      - a\n      - model: b\n        options: {ctx_sise: 1}\n"
            "    options:\n      paralel: 1\n",
            {
                6: "pool small, model 2: llama-server (11434) has no option ctx_sise; did you mean ctx_size?",
                8: "pool small: llama-server (11434) has no option paralel; did you mean parallel?",
            },
        ),
        (
            "pools:\n  - name: small\n    models: [a, {model: b, prot: 1}]\n    loadde: 2\n",
            {
                3: 'pool 1, model 2: unknown key "prot"',
                4: 'pool 1: unknown key "loadde": did you mean "loaded"?',
            },
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(write, text, lines):
    checked = files.check(write(text), [host(binary=BINARY)])
    assert checked.profile is None
    assert [remark.line for remark in checked.remarks] == list(lines)
    for remark, message in zip(checked.remarks, lines.values(), strict=True):
        assert message in str(remark)


@pytest.mark.parametrize("name", ["two words.yml", "p.yaml"])
def test_a_file_name_that_no_deployment_finds(write, name):
    checked = files.check(write("enabled_models: ['*']\n", name))
    assert "a profile's file must be called <name>.yml" in str(checked.remarks[0])


def test_options_are_not_checked_without_a_build(write):
    assert files.check(write(GOOD + "options: {ctx_sise: 1}\n"), [host()]).profile


def test_finding_by_name_and_by_path(write, tmp_path):
    path = write(GOOD)
    assert files.find(tmp_path, "p") == files.find(tmp_path / "none", str(path)) == path
    with pytest.raises(ProfileError, match=r"Profile q not found: there is no .*/q\.yml\. Profiles in .*: p\."):
        files.find(tmp_path, "q")
    with pytest.raises(ProfileError, match=r"There is no folder .*; name that of your profiles \(--dir, or"):
        files.find(tmp_path / "none", "q")


def test_loading_says_the_first_problem_and_how_many_more(write):
    with pytest.raises(
        ProfileError, match=r"p\.yml, line 1: unknown key .* \(1 more: magi profile validate .*p\.yml\)"
    ):
        files.load_profile(write("x: 1\nenabled_models: [7]\n"))


def test_profile_under_host_under_entry(write):
    profile = files.load_profile(
        write(
            "enabled_models:\n  - {tier: Q3}\n  - {model: deepseek-r1-qwen3-8b-q2_k, instances: 2, port: 8083,"
            " options: {ctx-size: 3}, environment: {A: entry, B: entry, C: null}, aliases: [chat]}\n  - nope\n"
            "options: {ctx_size: 1, parallel: 2, no_webui: true}\nenvironment: {A: profile, C: 1}\n"
        )
    )
    got = resolve(profile, host(options={"ctx_size": 2, "parallel": None}, environment={"A": "host"}, binary=BINARY))
    assert got.instances == (
        Resolved(Q3["id"], Q3["id"], "Q3", None, {"ctx_size": "2", "webui": False}, {"A": "host", "C": "1"}, ()),
        Resolved(
            Q2["id"], Q2["id"], "Q2", 8083, {"ctx_size": "3", "webui": False}, {"A": "host", "B": "entry"}, ("chat",)
        ),
        Resolved(
            Q2["id"] + "-2",
            Q2["id"],
            "Q2",
            None,
            {"ctx_size": "3", "webui": False},
            {"A": "host", "B": "entry"},
            ("chat",),
        ),
    )
    assert got.build == "11434"
    assert got.missing == (
        "Profile p, entry 3 (nope): no such model on gpu1; playbooks/discover.yml lists those that are.",
    )


def test_what_the_fleet_places_says_over_which_hosts(write):
    entries = "[{tier: Q3, replicas: 2}, {tier: Q2, replicas: 1, hosts: gpu*}, {tier: Q4, hosts: gpu1}]"
    found = resolve(files.load_profile(write(f"enabled_models: {entries}\n")), host()).instances
    assert {item.tier: item.where for item in found} == {"Q3": "2 over all hosts", "Q2": "1 over gpu*", "Q4": "gpu1"}


def test_a_number_of_gpus_is_shown_and_named_ones_are_options(write):
    entries = "[{tier: Q3, devices: 2}, {tier: Q2, devices: [CUDA1]}, {tier: Q4}]"
    found = resolve(files.load_profile(write(f"enabled_models: {entries}\n")), host()).instances
    assert {item.tier: (item.devices, item.options.get("device")) for item in found} == {
        "Q3": (2, None),
        "Q2": (None, "CUDA1"),
        "Q4": (None, None),
    }


def test_the_models_of_a_pool_are_shown_with_it(write):
    text = "pools: [{name: small, models: ['*-q2_k', {tier: Q3, options: {parallel: 2}}], port: 8090, loaded: 2}]\n"
    found = resolve(files.load_profile(write(text)), host()).instances
    assert {(item.tier, item.port, item.where) for item in found} == {
        ("Q2", 8090, "pool small, 2 at a time"),
        ("Q3", 8090, "pool small, 2 at a time"),
    }


def test_without_a_build_options_stand_as_given(write):
    profile = files.load_profile(write("enabled_models: ['*-q4_k_m']\noptions: {ctx-size: 1, parallel: 2}\n"))
    got = resolve(profile, host(options={"parallel": None}))
    assert (got.build, got.instances[0].options) == (None, {"ctx_size": 1})


def test_an_option_that_the_host_s_build_does_not_take(write):
    profile = files.load_profile(write(GOOD + "options: {ctx_sise: 1}\n"))
    with pytest.raises(ProfileError, match=r"Host gpu1: Profile p, options: .* did you mean ctx_size\?"):
        resolve(profile, host(binary=BINARY))


# ---- new --------------------------------------------------------------------------------------------


def test_a_new_profile_is_good_and_enables_every_model(tmp_path):
    hosts = [host("gpu2", Q4), host("gpu1", Q2, Q3)]
    text = draft("mine", hosts)
    assert text == draft("mine", hosts[::-1])
    path = tmp_path / "mine.yml"
    files.write_new(path, text)
    checked = files.check(path, [host(binary=BINARY)])
    assert [entry.pattern for entry in checked.profile.entries] == [Q2["id"], Q3["id"], Q4["id"]]
    assert "# Llama 3.2 3B (Q4_K_M), 1.0 GiB, only on gpu2" in text


def test_the_comments_of_a_new_profile_are_good_too(tmp_path):
    lines = draft("mine", [host()]).splitlines()
    start = lines.index("  # Two instances of one model, the first on a fixed port, with options of llama-server:")
    example = [line.replace("# ", "", 1) for line in lines[start + 1 : start + 5]]
    lines[start + 1 : start + 5] = example
    lines = [line.replace("# options:", "options:") for line in lines]
    path = tmp_path / "mine.yml"
    path.write_text("\n".join(lines))
    assert files.check(path, [host(binary=BINARY)]).profile.entries[-1].port == 8080


@pytest.mark.parametrize("model_id", ["true", "null", "1e5", "0x1f", "2024-01-01", "1_000", "off", "7", "1.5", "x"])
def test_an_id_that_yaml_takes_for_something_else_is_quoted(model_id):
    assert yaml.safe_load(scalar(model_id)) == model_id


def test_hostile_names_stay_in_their_comment(tmp_path):
    hostile = {**Q2, "display_name": "x\n  - evil\u2028y\x1b[31m"}
    path = tmp_path / "mine.yml"
    files.write_new(path, draft("mine", [host("gpu1", hostile)]))
    assert [entry.pattern for entry in files.check(path).profile.entries] == [Q2["id"]]
    assert "\x1b" not in path.read_text()


def test_a_profile_goes_into_a_folder_that_is_there(tmp_path):
    with pytest.raises(ProfileError, match=r"There is no folder .*/none; make it, or name another with --dir\."):
        files.write_new(tmp_path / "none" / "mine.yml", "mine")


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("mine")
    with pytest.raises(ProfileError, match=r"mine\.yml exists and stays as it is"):
        files.write_new(path, "other")
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "hosts", "said"), [("a b", [host()], "name has letters"), ("a", [], "No model is known")]
)
def test_no_profile_from_nothing(name, hosts, said):
    with pytest.raises(ProfileError, match=said):
        draft(name, hosts)
