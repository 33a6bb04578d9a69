# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The arguments of the modules of a gateway, for them and their action plugins. Pure."""

from __future__ import annotations

from ansible_collections.magi.models.plugins.module_utils._base.managers import CHOICES

HEALTH_FROM = {"type": "str", "choices": ["auto", "controller", "host"], "default": "auto"}
GATEWAY_OPTIONS = {
    "state": {"type": "str", "choices": ["present", "prepared", "absent", "remembered"], "default": "present"},
    "hosts": {"type": "dict", "default": {}},
    "home": {"type": "path", "required": True},
    "manager": {"type": "str", "choices": list(CHOICES), "default": "auto"},
    "supervisord_path": {"type": "path", "default": "supervisord"},
    "haproxy_path": {"type": "path", "default": "/usr/sbin/haproxy"},
    "optional": {"type": "bool", "default": False},
    "templates_dir": {"type": "path"},
    "address": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": 8000},
    "health_from": HEALTH_FROM,
    "hold": {"type": "int", "default": 60},
    "queue": {"type": "int", "default": 1000},
    "queue_timeout": {"type": "int", "default": 600},
    "stream_timeout": {"type": "int", "default": 600},
    "max_body": {"type": "int", "default": 30},
    "max_connections": {"type": "int", "default": 4000},
    "keys_file": {"type": "path", "default": ""},
    "backend_key_file": {"type": "path", "default": ""},
    "tls_certificate": {"type": "path", "default": ""},
    "affinity": {"type": "bool", "default": True},
    "metrics_address": {"type": "str", "default": "127.0.0.1"},
    "metrics_port": {"type": "int", "default": 8405},
    "job": {"type": "dict"},
}

INFO_OPTIONS = {
    name: GATEWAY_OPTIONS[name] for name in ("home", "manager", "address", "port", "health_from", "tls_certificate")
}

HANDOVER_OPTIONS = {
    "step": {
        "type": "str",
        "choices": ["meeting", "leaving", "arriving", "relieving", "stopping", "stopped", "counted"],
        "required": True,
    },
    "hosts": {"type": "dict", "default": {}},
    "batch": {"type": "list", "elements": "str", "default": []},
    "instances": {"type": "list", "elements": "str"},
    "gateway": {"type": "dict", "required": True},
    "seconds": {"type": "int", "default": 30},
    "before": {"type": "list", "elements": "dict"},
    "job": {"type": "dict"},
}
