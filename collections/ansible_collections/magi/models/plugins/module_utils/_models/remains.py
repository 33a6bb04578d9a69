# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are not yet, or no longer, GGUF files, by their names: half downloads, pieces, archives, models in another
format. Pure."""

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
_COPY = r"(?: ?\(\d+\)| - copy| copy)"
_PARTIAL = re.compile(rf"{_COPY}?([.-][\w-]+)*\.({_ENDINGS})|[?@].*\.({_ENDINGS})", re.IGNORECASE)
_SHARD = re.compile(r"-(?P<nth>\d{5})-of-\d{5}")
_PIECE = re.compile(
    r"(?P<before>[._-](split|part|piece|chunk)[._-]?)(?P<nth>\d{1,4}|[a-z]{1,3})([._-]?of[._-]?(?P<of>\d+))?"
    r"|(?P<dot>[._-])((?P<number>\d{2,4})([._-]?of[._-]?\d+)?|(?P<letters>[a-z]|x?a[a-z]))",
    re.IGNORECASE,
)
_PIECE_WITH_ENDING = re.compile(
    r"(?P<stem>.+?)(?P<before>[._-](split|part|piece|chunk)[._-]?)(?P<nth>\d{1,4})(?P<after>[._-]?of[._-]?(?P<of>\d{1,4}))",
    re.IGNORECASE | re.DOTALL,
)
# What comes after .gguf, the code, and the rest of the sentence.
_AFTER = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), code, what)
    for pattern, code, what in (
        (  # as wget writes it, on Windows with @
            r"(\?|@|%3f)[\w-]+=.*",
            "misnamed",
            "has the query of its address in its name; rename it to {whole}",
        ),
        (
            r"(\.tar)?\.(zip|gz|bz2|xz|zst|lz4|br|7z|rar|tar|tgz)",
            "archive",
            "is an archive of a GGUF file; unpack it",
        ),
        (
            r"(\.tar)?(\.part\d+\.rar|\.[rz]\d\d|\.(zip|7z|rar|gz|tar)\.\d+)",
            "archive",
            "is a part of an archive; unpack the first part, with all others beside it",
        ),
        (r"\.html?", "web_page", "is a saved web page, not the model; download the model from its direct link"),
        (
            r"\.txt",
            "put_aside",
            "is a text, or a model to whose name a browser added .txt; if it is the model, rename it to {whole}",
        ),
        (
            _COPY,
            "put_aside",
            "is a second copy by its name; remove it, or rename it to end in .gguf to serve it",
        ),
        (
            r"([._-](bak|backup|old|orig|save|saved|disabled|off|unused))+\d?|\.\d|~",
            "put_aside",
            "has a name that sets it aside; rename it to end in .gguf to serve it",
        ),
    )
)
# What they put in front: GPT4All, LM Studio, Syncthing.
_BEFORE = re.compile(r"(?P<unfinished>incomplete-|downloading_|\.syncthing\.|~syncthing~)(?=.)", re.IGNORECASE)
_CONVERTIBLE = re.compile(
    r"(?P<stem>.+?)(-0*(?P<nth>\d+)-of-\d{5})?\.(?:safetensors|bin|pt|pth)", re.IGNORECASE | re.DOTALL
)
_GENERIC = re.compile(r"(pytorch_|diffusion_pytorch_)?model|consolidated(\.\d+)?|ggml-model.*", re.IGNORECASE)
_NO_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|rng_state.*|random_states.*|adapter_model|.*(tokenizer|vocab|embedding).*)",
    re.IGNORECASE,
)


class Remains(NamedTuple):
    """What a file is: its model's name, a code, and the rest of the sentence after the path."""

    name: str
    code: str
    what: str


def remains_of(name: str, folder: str = "") -> Remains | None:
    """What the file with this name is; None for a GGUF file, and for one that has nothing to do with GGUF.

    ``folder`` is the name of its folder or repository, after which models are called that are all ``model``.
    """
    before = _BEFORE.match(name)
    plain = name[before.end() :] if before else name
    match = _GGUF.fullmatch(plain)
    if not match:
        return _convertible(name, folder)
    stem, rest = match["stem"], match["rest"]
    if before or _PARTIAL.fullmatch(rest) or (name.startswith(".") and re.fullmatch(r"\.\w{6}", rest)):  # rsync
        return Remains(stem.lstrip(".") or stem, "partial_download", _UNFINISHED)
    if not rest:
        return _piece_with_ending(stem, plain[len(stem) :])
    whole = plain[: match.start("rest")]
    for pattern, code, what in _AFTER:
        if pattern.fullmatch(rest):
            return Remains(stem, code, what.format(whole=printable(whole)))
    piece, shard = _PIECE.fullmatch(rest), _SHARD.fullmatch(rest)
    if piece:
        start = whole + (piece["before"] or piece["dot"])
        nth = piece["nth"] or piece["number"] or piece["letters"]
        return Remains(stem, "piece", f"is a piece of a model; {_joining(start, nth, piece['of'], whole)}")
    if shard:
        right = printable(f"{stem}{rest}.gguf")
        joined = _joining(f"{whole}-", shard["nth"], None, whole)
        what = f"is a shard or a piece of a model; if it begins with GGUF, rename it to {right}, or else {joined}"
        return Remains(stem, "piece", what)
    return None


def _piece_with_ending(stem: str, ending: str) -> Remains | None:
    """What ``x.part1of2.gguf`` is, if its content is not that of a whole file."""
    piece = _PIECE_WITH_ENDING.fullmatch(stem)
    if not piece or int(piece["of"]) < 2:
        return None
    start, after = piece["stem"] + piece["before"], piece["after"] + ending
    joined = _joining(start, piece["nth"], piece["of"], piece["stem"] + ending, after)
    return Remains(piece["stem"], "piece", f"is a piece of a model; {joined}")


def _convertible(name: str, folder: str) -> Remains | None:
    """What a model in another format is; of several files, the first stands for all."""
    match = _CONVERTIBLE.fullmatch(name)
    if not match or int(match["nth"] or 1) != 1 or _NO_WEIGHTS.fullmatch(match["stem"]):
        return None
    called = folder if folder and _GENERIC.fullmatch(match["stem"]) else match["stem"]
    what = "is not GGUF and has to be converted, by llama.cpp's convert_hf_to_gguf.py; or download the model as GGUF"
    return Remains(called, "unconverted", what)


def _joining(start: str, nth: str, of: str | None, whole: str, after: str = "") -> str:
    """How to join the pieces of ``whole``, whose names have numbers or letters like ``nth`` between ``start`` and
    ``after``."""
    pieces = f"{_quoted(start)}{'[0-9]' if nth.isdigit() else ''}*{shlex.quote(printable(after)) if after else ''}"
    command = f"cat {pieces} > {_quoted(whole)}"
    if nth.isdigit() and not re.match(r"0\d", nth) and len(of or "10") > 1:  # a shell sorts 10 before 2
        command = f"printf '%s\\0' {pieces} | sort -zV | xargs -0 cat > {_quoted(whole)}"
    return f"join all pieces in order, in their folder ({command})"


def _quoted(name: str) -> str:
    return shlex.quote(printable(f"./{name}" if name.startswith("-") else name))
