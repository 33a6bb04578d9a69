"""magi over HTTP. Needs the extra ``serve`` of the package."""

from magi.web.api import router
from magi.web.service import Service

__all__ = ["Service", "router"]
