#!/usr/bin/env python3
"""Write recorded/*.json again: deploy for real on this machine, and keep what ansible-runner hands to its handler.

record.py LLAMA_SERVER MODELS: a llama-server, and a folder with the test models. Uses ports from 18140 up.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magi.project import Project
from magi.runner import playbook as runner
from magi.runner.options import Options

FOLDER = Path(__file__).parent / "recorded"
ROOT = Path(__file__).parents[2]
VERBS = {"up": "site", "plan": "plan", "status": "status", "discover": "discover", "down": "teardown"}
PROFILE = {
    "name": "p",
    "enabled_models": [
        "smollm2-135m-instruct.q2_k",
        {"model": "smollm2-135m-instruct.q3_k_m", "options": {"cache_type_v": "q4_0", "flash_attn": False}},
    ],
}
UNREAD = {
    "_ansible_no_log",
    "_ansible_verbose_always",
    "ansible_facts",
    "diff",
    "exception",
    "generation",
    "invocation",
    "origins",
}
UNREAD |= {"settings"}
DATA = {"host", "ignore_errors", "name", "play", "res", "resolved_action", "task", "task_action"}


def pruned(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an event that the tests read."""
    data = raw.get("event_data") or {}
    if raw["event"] == "playbook_on_stats":
        kept = {key: value for key, value in data.items() if isinstance(value, dict) and key != "artifact_data"}
    else:
        kept = {key: value for key, value in data.items() if key in DATA and value is not None}
    if "res" in kept:
        kept["res"] = {key: value for key, value in kept["res"].items() if key not in UNREAD}
        if "host" in kept["res"]:
            seen = [{key: item[key] for key in ("name", "health")} for item in kept["res"]["host"]["instances"]]
            kept["res"]["host"] = {"instances": seen}
    return {"event": raw["event"], "stdout": raw.get("stdout", ""), **({"event_data": kept} if kept else {})}


def main() -> None:
    llama_server, models = (Path(argument).expanduser().absolute() for argument in sys.argv[1:])
    seen: list[dict[str, Any]] = []
    event = runner.event
    runner.event = lambda raw: (seen.append(pruned(raw)), event(raw))[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("models", "profiles"):
            (folder / part).mkdir()
        for quantization in ("Q2_K", "Q3_K_M"):
            file = f"SmolLM2-135M-Instruct.{quantization}.gguf"
            os.link(models / file, folder / "models" / file)
        (folder / "profiles" / "p.yml").write_text(json.dumps(PROFILE))
        inventory = {
            "model_servers": {
                "hosts": {
                    "localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
                    "gone": {"ansible_host": "127.0.0.1", "ansible_port": 1},
                },
                "vars": {
                    "model_server_home": str(folder / "home"),
                    "model_server_llama_server_path": str(llama_server),
                    "model_server_manager": "supervisor",
                    "model_server_port_range": [18140, 18149],
                    "model_server_profiles_dir": str(folder / "profiles"),
                    "model_server_registry_path": str(folder / "registry.json"),
                    "model_server_report_path": str(folder / "report.json"),
                    "model_server_scan_paths": [str(folder / "models")],
                    "model_server_supervisord_path": str(Path(sys.executable).with_name("supervisord")),
                },
            }
        }
        (folder / "inventory.yml").write_text(json.dumps(inventory))
        options = Options((str(folder / "inventory.yml"),))
        for verb, playbook, profile in (
            *((verb, playbook, "p") for verb, playbook in VERBS.items()),
            ("profile-missing", "site", "nope"),
        ):
            seen.clear()
            runner.run(Project(ROOT), playbook, options, {"profile": profile})
            text = "[\n" + ",\n".join(map(json.dumps, seen)) + "\n]"
            text = text.replace(name, "/srv/deployment").replace(str(ROOT), "/srv/magi")
            text = text.replace(str(llama_server), "/opt/llama.cpp/current/llama-server")
            (FOLDER / f"{verb}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
