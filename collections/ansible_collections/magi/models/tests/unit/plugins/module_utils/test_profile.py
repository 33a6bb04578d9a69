from __future__ import annotations

import pytest
import yaml
from ansible_collections.magi.models.plugins.module_utils._profile import Entry, Profile, ProfileError, parse_profile

EXAMPLE = """
name: production
description: Q3 and Q4 only
enabled_models:
  - tier: q3
  - "*-q4_k_m"
  - deepseek-r1-qwen3-8b-q2_k
  - model: deepseek-r1-qwen3-8b-q2_k
    instances: 2
    port: 8083
    options: {ctx_size: 8192}
options: {parallel: 2}
"""


def test_every_form_of_an_entry():
    profile = parse_profile("production", yaml.safe_load(EXAMPLE))
    assert profile.entries == (
        Entry("tier", "Q3"),
        Entry("glob", "*-q4_k_m"),
        Entry("model", "deepseek-r1-qwen3-8b-q2_k"),
        Entry("model", "deepseek-r1-qwen3-8b-q2_k", 2, 8083, {"ctx_size": 8192}),
    )
    assert profile.options == {"parallel": 2}
    assert Profile.from_dict(profile.to_dict()) == profile


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "must be a mapping, not NoneType"),
        ([], "must be a mapping, not list"),
        ({}, "enabled_models"),
        ({"enabled_models": []}, "enabled_models is empty"),
        ({"enabled_models": ["*"], "enabled": 1}, "enabled"),
        ({"enabled_models": ["*"], "options": "x"}, "options"),
        ({"enabled_models": ["*"], "strict": "perhaps"}, "strict"),
        ({"name": "other", "enabled_models": ["*"]}, "name: other"),
        ({"enabled_models": ["a", 7]}, "entry 2 must be a mapping, not int"),
        ({"enabled_models": [{"tier": "Q3", "model": "a"}]}, "entry 1"),
        ({"enabled_models": [{"instances": 2}]}, "entry 1"),
        ({"enabled_models": [{"modle": "a"}]}, "modle"),
        ({"enabled_models": [{"model": "a", "instances": 0}]}, "instances must be 1 or more"),
        ({"enabled_models": [{"model": "a", "port": 0}]}, "port must be from 1 to 65535"),
        ({"enabled_models": [{"tier": "Q3", "port": 8080}]}, "port needs an exact model id"),
        ({"enabled_models": [{"model": "*", "port": 8080}]}, "port needs an exact model id"),
        ({"enabled_models": [""]}, "the selector is empty"),
    ],
)
def test_a_wrong_profile_is_one_sentence_that_names_it(data, said):
    with pytest.raises(ProfileError) as error:
        parse_profile("p", data)
    assert str(error.value).startswith("Profile p")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
