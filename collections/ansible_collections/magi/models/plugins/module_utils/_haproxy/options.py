# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The arguments of the module model_gateway, for it and its action plugin. Pure."""

from __future__ import annotations

from ansible_collections.magi.models.plugins.module_utils._base.managers import CHOICES

HEALTH_FROM = {"type": "str", "choices": ["auto", "controller", "host"], "default": "auto"}
GATEWAY_OPTIONS = {
    "state": {"type": "str", "choices": ["present", "absent", "remembered"], "default": "present"},
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
    "max_body": {"type": "int", "default": 32},
    "max_connections": {"type": "int", "default": 4000},
    "job": {"type": "dict"},
}
