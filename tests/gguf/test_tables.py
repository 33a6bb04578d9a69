"""Our tables of architectures and projectors against llama.cpp's source."""

from __future__ import annotations

import re

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.architectures import _KNOWN
from ansible_collections.magi.models.plugins.module_utils._models.kinds import _DRAFTERS, _ENCODERS
from ansible_collections.magi.models.plugins.module_utils._models.projectors import _MADE_FOR
from ansible_collections.magi.models.plugins.module_utils._models.quantization import FILE_TYPES

from .conftest import oracle_module

pytestmark = pytest.mark.e2e


def source(path: str) -> str:
    return (oracle_module.SOURCE / path).read_text()


@pytest.fixture(scope="module")
def architectures() -> set[str]:
    names = re.findall(r'\{ LLM_ARCH_\w+,\s+"([^"(]+)"', source("src/llama-arch.cpp"))
    assert len(names) > 100
    return set(names)


def test_the_architectures_are_those_of_the_build(architectures):
    assert architectures - {"clip"} == _KNOWN


def test_encoders_and_drafters_are_architectures(architectures):
    assert architectures >= _ENCODERS
    assert {"gemma4-assistant", "eagle3", "dflash"} <= architectures & _DRAFTERS.keys()
    kinds = set(re.findall(r'"(draft-[a-z0-9]+)"', source("common/speculative.cpp") + source("common/arg.cpp")))
    assert set(_DRAFTERS.values()) <= kinds


def test_every_type_of_projector_that_a_converter_writes_is_made_for_architectures(architectures):
    names = dict(re.findall(r'\{ (PROJECTOR_TYPE_\w+),\s+"([^"]+)"', source("tools/mtmd/clip-impl.h")))
    written = re.search(r"class VisionProjectorType:(.*?)\n\n\n", source("gguf-py/gguf/constants.py"), re.DOTALL)
    types = set(re.findall(r'= "([^"]+)"', written[1]))
    assert types <= set(names.values())
    assert types <= _MADE_FOR.keys()
    assert {name for each in _MADE_FOR.values() for name in each.split()} <= architectures


def test_the_file_types_are_those_of_the_build():
    enum = re.search(r"enum llama_ftype \{(.*?)\};", source("include/llama.h"), re.DOTALL)[1]
    found = {int(number): name for name, number in re.findall(r"^\s+LLAMA_FTYPE_(\w+)\s*= (\d+),", enum, re.MULTILINE)}
    found.pop(1024, None)
    assert {number: name.replace("ALL_", "").replace("MOSTLY_", "") for number, name in found.items()} == FILE_TYPES
