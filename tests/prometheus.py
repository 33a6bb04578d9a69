"""A real Prometheus, and what it says."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


class Prometheus:
    """Prometheus, started by a command whose last argument says where it listens; within it, it runs."""

    def __init__(self, command: Sequence[str], folder: Path):
        self.command, self.folder = command, folder
        self.url = f"http://{command[-1].partition('=')[2]}"
        self.log = folder / "prometheus.log"

    def __enter__(self) -> Prometheus:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        self.process.wait()

    def asked(self, path: str, **query: str) -> Any:
        """Return what its API answers; nothing while it starts."""
        try:
            return get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}")["data"]
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return {}

    def up(self) -> dict[str, bool]:
        """Return for each target whether it answers, by its label instance."""
        found = self.asked("targets").get("activeTargets", ())
        return {item["labels"]["instance"]: item["health"] == "up" for item in found}

    def value(self, query: str) -> float | None:
        found = self.asked("query", query=query).get("result")
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that fire, by name."""
        found = self.asked("alerts").get("alerts", ())
        return {item["labels"]["alertname"]: item for item in found if item["state"] == "firing"}
