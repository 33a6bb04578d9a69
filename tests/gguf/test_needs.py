"""What we say that a server needs, against llama.cpp's own llama-fit-params, and against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import read_header
from ansible_collections.magi.models.plugins.module_utils._host.binary import read_binary
from ansible_collections.magi.models.plugins.module_utils._host.needs import Asker, find_tool
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB, Row
from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion, Model
from ansible_collections.magi.models.plugins.module_utils._plan.estimate import estimate
from ansible_collections.magi.models.plugins.module_utils._plan.need import question
from ansible_collections.magi.models.plugins.module_utils._plan.options import resolve_options
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import model

from .conftest import oracle_module
from .families import FAMILIES, write_family

pytestmark = pytest.mark.e2e

MODELS = sorted((Path(__file__).parents[2] / "data" / "models").glob("*.gguf"))
SETS = (
    {"ctx_size": 2048, "parallel": 1},
    {"ctx_size": 8192},
    {"ctx_size": 32768, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    {"ctx_size": 131072, "parallel": 2, "ubatch_size": 2048},
)


@pytest.fixture(scope="module")
def binary():
    found, error = read_binary(chosen("supervisor", "/m"), str(oracle_module.CACHE / "bin" / "llama-server"))
    assert found, error
    return found


def described(path: Path) -> Model:
    header = read_header(str(path))
    facts = Facts.of(header)
    return model(
        "x",
        path=str(path),
        files=(FileVersion(str(path), header.size, 0),),
        size_bytes=header.size,
        architecture=facts.architecture,
        parameter_count=facts.parameter_count,
        context_length=facts.context_length,
        shape=facts.shape,
    )


def both(binary, path: Path, options: dict) -> tuple[Row, Row]:
    """Return the row that llama-fit-params prints, and our estimate of it."""
    found, resolved = described(path), resolve_options(binary, [("", options)])
    told = Asker(binary, find_tool(binary)).ask(question(binary, found, resolved, {}))
    assert [row.device for row in told.rows] == [HOST], told.why
    (row,) = estimate(found, resolved)
    return told.rows[0], row


def work(row: Row) -> int:
    return row.context + row.compute


@pytest.mark.parametrize("options", SETS, ids=lambda options: str(options["ctx_size"]))
@pytest.mark.parametrize("name", [*FAMILIES, *(path.name for path in MODELS)])
def test_the_estimate_is_near_what_llama_fit_params_says(binary, tmp_path, name, options):
    path = write_family(name, tmp_path) if name in FAMILIES else next(x for x in MODELS if x.name == name)
    told, estimated = both(binary, path, options)
    print(f"{name} | {options} | {told} | {estimated} | {work(estimated) / work(told) - 1:+.0%}")
    assert abs(estimated.context - told.context) <= max(told.context // 100, 2 * MIB)
    assert 0.95 <= work(estimated) / work(told) <= 1.2
    assert told.model <= estimated.model
