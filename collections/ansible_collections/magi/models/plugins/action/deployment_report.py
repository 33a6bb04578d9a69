# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.module_utils._base.files import (
    FileWriteError,
    check_writable,
    make_folder,
    why,
    write_atomic,
    writing,
)
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.example import example_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateways import gateway_entries
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import host_result
from ansible_collections.magi.models.plugins.plugin_utils._fleet.report import (
    build_report,
    not_deployed,
    problems,
    summary_lines,
)


class ActionModule(ControllerAction):
    """Gather, show and write the report; see the module of the same name."""

    SPEC = {
        "path": {"type": "path"},
        "hosts": {"type": "dict", "default": {}},
        "gateways": {"type": "dict", "default": {}},
        "state": {"type": "str", "choices": ["present", "awaited", "absent"], "default": "present"},
    }

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._report(arguments)
        except FileWriteError as error:
            said = f"Can't write {error.filename}: {why(error, 'model_server_report_path')}."
            raise AnsibleActionFail(said) from None

    def _report(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        path = Path(arguments["path"]) if arguments["path"] else None
        if arguments["state"] != "present":
            if path:
                with writing(path):
                    path.unlink(missing_ok=True)
            if path and arguments["state"] == "awaited":
                check_writable([path])
            return {}
        # A host without results has yet to begin, in a later batch of a play with serial.
        hosts = [host_result(*item) for item in arguments["hosts"].items() if item[1]]
        if self._task.check_mode:
            return {"problems": not_deployed(hosts)}
        report = build_report(hosts, gateway_entries(arguments["gateways"]))
        example = report["example"] = example_lines(report, hosts)
        self.show(["", *summary_lines(report), "", *example, *([""] if example else [])])
        if path:
            make_folder(path.parent)
            write_atomic(path, json.dumps(report, indent=2).encode() + b"\n", 0o644)
        return {"report": report, "problems": problems(report, hosts)}
