from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB, Row, parse_rows, shown


@pytest.mark.parametrize(
    ("printed", "rows"),
    [
        ("Host 91 45 104 \n", (Row(HOST, 91 * MIB, 45 * MIB, 104 * MIB),)),
        (
            "CUDA0 37 96 59 \nHost 28 0 43 \n",
            (Row("CUDA0", 37 * MIB, 96 * MIB, 59 * MIB), Row(HOST, 28 * MIB, 0, 43 * MIB)),
        ),
        # no row of the host: it was cut, or is something else
        ("CUDA0 37 96 59 \n", ()),
        ("-c 4096 -ngl -1\n", ()),
        ("", ()),
    ],
)
def test_what_llama_fit_params_prints(printed, rows):
    assert parse_rows(printed) == rows


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MiB"), (1, "1 MiB"), (1023 * MIB, "1023 MiB"), (1536 * MIB, "1.5 GiB")]
)
def test_bytes_for_people(size, text):
    assert shown(size) == text
