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
    r"(?P<same>[._-](split|part|piece|chunk)[._-]?)(\d{1,4}|[a-z]{1,3})([._-]?of[._-]?\d+)?"
    r"|(?P<plain>[._-])(\d{2,4}([._-]?of[._-]?\d+)?|[a-z]|x?a[a-z])",
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
        start = whole + (piece["same"] or piece["plain"])
        shown = f"cat {shlex.quote(printable(start))}* > {shlex.quote(printable(whole))}"
        return Remains(stem, "piece", f"is a piece of a model; join all pieces in order: {shown}")
    if _PUT_ASIDE.fullmatch(rest):
        return Remains(stem, "put_aside", "has a name that sets it aside; rename it to end in .gguf to serve it")
    return None
