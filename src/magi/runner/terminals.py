"""The terminal that ansible-runner gives Ansible, by pexpect and ptyprocess."""

from __future__ import annotations


def close_at_once() -> None:
    """Leave out ptyprocess's pause before it looks whether the program of a terminal that it closes still runs: when
    ansible-runner closes one, it has waited for its end. For all of this process, so not for who imports Controller."""
    from ptyprocess import PtyProcess

    PtyProcess.delayafterclose = property(lambda self: 0, lambda self, seconds: None)
