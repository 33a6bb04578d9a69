#!/usr/bin/env python3
"""Write docs/reference.md from the modules' documentation and the roles' argument_specs, as ansible-doc reads them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COLLECTION = "magi.models"


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
    return "\n".join(lines).replace(str(ROOT), ".") + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(reference())
