"""magi top: from what hosts tell to tables."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from magi import lines
from magi.activity import Sort, document, first_token, shown_line, state_of
from magi.cli.top import picture

SERVER = {
    "instance": "a",
    "model_id": "a",
    "port": 8080,
    "state": "running",
    "pid": 7,
    "status": 200,
    "asleep": False,
    "busy": 1,
    "slots": 4,
    "waiting": 0,
    "tokens_per_second": 30.04,
    "memory": 1 << 30,
}
SILENT = {"status": 0, "busy": None, "slots": None, "waiting": None, "tokens_per_second": None}
MEMORY = {"total": 64 << 30, "available": 32 << 30}
STATE = {"up": True, "state": "up", "busy": 1, "slots": 4}
GATEWAY = {
    "servers": [
        # The model's name leads to both servers, and that of an instance to one: what waits counts once for each name.
        {**STATE, "backend": "a", "server": "gpu1::a", "queued": 5},
        {**STATE, "backend": "a", "server": "gpu2::a", "queued": 5},
        {**STATE, "backend": "a-2", "server": "gpu1::a-2", "queued": 1},
        {**STATE, "backend": "gone", "server": "gpu9::gone", "queued": 1},
    ],
    "first_tokens": {"gpu1::a": [100, 200, 300], "gpu2::a": [4000]},
}
SEEN = {
    "gpu1": {
        "servers": [SERVER, {**SERVER, "instance": "a-2", "waiting": 2, "tokens_per_second": 0.0, "asleep": True}],
        "gateway": GATEWAY,
        "memory": MEMORY,
    },
    "gpu2": {"servers": [{**SERVER, **SILENT}], "gateway": None, "memory": MEMORY},
    "mon1": {"servers": [], "gateway": None, "memory": {"total": None, "available": None}},
}


def test_what_all_do():
    found = document(SEEN)
    assert found["models"] == [
        {
            "model_id": "a",
            "servers": 3,
            "asleep": 1,
            "tokens_per_second": 30.04,
            "busy": 2,
            "slots": 8,
            "queue": 8,
            "first_token": {"p50": 0.2, "p95": 4.0, "requests": 4},
            "memory": 3 << 30,
        }
    ]
    assert [(row["host"], row["instance"], row["state"]) for row in found["servers"]] == [
        ("gpu1", "a", "ready"),
        ("gpu1", "a-2", "asleep"),
        ("gpu2", "a", "no answer"),
    ]
    assert [(row["host"], row["servers"], row["memory"]) for row in found["hosts"]] == [
        ("gpu1", 2, 2 << 30),
        ("gpu2", 1, 1 << 30),
        ("mon1", 0, None),
    ]
    assert found["gateways"] == [{"host": "gpu1", "requests": 4}]
    json.dumps(found)


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        (Sort.TOKENS, "gpu1 a"),
        (Sort.BUSY, "gpu1 a"),
        (Sort.QUEUE, "gpu1 a-2"),
        (Sort.FIRST_TOKEN, "gpu2 a"),
        (Sort.MEMORY, "gpu1 a"),
        (Sort.NAME, "gpu1 a"),
    ],
)
def test_what_comes_first(sort, first):
    row = document(SEEN, sort)["servers"][0]
    assert f"{row['host']} {row['instance']}" == first


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"status": 503}, "loading"),
        ({"status": 501}, "no metrics"),
        ({"status": 401}, "other key"),
        ({"status": 418}, "HTTP 418"),
        ({"status": 0}, "no answer"),
        ({"status": 0, "state": "starting"}, "starting"),
        ({"status": 0, "state": "failed", "pid": None}, "failed"),
    ],
)
def test_the_word_for_a_server(more, word):
    assert state_of({**SERVER, **more}) == word


def test_half_and_nearly_all_of_the_answers():
    assert first_token(range(1000, 0, -10)) == {"p50": 0.5, "p95": 0.95, "requests": 100}
    assert first_token([7]) == {"p50": 0.007, "p95": 0.007, "requests": 1}
    assert first_token([]) is None


@pytest.mark.parametrize("text", ["PLAY [Show]", "[1]", '{"host": "a"}', '{"host": "a", "text": "b"}', "7"])
def test_a_line_of_something_else(text):
    assert shown_line(text) is None


def test_a_line_of_a_host():
    assert shown_line('{"host": "gpu1", "activity": {}}') == ("gpu1", "activity", {})
    assert shown_line('{"host": "gpu1", "problem": "It is gone."}') == ("gpu1", "problem", "It is gone.")


def drawn(width: int) -> list[str]:
    console = Console(file=io.StringIO(), no_color=True, width=width)
    console.print(picture(document(SEEN), {"gpu3": "Not reached\x1b[2J."}))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_tables():
    shown = drawn(120)
    assert shown[1].split() == ["a", "30.0", "2/8", "8", "0.20", "s", "4.00", "s", "3.0", "GiB", "3,", "1", "asleep"]
    assert shown[5].split()[-1] == "asleep"
    assert shown[6].split() == ["a", "gpu2", "–", "–", "–", "4.00", "s", "4.00", "s", "1.0", "GiB", "no", "answer"]
    assert "First token: 4 requests of the last 5 minutes, from the log of gpu1." in shown
    assert shown[-1] == r"✗ gpu3: Not reached\x1b[2J."


def test_where_it_is_narrow_names_are_cut_and_no_number():
    long = {**SERVER, "instance": "smollm2-135m-instruct.q2_k", "model_id": "smollm2-135m-instruct.q2_k"}
    console = Console(file=io.StringIO(), no_color=True, width=72)
    seen = {"gpu1.example.org": {"servers": [long], "gateway": None, "memory": MEMORY}}
    console.print(picture(document(seen), {}))
    row = console.file.getvalue().splitlines()[1].split()
    assert row[0].endswith("…")
    assert row[2:] == ["30.0", "1/4", "0", "–", "–", "1.0", "GiB", "ready"]


def test_without_a_terminal():
    assert lines.top(document({})) == ["Nothing runs."]
    said = lines.top(document({"gpu2": SEEN["gpu2"]}))
    assert said[0].split() == ["server", "host", "tok/s", "busy", "queue", "first", "p50", "p95", "memory", "state"]
    assert said[-1] == "No gateway runs, and servers do not tell the time to the first token."
