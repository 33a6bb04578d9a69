"""From the configuration of the older service to a profile."""

from __future__ import annotations

import json

import pytest
import yaml

from magi.profiles import files
from magi.profiles.migrate import Legacy, MigrationError, match, migrate, read

from .known import Q2, Q3, Q4, host, model

LEGACY = """\
models:
  Q2_FAST_1:
    name: deepseek-r1-qwen3-8b-q2_k
    tier: Q2
    url: http://localhost:8080
    port: 8080
  Q2_FAST_2: {name: DeepSeek-R1-Qwen3-8B-Q2_K.gguf, tier: Q2, url: "http://localhost:8081"}
  Q3_SYNTH: {name: DeepSeek R1 Qwen3 8B, port: "8082"}
  Q4_DEEP: {name: gone-q4_k_m, tier: Q4, port: 8083}
"""


def entry(name, tier=None, port=8080, key="KEY", server="localhost"):
    return Legacy(key, 1, name, tier, port, server)


def notes(migration):
    return [match.note for match in migration.matches if match.note]


@pytest.mark.parametrize("suffix", ["yml", "json"])
def test_the_same_models_on_the_same_ports(tmp_path, suffix):
    source = tmp_path / f"legacy.{suffix}"
    source.write_text(LEGACY if suffix == "yml" else json.dumps(yaml.safe_load(LEGACY), indent="\t"))
    migration = migrate("old", "legacy." + suffix, read(source), [host()])
    path = tmp_path / "old.yml"
    files.write_new(path, migration.text)
    assert [(e.pattern, e.port) for e in files.check(path).profile.entries] == [
        (Q2["id"], 8080),
        (Q2["id"], 8081),
        (Q3["id"], 8082),
    ]
    assert notes(migration) == [
        f"Q4_DEEP (gone-q4_k_m): no discovered model has its name; discovered of tier Q4: {Q4['id']}."
    ]
    assert f"# {notes(migration)[0]}" in migration.text


@pytest.mark.parametrize(
    ("legacy", "model_id", "note"),
    [
        (entry("deepseek-r1-qwen3-8b-q2_k"), Q2["id"], None),
        (entry("DeepSeek-R1-Qwen3-8B-Q2_K"), Q2["id"], None),
        (entry("/srv/DeepSeek-R1-Qwen3-8B-Q3_K_M.gguf"), Q3["id"], None),
        (entry("DeepSeek R1 Qwen3 8B (Q2_K)"), Q2["id"], None),
        (entry("DeepSeek R1 Qwen3 8B", "Q3"), Q3["id"], None),
        (
            entry("DeepSeek R1 Qwen3 8B"),
            None,
            f"several models have its name: {Q2['id']}, {Q3['id']}; choose one.",
        ),
        (entry("DeepSeek R1 Qwen3 8B", "Q8"), None, "but is not of tier Q8"),
        (entry("deepseek 8b", "Q2"), Q2["id"], "taken for " + Q2["id"] + " by the words of its name; check that."),
        (entry("mistral", "Q2"), None, f"no discovered model has its name; discovered of tier Q2: {Q2['id']}."),
        (entry("\n\x1b[31m"), None, r"KEY (\n\x1b[31m): no discovered model has its name"),
    ],
)
def test_which_model_an_entry_means(legacy, model_id, note):
    found = match(legacy, [Q2, Q3, Q4])
    assert found.model_id == model_id
    assert (note is None) == (found.note is None)
    assert (note or "") in (found.note or "")


@pytest.mark.parametrize(
    ("key", "tier", "expected"),
    [
        ("Q2_FAST_1", None, "Q2"),
        ("A", "Q4_K_M", "Q4"),
        ("A", "iq3_xs", "Q3"),
        ("BF16_X", "", "BF16"),
        ("FAST", "slow", None),
    ],
)
def test_the_tier_is_the_bits_that_tier_or_key_name(tmp_path, key, tier, expected):
    source = tmp_path / "legacy.json"
    source.write_text(json.dumps({"models": {key: {"name": "x", "tier": tier}}}))
    assert read(source)[0].tier == expected


@pytest.mark.parametrize(
    ("entries", "ports", "note"),
    [
        (
            [entry(Q2["id"], key="A"), entry(Q2["id"], key="B", server="gpu2")],
            [8080],
            "B: the same model and port as A",
        ),
        ([entry(Q2["id"], key="A"), entry(Q3["id"], key="B")], [8080], "B: port 8080 is that of A already"),
        (
            [entry(Q2["id"], key="A"), entry(Q3["id"], key="B", server="gpu2")],
            [8080, 8080],
            "B: shares port 8080 with A",
        ),
        ([entry(Q2["id"], key="A", port=None), entry(Q2["id"], key="B", port=None)], [None, None], None),
    ],
)
def test_a_port_belongs_to_one_model_of_a_host(tmp_path, entries, ports, note):
    migration = migrate("old", "legacy.yml", entries, [host()])
    path = tmp_path / "old.yml"
    path.write_text(migration.text)
    assert [e.port for e in files.check(path).profile.entries] == ports
    assert [item.startswith(note) for item in notes(migration)] == ([True] if note else [])


def test_models_of_all_hosts_count():
    other = model("mistral-7b-q4_k_m", "Mistral 7B", "Q4")
    migration = migrate("old", "legacy.yml", [entry(other["id"])], [host(), host("gpu2", other)])
    assert migration.matches[0].model_id == other["id"]


def test_nothing_matches_nothing_is_written():
    with pytest.raises(MigrationError, match=r"legacy\.yml: none of its entries matches .*nothing is written"):
        migrate("old", "legacy.yml", [entry("mistral")], [host()])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": it has no entries under"),
        ("models: {}\n", ", line 1: it has no entries under"),
        ("a: 1\nmodels: [1]\n", ", line 2: it has no entries under"),
        ("models:\n  A: x\n", ", line 2: A: it must be a mapping with name, tier, url and port"),
        ("models:\n  A:\n    tier: Q2\n", ", line 2: A: it has no name"),
        ("models:\n  A:\n    name: 7\n", ", line 3: A: name must be a string, not 7."),
        ("models:\n  A:\n    name: x\n    port: 70000\n", ", line 4: A: port must be a number from 1 to 65535"),
        ("models:\n  A:\n    name: x\n    port: [1]\n", ", line 4: A: port must be a number"),
        ("models:\n  A:\n    name: x\n    url: http://h:80800\n", ", line 4: A: url 'http://h:80800' is not a URL"),
        (
            "models:\n  A:\n    name: x\n    url: http://h:1\n    port: 2\n",
            ", line 5: A: port 2 is not that of its url",
        ),
        ("models:\n  A: {name: x}\n  A: {name: y}\n", ', line 3: duplicate key "A"; keep one.'),
    ],
)
def test_bad_input_is_one_sentence_with_its_line(tmp_path, text, said):
    source = tmp_path / "legacy.yml"
    source.write_text(text)
    with pytest.raises((MigrationError, MigrationError)) as error:
        read(source)
    assert f"legacy.yml{said}" in str(error.value)
