"""What stands for runs of playbooks under the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magi.events import Run

from . import recorded


class FakeRun:
    """Stands for ``magi.session.run``: replays a recording of its playbook; one that is held waits to be stopped, and
    one without a recording can't begin."""

    RECORDINGS = {"site": "up", "teardown": "down"}

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.texts: list[str] = []
        self.held: set[str] = set()
        self.stopped: list[str] = []

    def __call__(self, _project, playbook, options, variables, *, on_event, stop) -> Run:
        self.calls.append((playbook, options, variables))
        for given in options.extra_vars:
            folder = json.loads(given)["model_server_profiles_dir"]
            self.texts += [path.read_text() for path in Path(folder).iterdir()]
        name = self.RECORDINGS.get(playbook, playbook)
        if not (recorded.FOLDER / f"{name}.json").exists():
            return Run(4, ())
        run = recorded.run(name)
        for event in run.events:
            on_event(event)
        if playbook in self.held:
            assert stop.wait(60)
            self.stopped.append(playbook)
            return Run(None, run.events, interrupted=True)
        return run
