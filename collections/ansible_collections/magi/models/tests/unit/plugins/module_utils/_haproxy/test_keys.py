from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import (
    HEAD,
    MAPS,
    Key,
    KeysError,
    maps,
    parse,
    with_key,
    without_key,
)

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
ALICE = Key(A, "alice", ("chat", "qwen*"), 4, 60, "2027-01-31")
TEXT = f"""\
# ours
{A.upper()}  alice  models=chat,qwen*  concurrent=4 per-minute=60 expires=2027-01-31

\t{B} bob.b-2
  # {C} carol
"""


def test_a_file_is_read():
    assert parse(TEXT, "/k") == [ALICE, Key(B, "bob.b-2")]
    assert parse("", "/k") == parse("# nothing\n", "/k") == []
    assert parse(" ".join(ALICE.words()), "/k") == [ALICE]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("magi-secret alice", "the first word must be the SHA-256 of a key, 64 hexadecimal digits; magi key add makes"),
        (f"{A}0 alice", "the first word must be"),
        (f"sha256:{A} alice", "the first word must be"),
        (A, "the name, its second word, must be of letters, digits"),
        (f"{A} -alice", "the name, its second word"),
        (f"{A} models=x", "the name, its second word"),
        (f"{A} %[env(HOME)]", "the name, its second word"),
        (f'{A} ali"ce', "the name, its second word"),
        (f"{A} {'x' * 65}", "the name, its second word"),
        (f"{A} é", "the name, its second word"),
        (f"{A} alice secret", "an option is none of models=, concurrent=, per-minute=, expires=; correct or remove it"),
        (f"{A} alice Models=x", "an option is none of"),
        (f"{A} alice concurrent=0", "concurrent= must be a whole number from 1 to 1000000; correct it"),
        (f"{A} alice concurrent", "concurrent= must be"),
        (f"{A} alice concurrent=١", "concurrent= must be"),
        (f"{A} alice per-minute=1000001", "per-minute= must be"),
        (f"{A} alice per-minute=-1", "per-minute= must be"),
        (f"{A} alice expires=tomorrow", "expires= must be a day, as in 2027-01-31; correct it"),
        (f"{A} alice expires=2027-02-30", "expires= must be a day"),
        (f"{A} alice expires=20270130", "expires= must be a day"),
        (f"{A} alice expires=9999-12-31", "expires= must be a day"),  # nothing comes after it
        (f"{A} alice models=", "models= must be names of models with commas between them, as in models=chat,qwen3-"),
        (f"{A} alice models=a,,b", "models= must be"),
        (f"{A} alice models=\x1b[1m", "models= must be"),
        (f"{B} bob.b-2", "the name of this line is on an earlier one, too; remove one"),
        (f"{B} other", "the key of this line is on an earlier one"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_without_its_words(line, said):
    text = f"# comment\n{B} bob.b-2\n{line}\n"
    with pytest.raises(KeysError) as raised:
        parse(text, "/etc/keys")
    assert str(raised.value).startswith(f"/etc/keys, line 3: {said}")
    assert not any(word in str(raised.value) for word in ("secret", A, B, "\x1b"))


def test_a_key_is_added_and_removed_and_all_else_stays():
    carol = Key(C, "carol", per_minute=5)
    added = with_key(TEXT, carol, "/k")
    assert added == f"{TEXT}{C} carol per-minute=5\n"
    assert with_key(added, carol, "/k") == added
    assert with_key(TEXT.rstrip("\n"), carol, "/k") == added
    assert without_key(added, "carol", "/k") == TEXT
    assert without_key(TEXT, "alice", "/k") == TEXT.replace(TEXT.splitlines(keepends=True)[1], "")
    assert without_key(TEXT, "bob", "/k") == without_key(TEXT, "", "/k") == TEXT
    assert without_key(TEXT, "bobXb-2", "/k") == TEXT
    first = with_key("", carol, "/k")
    assert first == f"{HEAD}{C} carol per-minute=5\n"
    assert parse(first, "/k") == [carol]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (Key(C, "alice"), "/k has a key alice already; revoke it first, or choose another name"),
        (Key(A, "other"), "the key of this line is on an earlier one"),
        (Key(C, "two words"), "/k, the key two words: the name, its second word, must be of"),
        (Key(C, "a\nb"), "the name, its second word"),
        (Key(C, "x", concurrent=0), "concurrent= must be"),
        (Key("magi-x", "x"), "the first word must be"),
        (Key(C, "x", ("a b",)), "models= must be names"),
        (Key(C, "x", ("",)), "models= must be names"),
        (Key(C, "x", expires="never"), "expires= must be a day"),
    ],
)
def test_a_key_that_would_break_the_file_is_refused(key, said):
    with pytest.raises(KeysError, match=said):
        with_key(TEXT, key, "/k")


NAMES = ("chat", "openai/gpt-4", "qwen3-8b", "a b", 'x"\n%[env(X)]', "\udcff")


def made(*keys):
    names = "".join(f"{quote(name, safe='', errors='surrogateescape')}\n" for name in NAMES)
    return maps(keys, names, json.dumps({"object": "list", "data": [{"id": name} for name in NAMES]}))


def test_the_maps_say_what_each_key_may_do():
    files = made(ALICE, Key(B, "bob", ("qwen*", "chat")), Key(C, "carol", ("chat", "qwen*")), Key("d" * 64, "dave"))
    assert tuple(files) == MAPS
    assert files["keys.map"] == f"{A} alice\n{B} bob\n{C} carol\n{'d' * 64} dave\n"
    assert files["key-concurrent.map"] == "alice 4\n"
    assert files["key-per-minute.map"] == "alice 60\n"
    assert files["key-expires.map"] == "alice 1801440000\n"  # 2027-02-01 00:00 UTC: the whole day counts
    assert files["key-rights.map"] == "alice 1\nbob 2\ncarol 1\n"  # who may do all is in no map of rights
    assert files["allowed.map"] == "1/chat 1\n1/qwen3-8b 1\n2/chat 1\n2/qwen3-8b 1\n"
    one, _two = files["key-models.txt"].splitlines()
    assert json.loads(one.partition(" ")[2]) == {"object": "list", "data": [{"id": "chat"}, {"id": "qwen3-8b"}]}


@pytest.mark.parametrize(
    ("glob", "allowed"),
    [
        ("openai/*", {"openai/gpt-4"}),
        ("a?b", {"a b"}),
        ("[!a-w]*", {'x"\n%[env(X)]', "\udcff"}),
        ("*", {*NAMES}),
        ("Chat", set()),
        ("c", set()),
    ],
)
def test_a_glob_is_the_names_that_it_matches(glob, allowed):
    files = made(Key(A, "a", (glob,)))
    _number, _space, document = files["key-models.txt"].rstrip("\n").partition(" ")
    assert {item["id"] for item in json.loads(document)["data"]} == allowed
    assert len(files["allowed.map"].splitlines()) == len(allowed)


def test_without_keys_there_are_empty_maps():
    assert made() == dict.fromkeys(MAPS, "")
