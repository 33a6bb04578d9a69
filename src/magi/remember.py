"""What `make up` was told is kept in the file .env, so that it holds from then on: which models, which llama-server."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from magi import domain
from magi.errors import MagiError, UsageError

KEPT = ("MODEL_SCAN_PATH", "LLAMA_SERVER_PATH")
_SEPARATOR = {"MODEL_SCAN_PATH": os.pathsep}


def remembered(text: str, variables: Mapping[str, str]) -> str:
    """Return the content of a file .env with these variables, an empty one taken out; the rest stays as it is. Pure."""
    lines = text.splitlines()
    for name, value in variables.items():
        line = f"{name}={_quoted(value)}"
        pattern = re.compile(rf"\s*(?:export\s+)?{name}\s*=")
        at = [number for number, known in enumerate(lines) if pattern.match(known)]
        lines = [known for number, known in enumerate(lines) if number not in at[:-1]]  # the last one counts
        at = [number for number, known in enumerate(lines) if pattern.match(known)]
        if at:
            lines[at[0] : at[0] + 1] = [line] if value else []
        elif value:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def _quoted(value: str) -> str:
    if re.fullmatch(r"[\w@%+=:,./-]*", value, re.ASCII):
        return value
    return "'" + re.sub(r"([\\'])", r"\\\1", value) + "'"


def absolute(name: str, value: str) -> str:
    """Return the path, or paths, as they are found from any folder. Raises UsageError for one that is not there."""
    paths = [Path(part).expanduser().absolute() for part in value.split(_SEPARATOR.get(name, "\0")) if part]
    for path in paths:
        if not path.exists():
            raise UsageError(f"{name}: there is no {path}; name one that is there.")
    return os.pathsep.join(map(str, paths))


def remember(file: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Write ``given`` into ``file`` and return what has changed. Raises UsageError."""
    before = domain.read_dotenv(file, os.environ) if file.is_file() else {}
    text = file.read_text(encoding="utf-8-sig") if file.is_file() else ""
    new = {name: absolute(name, value) for name, value in given.items()}
    changed = {name: value for name, value in new.items() if before.get(name, "") != value}
    if changed:
        domain.write_atomic(
            file, remembered(text, changed).encode(), 0o600 if not text else file.stat().st_mode & 0o777
        )
    return changed


def main() -> None:
    """Remember in the working directory what the environment has of KEPT; one that the command line names counts also
    where it is empty: it is forgotten."""
    given = {name: os.environ.get(name, "") for name in KEPT if os.environ.get(name) or name in sys.argv[1:]}
    try:
        changed = remember(Path(domain.DOTENV), given)
    except (MagiError, domain.DotenvError, domain.FileWriteError) as error:
        sys.exit(f"magi: {error}")
    for name, value in changed.items():
        print(f".env: {name}={value}" if value else f".env: {name} is forgotten")


if __name__ == "__main__":
    main()
