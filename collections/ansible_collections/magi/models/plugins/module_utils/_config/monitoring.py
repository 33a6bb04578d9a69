# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The arguments of the module model_monitoring, for it and its action plugin. Pure."""

from __future__ import annotations

MONITORING_OPTIONS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "home": {"type": "path", "default": ""},
    "textfile_dir": {"type": "path", "default": ""},
    "probe": {"type": "bool", "default": False},
    "probe_home": {"type": "path", "default": "/usr/local/lib/magi-probe"},
    "probe_interval": {"type": "int", "default": 300},
    "hosts": {"type": "dict", "default": {}},
    "gateways": {"type": "dict", "default": {}},
    "gpu_exporters": {"type": "dict", "default": {}},
    "interval": {"type": "int", "default": 15},
    "key_file": {"type": "path", "default": ""},
    "node_address": {"type": "str", "default": "127.0.0.1"},
    "node_port": {"type": "int", "default": 0},
    "alertmanagers": {"type": "list", "elements": "str", "default": []},
    "limits": {"type": "dict", "default": {}},
    "runbooks": {"type": "str", "default": "https://github.com/magi-models/magi.models/blob/main/docs/alerts.md"},
    "job": {"type": "dict"},
}
