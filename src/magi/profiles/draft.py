"""The text of a new profile."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from magi.domain import PROFILE_NAME, printable
from magi.errors import ProfileError
from magi.state.catalog import Known


def scalar(text: str) -> str:
    """Return ``text`` as YAML that is read back as the same string, quoted only if necessary."""
    try:
        plain = bool(re.fullmatch(r"[\w.-]+", text, re.ASCII)) and yaml.safe_load(text) == text
    except (yaml.YAMLError, ValueError):
        plain = False
    return text if plain else json.dumps(text)


def draft(name: str, hosts: Sequence[Known]) -> str:
    """Return the text of a profile that enables every model of ``hosts``, with comments on what else it can do.

    Depends on nothing but its arguments. Raises ProfileError for a name that can't be one, and without models.
    """
    if not PROFILE_NAME.fullmatch(name):
        raise ProfileError(f"A profile's name has letters, digits, '.', '_' and '-', unlike {name!a}.")
    models: dict[tuple[str, str], tuple[Mapping[str, Any], list[str]]] = {}
    for host in sorted(hosts, key=lambda host: host.name):
        for model in host.models:
            models.setdefault((model["tier"], model["id"]), (model, []))[1].append(host.name)
    if not models:
        raise ProfileError("No model is known: run magi discover, or name a registry with --registry.")
    lines = [
        f"# Every model of {', '.join(sorted(host.name for host in hosts))}. Remove what you don't want to serve.",
        f"name: {scalar(name)}",
        "description: Every discovered model",
        "enabled_models:",
    ]
    tier = None
    for (this, model_id), (model, where) in sorted(models.items()):
        if this != tier:
            lines.append(f"  # {printable(this)}; all of this tier, whatever is found: - tier: {printable(this)}")
            tier = this
        size = f"{model['size_bytes'] / 2**30:.1f} GiB"
        on = f", only on {', '.join(where)}" if len(where) < len(hosts) else ""
        lines.append(f"  - {scalar(model_id)}  # {printable(model['display_name'])}, {size}{on}")
    example = scalar(min(models)[1])
    lines += [
        "  # Two instances of one model, the first on a fixed port, with options of llama-server:",
        f"  # - model: {example}",
        "  #   instances: 2",
        "  #   port: 8080",
        "  #   options: {ctx_size: 8192}",
        "  #   devices: [CUDA0]  # or how many, such as 2; without it, each gets the GPU that fits it best",
        "  #   aliases: [chat]  # further names by which clients may ask for it",
        "  #   idle: 10m  # it frees its memory after that time without a request, and wakes at the next one",
        "  # Two instances over all hosts together, or over those of a pattern, moved if a host is gone:",
        f"  # - {{model: {example}, replicas: 2, hosts: all}}",
        "  # One too large for any host, served by that which has it and computed with others (docs/profiles.md):",
        f"  # - {{model: {example}, rpc: [gpu2, gpu3]}}",
        "# Models that take turns in memory: one server loads them when asked for, at most so many at a time:",
        "# pools:",
        '#   - {name: spare, models: ["*-q8_0"], loaded: 1}',
        "# For every instance; the long options of llama-server, with underscores:",
        "# options: {parallel: 2}",
        "# And their variables, such as which GPUs they see:",
        '# environment: {CUDA_VISIBLE_DEVICES: "0"}',
        "# true: fail if a model is missing or a server does not start.",
        "strict: false",
        "# A change comes to one host (or instance) first, is watched for a minute, and taken back if it does worse:",
        "# rollout: {canary: 1, bake: 60}",
    ]
    return "\n".join(lines) + "\n"
