#!/usr/bin/env python3
"""Write docs/reference.md from the modules' documentation and the roles' argument_specs, as ansible-doc reads them, and
from the routes of magi serve; docs/magi.1 from the command line; and docs/alerts.md from Prometheus's rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COLLECTION = "magi.models"
sys.path.append(str(ROOT / "collections"))


def ansible_doc(*arguments: str) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("ansible-doc")), "--json", "--playbook-dir", str(ROOT), *arguments]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def text(value: str | list[str]) -> str:
    """Return documentation markup as Markdown."""
    joined = " ".join(value if isinstance(value, list) else [value])
    return re.sub(r"\b[A-Z]{1,2}\((?:ignore:)?((?:[^()]|\([^()]*\))*)\)", r"`\1`", joined).replace("|", "\\|").strip()


def option_rows(options: dict[str, Any]) -> list[str]:
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for name, option in sorted(options.items()):
        default = option.get("default")
        shown = "required" if option.get("required") else "" if default is None else f"`{json.dumps(default)}`"
        rows.append(f"| `{name}` | {option.get('type', 'str')} | {shown} | {text(option.get('description', ''))} |")
    return rows


def reference() -> str:
    lines = [
        "# Reference",
        "",
        "Written by `docs/generate.py` from the code; `ansible-doc` shows the same.",
        "",
        "## Modules",
    ]
    names = sorted(ansible_doc("--list", "-t", "module", COLLECTION))
    for name, page in sorted(ansible_doc("-t", "module", *names).items()):
        doc = page["doc"]
        lines += ["", f"### {name}", "", f"{text(doc['short_description'])}.", "", text(doc["description"])]
        if doc.get("options"):
            lines += ["", *option_rows(doc["options"])]
        lines += ["", "```yaml", page["examples"].strip(), "```", "", "Returns:", ""]
        lines += [f"- `{key}`: {text(value['description'])}" for key, value in (page.get("return") or {}).items()]
    lines += ["", "## Roles"]
    for name, page in sorted(ansible_doc("-t", "role", "--list", COLLECTION).items()):
        role = ansible_doc("-t", "role", name)[name]["entry_points"]
        lines += ["", f"### {name}", ""]
        lines += [f"- `{entry}`: {text(spec)}" for entry, spec in page["entry_points"].items()]
        lines += ["", *option_rows(role["main"].get("options", {}))]
    lines += ["", "## HTTP API", "", "Of `magi serve` ([serve.md](serve.md)).", "", *api_rows()]
    return "\n".join(lines).replace(str(ROOT), ".") + "\n"


def api_rows() -> list[str]:
    from magi.web.api import PARTS

    rows = ["| request | role | meaning |", "|---|---|---|"]
    for route in (route for part in PARTS for route in part.routes):
        (method,) = route.methods
        meaning = " ".join(route.description.split("\n\n")[0].split())
        rows.append(f"| `{method} {route.path}` | {route.needed} | {meaning} |")
    return rows


def manual() -> str:
    """Return the man page of magi (man-pages(7), groff_man(7))."""
    from magi import __version__
    from magi.cli import app, typer

    def roff(words: str) -> str:
        lines = " ".join(words.split()).replace("\\", "\\e").replace("-", "\\-")
        return f"\\&{lines}" if lines[:1] in (".", "'") else lines

    def options(command: Any) -> list[str]:
        lines = []
        for item in command.params:
            if item.name == "help":
                continue
            is_option = item.opts[0].startswith("-")
            names = ", ".join(item.opts) if is_option else item.name.upper()
            value = "" if not is_option or item.is_flag or item.count else f" {item.type.name.upper()}"
            lines += [".TP", f".B {roff(names + value)}", roff(item.help or "")]
        return lines

    root = typer.main.get_command(app)
    lines = [
        f'.TH MAGI 1 "" "magi.models {__version__}" "User Commands"',
        *(".SH NAME", "magi \\- roll out llama.cpp servers by naming a profile"),
        *(".SH SYNOPSIS", ".B magi", "[OPTIONS] COMMAND [ARGUMENTS]"),
        *(".SH DESCRIPTION", roff(root.help or ""), *options(root), ".SH COMMANDS"),
    ]
    for name, command in root.commands.items():
        inner = {f"{name} {part}": item for part, item in getattr(command, "commands", {}).items()}
        for title, item in (inner or {name: command}).items():
            lines += [f".SS magi {roff(title)}", roff(item.help or ""), *options(item)]
    lines += [".SH EXIT STATUS", *(line for code in exit_codes() for line in (".TP", f".B {code[0]}", roff(code[1])))]
    return "\n".join(lines) + "\n"


def exit_codes() -> list[tuple[str, str]]:
    """Return the exit codes and what they mean, from docs/controller.md."""
    page = (ROOT / "docs" / "controller.md").read_text()
    return [
        (code, meaning.replace("`", "")) for code, meaning in re.findall(r"^\| (\d+) \| (.*?) \|$", page, re.MULTILINE)
    ]


def alerts() -> str:
    """Return the runbooks."""
    from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import runbooks

    return runbooks()


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(reference())
    (ROOT / "docs" / "magi.1").write_text(manual())
    (ROOT / "docs" / "alerts.md").write_text(alerts())
