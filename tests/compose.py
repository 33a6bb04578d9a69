"""What containers/compose.yml makes of its service, as arguments of `docker run`: compose itself is not everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .playbook import ROOT

FILE = ROOT / "containers" / "compose.yml"


def service(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the service ``magi`` with these variables of .env or of compose's own environment (compose-spec,
    Interpolation)."""
    text = json.dumps(yaml.safe_load(FILE.read_text())["services"]["magi"])
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: values.get(match[1]) or match[2], text)
    found: dict[str, Any] = json.loads(text)
    return found


def run_arguments(found: dict[str, Any], folders: Mapping[str, Path]) -> list[str]:
    """Return the arguments of `docker run` for a service, image and command included. ``folders`` take the place of
    named volumes, and of paths on this machine."""
    rest = dict(found)
    arguments = [f"--user={rest.pop('user')}", f"--network={rest.pop('network_mode')}", f"--pid={rest.pop('pid')}"]
    arguments += [f"--env={name}={value}" for name, value in rest.pop("environment").items()]
    arguments += [f"--cap-add={name}" for name in rest.pop("cap_add")]
    for volume in rest.pop("volumes"):
        source, _colon, target = volume.partition(":")
        arguments += ["--volume", f"{folders.get(source, source)}:{target}"]
    program, *words = rest.pop("entrypoint")
    image = rest.pop("image")
    assert {*rest} == {"build", "restart"}, "say what these are for docker run"
    return [*arguments, f"--entrypoint={program}", image, *words]
