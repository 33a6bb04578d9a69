# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are not yet, or no longer, GGUF files, by their names: half downloads, pieces, archives. Pure."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from ansible_collections.magi.models.plugins.module_utils._base.text import printable

_UNFINISHED = "is a download that still runs or was cut short; wait for it, or download it again"
# What downloaders append while they work; aria2 keeps a control file with its ending beside the real file.
_ENDINGS = (
    "part|partial|incomplete|download|downloading|downloadinprogress|crdownload|opdownload|filepart|tmp|temp|unfinished"
    "|aria2|!ut|!qb|!bt|bc!|!sync|td|xltd|st|ytdl|curl|wget"
)
_GGUF = re.compile(r"(?P<stem>.+?)\.gguf(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_PARTIAL = re.compile(rf"([.-][\w-]+)*\.({_ENDINGS})", re.IGNORECASE)
_ARCHIVE = re.compile(r"(\.tar)?\.(zip|gz|bz2|xz|zst|lz4|br|7z|rar|tar|tgz)(\.\d+)?", re.IGNORECASE)
_PIECE = re.compile(
    r"(?P<before>[._-](split|part|piece|chunk)[._-]?)(?P<nth>\d{1,4}|[a-z]{1,3})([._-]?of[._-]?(?P<of>\d+))?"
    r"|(?P<dot>[._-])((?P<number>\d{2,4})([._-]?of[._-]?\d+)?|(?P<letters>[a-z]|x?a[a-z]))",
    re.IGNORECASE,
)
_PUT_ASIDE = re.compile(r"([._-](bak|backup|old|orig|save|saved|disabled|off|unused))+\d?|\.\d|~", re.IGNORECASE)
# What they put in front: GPT4All, LM Studio, Syncthing.
_BEFORE = re.compile(r"(?P<unfinished>incomplete-|downloading_|\.syncthing\.|~syncthing~)(?=.)", re.IGNORECASE)


class Remains(NamedTuple):
    """What a file is: its model's name, a code, and the rest of the sentence after the path."""

    name: str
    code: str
    what: str


def remains_of(name: str) -> Remains | None:
    """What the file with this name is; None for a GGUF file, and for one that has nothing to do with GGUF."""
    before = _BEFORE.match(name)
    plain = name[before.end() :] if before else name
    match = _GGUF.fullmatch(plain)
    if not match:
        return None
    stem, rest = match["stem"], match["rest"]
    if before or _PARTIAL.fullmatch(rest) or (name.startswith(".") and re.fullmatch(r"\.\w{6}", rest)):  # rsync
        return Remains(stem.lstrip(".") or stem, "partial_download", _UNFINISHED)
    if _ARCHIVE.fullmatch(rest):
        return Remains(stem, "archive", "is an archive of a GGUF file; unpack it")
    piece = _PIECE.fullmatch(rest)
    if piece:
        whole = plain[: match.start("rest")]
        start = whole + (piece["before"] or piece["dot"])
        nth = piece["nth"] or piece["number"] or piece["letters"]
        return Remains(stem, "piece", f"is a piece of a model; {_joining(start, nth, piece['of'], whole)}")
    if _PUT_ASIDE.fullmatch(rest):
        return Remains(stem, "put_aside", "has a name that sets it aside; rename it to end in .gguf to serve it")
    return None


def _joining(start: str, nth: str, of: str | None, whole: str) -> str:
    """How to join the pieces of ``whole`` whose names go on with numbers or letters like ``nth`` after ``start``."""
    pieces = f"{_quoted(start)}{'[0-9]' if nth.isdigit() else ''}*"
    command = f"cat {pieces} > {_quoted(whole)}"
    if nth.isdigit() and not re.match(r"0\d", nth) and len(of or "10") > 1:  # a shell sorts 10 before 2
        command = f"printf '%s\\0' {pieces} | sort -zV | xargs -0 cat > {_quoted(whole)}"
    return f"join all pieces in order, in their folder ({command})"


def _quoted(name: str) -> str:
    return shlex.quote(printable(f"./{name}" if name.startswith("-") else name))
