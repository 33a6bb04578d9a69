"""The terminal that ansible-runner gives Ansible, by pexpect and ptyprocess."""

from __future__ import annotations


def close_at_once() -> None:
    """Skip ptyprocess's pause when it closes a terminal, after which it checks that the program has ended:
    ansible-runner has already waited for that. This affects the whole process, so it is not for programs that import
    Controller."""
    from ptyprocess import PtyProcess

    PtyProcess.delayafterclose = property(lambda self: 0, lambda self, seconds: None)
