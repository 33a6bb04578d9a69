# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A long command whose output goes to a log at once, which AnsibleModule.run_command can't do."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def run_into(log: Path, argv: Sequence[str | os.PathLike[str]], inherit: int, still_wanted: Callable[[], None]) -> int:
    """Run a command, append its output to the log, and return its exit status.

    inherit: a file descriptor that the command keeps open, such as that of a lock.
    still_wanted: called several times a second; if it raises, the command is ended.
    """
    with log.open("a") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=[inherit]
        )
        try:
            while process.poll() is None:
                still_wanted()
                time.sleep(0.2)
        finally:
            process.terminate()
            process.wait()
    return process.returncode
