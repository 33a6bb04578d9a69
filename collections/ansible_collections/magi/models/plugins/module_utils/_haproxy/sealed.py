# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A configuration and the secret files beside it, under one revision. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

SECRETS = "secrets"
"""The folder of secret files, in that of the gateway."""
BACKEND_KEY = "backend.map"
"""The secret file with the servers' key."""
CERTIFICATE = "tls.pem"
"""The secret file with the gateway's certificate and its key."""
UNSEALED = "0" * 16
"""What stands for the revision until there is one."""
_REVISION = re.compile(r"^(\s+description magi )[0-9a-f]{16}$", re.MULTILINE)


def sealed(files: Mapping[str, str], secrets: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the revision of a configuration with its secrets, and its files, which say it: a change of either is a
    change of what should run."""
    plain = {**files, "haproxy.cfg": _REVISION.sub(r"\g<1>", files["haproxy.cfg"])}
    digest = hashlib.sha256(json.dumps([plain, secrets], sort_keys=True).encode()).hexdigest()[:16]
    return digest, {**files, "haproxy.cfg": _REVISION.sub(rf"\g<1>{digest}", files["haproxy.cfg"])}
