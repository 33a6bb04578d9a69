"""What should never happen: kept in a file that helps to fix it."""

from __future__ import annotations

import traceback

from magi.state.folder import state_folder


def defect(error: BaseException) -> str:
    """Return a sentence for an internal error, with the path of the trace."""
    sentence = f"Internal error ({type(error).__name__}: {' '.join(str(error).split())})"
    try:
        path = state_folder() / "defect.log"
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return f"{sentence}: please report it."
    return f"{sentence}: please report it with {path}."
