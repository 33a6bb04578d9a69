# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Trying options with the parser of the host's own llama-server, before anything is touched."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._plan.options import (
    InstanceError,
    environment_and_args,
    resolve_options,
)
from ansible_collections.magi.models.plugins.module_utils._services.manager import ServiceManager


def try_options(
    manager: ServiceManager, binary: Binary, sets: Iterable[Mapping[str, Any]], environment: Mapping[str, str]
) -> tuple[str, ...]:
    """Return for each set of options what ``binary``, run as ``manager`` does, says against it; an empty string where
    it takes it.

    llama-server handles all variables and arguments before it prints its version (common/arg.cpp), and ends with 1 and
    the reason where one is wrong: 5 ms. What it does not say in time, and what the plan refuses, is not told here.
    """

    def said(options: Mapping[str, Any]) -> str:
        with contextlib.suppress(InstanceError, OSError, subprocess.TimeoutExpired):
            variables, arguments = environment_and_args(binary, resolve_options(binary, [("", options)]))
            done = manager.ask(binary.path, [*arguments, "--version"], {**environment, **variables})
            if done.returncode == 1:
                return next((line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()), "")
        return ""

    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(said, sets))
