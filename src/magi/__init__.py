"""The controller of magi.models: drives the collection's playbooks through ansible-runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magi.controller import Controller, Report, Server

__version__ = "0.1.0"
"""That of the collection too."""

__all__ = ["Controller", "Report", "Server"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the command line must answer --help at once."""
    if name in __all__:
        from magi import controller

        return getattr(controller, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
