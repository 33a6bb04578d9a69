"""Instances by name, and what magi shows of them while a playbook runs."""

from __future__ import annotations

import json

import pytest

from magi.instances import answer_piece, log_line, missing, terminal_text, unknown


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ({"gpu1": ["llama-q4"], "gpu2": []}, "There is no instance lama-q4 on gpu1, gpu2; did you mean llama-q4?"),
        ({"gpu1": ["x", "y"]}, "There is no instance lama-q4 on gpu1; there are x, y."),
        ({"gpu1": []}, "There is no instance lama-q4 on gpu1: nothing is deployed there; run magi up."),
    ],
)
def test_a_missing_instance_is_named_with_the_nearest(hosts, said):
    assert str(missing("lama-q4", hosts)) == said


def test_unknown_names_are_those_that_no_host_has():
    hosts = {"gpu1": ["a"], "gpu2": ["b"]}
    assert unknown(["a", "b"], hosts) is None
    assert str(unknown(["a", "zz"], hosts)) == "There is no instance zz on gpu1, gpu2; there are a, b."


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ("gpu1 | 0.1 | a line", ("gpu1", "0.1 | a line")),
        ("gpu1 | ", ("gpu1", "")),
        ("other | x", None),
        ("TASK [Logs] ***", None),
    ],
)
def test_a_line_of_a_log(shown, found):
    assert log_line(shown, {"gpu1"}) == found


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        (json.dumps({"text": "a\n🐫"}), ("text", "a\n🐫")),
        (json.dumps({"reasoning": "hm"}), ("reasoning", "hm")),
        (json.dumps({"end": True}), None),
        (json.dumps({"text": 1}), None),
        ("ok: [gpu1]", None),
        ("7", None),
    ],
)
def test_a_piece_of_an_answer(shown, found):
    assert answer_piece(shown) == found


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\n\tb é🐫", "a\n\tb é🐫"), ("\x1b[31mred\r\x07\x9b", r"\x1b[31mred\r\x07\x9b"), ("a\u2028b", r"a\u2028b")],
)
def test_what_a_model_says_moves_no_cursor(text, shown):
    assert terminal_text(text) == shown
