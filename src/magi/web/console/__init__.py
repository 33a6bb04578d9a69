"""The console: the same as the API, as pages for people. It decides nothing itself."""

from magi.web.console.pages import router

__all__ = ["router"]
