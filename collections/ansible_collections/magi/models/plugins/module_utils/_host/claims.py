# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The deployments that claim a host, in the order in which they came. Their controllers decide by it who goes on
(_fleet.precedence); they are in a small file, which is locked for a moment at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.files import writing
from ansible_collections.magi.models.plugins.module_utils._base.locked import locked
from ansible_collections.magi.models.plugins.module_utils._host.lock import ConflictError
from ansible_collections.magi.models.plugins.module_utils._host.values import Claim

RUN = Path("/run")


def claims_file(home: str) -> Path:
    """Return the file of the claims to ``home``: below /run, which a restart empties, if we may write there."""
    if os.geteuid() == 0 and os.access(RUN, os.W_OK):
        return RUN / "magi" / f"{hashlib.sha256(os.path.realpath(home).encode()).hexdigest()[:16]}.claims"
    return Path(home) / "claims"


def make_claim(home: str, mine: Claim) -> tuple[Claim, tuple[Claim, ...]]:
    """Claim ``home``; return our claim, and those of others that came before. One that no longer holds counts as ended,
    and is forgotten. A deployment that claims once more keeps its place. Raises FileWriteError."""
    path = claims_file(home)
    with _opened(path, create=True) as descriptor:
        mine = replace(mine, at=time.time())
        there = _read(descriptor)
        place = _place(there, mine)
        before, after = ([item for item in part if not item.same(mine)] for part in (there[:place], there[place:]))
        _write(descriptor, [*_holding(before, mine.at), mine, *_holding(after, mine.at)])
    return mine, tuple(item if item.holds(mine.at) else replace(item, ended=True) for item in before)


def check_claim(home: str, mine: Claim, unreached: Sequence[str], patience: float = 0) -> None:
    """Raise ConflictError if ``mine`` is gone, or if a later deployment may go on, since we could not claim the host
    that decides between the two (one of ``unreached``). That deployment gets ``patience`` seconds to give way."""
    deadline = time.monotonic() + patience
    while True:
        there = _now(home)
        place = _place(there, mine)
        others = [item for item in there if not (item.same(mine) or item.ended) and item.holds(time.time())]
        if place == len(there):
            lost = "this deployment has lost its claim to the host, which was restarted or deployed since; run again"
            raise ConflictError(f"{others[-1].sentence if others else lost}.")
        rival = next((item for item in others if item in there[place:] and mine.decider(item) in unreached), None)
        if rival is None:
            return
        if time.monotonic() > deadline:
            raise ConflictError(f"{rival.sentence}.")
        time.sleep(0.2)


def end_claim(home: str, mine: Claim) -> None:
    """Say that the deployment of ``mine`` has ended on this host. Raises FileWriteError."""
    _change(home, lambda there: [replace(item, hosts=(), ended=True) if item.same(mine) else item for item in there])


def forget_claims(home: str, gone: Sequence[Claim]) -> None:
    """Remove the claims of deployments that are ``gone``. Raises FileWriteError."""
    _change(home, lambda there: [item for item in there if not any(item.same(other) for other in gone)])


def _place(claims: Sequence[Claim], mine: Claim) -> int:
    """Return the place of ``mine`` in a row; if it is not there, or has ended, the one behind the last."""
    return next((at for at, item in enumerate(claims) if item.same(mine) and not item.ended), len(claims))


def _holding(claims: Iterable[Claim], now: float) -> list[Claim]:
    return [item for item in claims if item.holds(now)]


def _now(home: str) -> list[Claim]:
    with _opened(claims_file(home)) as descriptor:
        return [] if descriptor is None else _read(descriptor)


def _change(home: str, change: Callable[[list[Claim]], list[Claim]]) -> None:
    with _opened(claims_file(home)) as descriptor:
        if descriptor is not None:
            _write(descriptor, change(_read(descriptor)))


@contextlib.contextmanager
def _opened(path: Path, *, create: bool = False) -> Iterator[int | None]:
    """Hold the lock of the file; without ``create``, there may be none."""
    with writing(path), locked(path, create=create) as descriptor:
        yield descriptor


def _read(descriptor: int) -> list[Claim]:
    """Return the claims; none if the file is new, or was written by another version."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return [Claim.from_dict(item) for item in json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))]
    return []


def _write(descriptor: int, claims: Iterable[Claim]) -> None:
    """Overwrite the file in place, which works on a full disk too. Blanks over the rest: a kill may come in between."""
    data = json.dumps([asdict(item) for item in claims]).encode()
    written = os.pwrite(descriptor, data.ljust(os.fstat(descriptor).st_size), 0)
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, len(data))
