from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._profiles.document import unquoted
from ansible_collections.magi.models.plugins.plugin_utils._profiles.load import (
    ProfileLoadError,
    check_profile,
    find_profile,
    load_profile,
)


@pytest.fixture
def write(tmp_path):
    def write(text, name="p.yml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("enabled_models: [a]\nenabled_models: ['*']\n", ', line 2: duplicate key "enabled_models"; keep one.'),
        ("enabled_models: ['*']\noptions:\n  ctx_size: 1\n  ctx_size: 2\n", ', line 4: duplicate key "ctx_size"'),
        ('{"enabled_models": ["*"],\n "enabled_models": ["a"]}', ', line 2: duplicate key "enabled_models"'),
        ("enabled_models:\n  - *-q4_k_m\n", ', line 2: *-q4_k_m must be in quotes: "*-q4_k_m".'),
        ("enabled_models:\n  - a\n  - *\n", ', line 3: * must be in quotes: "*".'),
        ("enabled_models:\n  - model: *gemma*\n", ', line 2: *gemma* must be in quotes: "*gemma*".'),
        ("enabled_models: [a, *-q2_k]\n", ', line 1: *-q2_k must be in quotes: "*-q2_k".'),
        ("enabled_models:\n  - [qd]*-q2_k\n", ', line 2: [qd]*-q2_k must be in quotes: "[qd]*-q2_k".'),
        ("enabled_models:\n  - [qd]wen\n", ', line 2: [qd]wen must be in quotes: "[qd]wen".'),
        ("enabled_models:\n  - {model: *gemma*, port: 1}\n", ', line 2: *gemma* must be in quotes: "*gemma*".'),
        ("enabled_models:\n  - a: b: c\n", ", line 2: it is not valid YAML: mapping values are not allowed here."),
        ("enabled_models: [7]\nstrict: maybe\n", ", line 1: entry 1 must be a mapping, not int."),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_the_remedy(write, text, said):
    path = write(text)
    with pytest.raises(ProfileLoadError) as error:
        load_profile(path)
    assert str(error.value).startswith(f"Profile p: {path}{said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("- *-q4_k_m  # those", "*-q4_k_m"),
        ("- *", "*"),
        ("- !deep*", "!deep*"),
        ("- &a*", "&a*"),
        ("- {a: 1}", None),
        ("- [a, b]", None),
        ("- a*b: c: d", None),
        ('- "*', None),
        ("", None),
    ],
)
def test_a_glob_that_yaml_takes_for_something_else_is_found(line, pattern):
    assert unquoted(line) == pattern


def test_a_sound_profile_is_loaded(write):
    path = write("name: p\nenabled_models: ['*']\n")
    assert [str(entry) for entry in load_profile(path).entries] == ["*"]
    assert check_profile(path).remarks == ()


def test_what_else_is_wrong_is_asked_of_a_sound_profile_alone(write):
    def further(profile):
        return [(("options", "a"), f"{profile.name} has a wrong option.")]

    (remark,) = check_profile(write("enabled_models: ['*']\noptions:\n  a: 1\n"), further).remarks
    assert (remark.line, remark.message) == (3, "p has a wrong option.")
    assert "wrong option" not in str(check_profile(write("enabled_models: []\n"), further).remarks)


def test_a_profile_is_found_by_its_name(write, tmp_path):
    path = write("")
    write("", "q.yml")
    assert find_profile(tmp_path, "p") == path
    with pytest.raises(ProfileLoadError, match=r"Profile x not found: there is no .*/x\.yml\. Profiles there: p, q\."):
        find_profile(tmp_path, "x")
    with pytest.raises(ProfileLoadError, match=r"Profiles there: none\."):
        find_profile(tmp_path / "none", "x")
