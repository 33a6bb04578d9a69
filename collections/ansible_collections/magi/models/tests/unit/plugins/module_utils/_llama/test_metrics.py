from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.metrics import Work, parse_work

SAID = """\
# HELP llamacpp:n_decode_total Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 1.23457e+06
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 3
llamacpp:requests_deferred 2
llamacpp:n_busy_slots_per_decode 2.5
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 7
"""


def test_the_work_of_a_server():
    assert parse_work(SAID) == Work(3, 2, pytest.approx(3086425))


@pytest.mark.parametrize(
    "text", ["", "<html>", SAID.replace("requests_deferred 2", "requests_deferred two"), SAID.replace(" 3\n", " inf\n")]
)
def test_what_is_no_such_answer(text):
    assert parse_work(text) is None
