"""The oracle and a real model's header, for the tests that compare our reader with llama.cpp's."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

# Loaded by path: test folders are not packages.
_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
oracle_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle_module)


@pytest.fixture(scope="session")
def oracle():
    """llama.cpp's verdict; a missing source tree is an error, not a skip."""
    with oracle_module.Oracle() as running:
        yield running


@pytest.fixture
def mutations() -> int:
    """How many mutations to try: 2,000 in `make test`, 100,000 in `make gguf-oracle`."""
    return int(os.environ.get("MAGI_GGUF_MUTATIONS", "2000"))


# A slow example is not a failure, least of all on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
