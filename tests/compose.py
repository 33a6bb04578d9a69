"""What containers/compose.yml makes of its service, as arguments of `docker run`: compose itself is not everywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .playbook import ROOT

FILE = ROOT / "containers" / "compose.yml"


def service(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the service ``magi`` with the variables of .env or of compose's own environment (compose-spec,
    Interpolation and environment)."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: values.get(match[1]) or match[2], FILE.read_text())
    found = yaml.safe_load(text)["services"]["magi"]
    given = {name: values.get(name) if value is None else value for name, value in found["environment"].items()}
    return {**found, "environment": {name: value for name, value in given.items() if value is not None}}


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
