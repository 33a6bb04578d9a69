"""Runs of the playbooks as ansible-runner's handler saw them, recorded from a real deployment by record.py.

Two models; profile p gives one of them a cache type that llama-server does not know; the second host, which can't be
reached, is port 1 of this machine. The recordings leave out what no test reads (arguments, facts of hosts).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magi.events import Event, Run, event

FOLDER = Path(__file__).with_suffix("")
Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))


def raw(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def events(name: str) -> tuple[Event, ...]:
    return tuple(item for item in map(event, raw(name)) if item)


def run(name: str, rc: int = 0) -> Run:
    return Run(rc, events(name))
