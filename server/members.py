"""Who may take part now: a live view of the operator's trust file and of its suspensions, read again when they change.

Asked on every call at every public door, so that a site which is out is out at its next call, on whatever connection.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from compliance.clock import now, parse_time, rfc3339
from compliance.errors import Refused, ResidencyError
from compliance.pki import SiteCertificate
from compliance.trust.home import OperatorHome
from compliance.trust.root import Anchor, open_trust
from server.nodes import normal_public_key

_Seen: TypeAlias = tuple[tuple[str, int, int, int], ...]
_SECOND: Final = timedelta(seconds=1)
_NEXT: Final = "ask the operator, and the other sites, which trust file holds"


@dataclass(frozen=True)
class _View:
    """What the files said when they were read. `agents`: site -> when its agent keys may sign."""

    seen: _Seen
    anchor: Anchor | None
    fault: ResidencyError | None
    expires: datetime | None
    keys: dict[str, bytes]
    agents: dict[str, tuple[tuple[datetime, datetime], ...]]
    suspended: frozenset[str]


class Members:
    """The consortium's members as the operator at `home` knows them at this moment. Thread-safe; opens no log."""

    def __init__(self, home: Path) -> None:
        self._home = OperatorHome(home)
        self._lock = threading.Lock()
        self._view: _View | None = None

    def anchor(self) -> Anchor | None:
        """The installed trust file; None before the first one.

        Raises CheckFailed RSD-6002 (too few signatures), Refused RSD-6013 (expired), InputError RSD-6001.
        """
        view = self._look()
        if view.fault is not None:
            raise view.fault
        if view.anchor is not None and view.expires is not None and now() > view.expires:
            raise _expired(view.anchor)
        return view.anchor

    def site_of(self, certificate: SiteCertificate) -> str:
        """The member that this certificate belongs to and that may take part now.

        Raises Refused RSD-6205 (no such member, or another consortium), RSD-6206 (not the key in the trust file),
        RSD-6207 (suspended), RSD-6208 (certificate out of date), RSD-6209 (agent key revoked or out of its period),
        RSD-6210 (no trust file yet), RSD-6013 (trust file expired); RSD-6210 also for a trust file that is damaged.
        """
        view, site, at = self._look(), certificate.site, now()
        anchor = self._usable(view, at)
        if certificate.consortium != anchor.trust.consortium:
            raise _refused(
                "RSD-6205", "this certificate is of another consortium", certificate.consortium, anchor.trust.consortium
            )
        _check_period(certificate, at)
        reason = self._why_not(view, anchor, site, at)
        if reason is not None:
            raise reason
        if view.keys[site] != certificate.public_key:
            raise _refused(
                "RSD-6206", f"this certificate does not hold the node key of {site}", "another key", "the key in the"
                " trust file", next="the site uses the certificate of its newest enrolment",
            )  # fmt: skip
        return site

    def usable(self) -> Anchor:
        """The installed trust file. Raises Refused RSD-6210 (none, or a damaged one), RSD-6013 (expired)."""
        return self._usable(self._look(), now())

    def removed(self, site: str) -> Refused | None:
        """Why `site` may not take part now: RSD-6205, 6207, 6209, 6210, 6013 as in `site_of`; None if it may."""
        try:
            view, at = self._look(), now()
            return self._why_not(view, self._usable(view, at), site, at)
        except Refused as e:
            return e

    def node_keys(self) -> dict[str, bytes]:
        """Site -> node key (PEM) of every member, suspended or not; empty without a sound trust file."""
        return dict(self._look().keys)

    def _usable(self, view: _View, at: datetime) -> Anchor:
        if view.fault is not None:
            raise _refused("RSD-6210", "the operator's trust file cannot be used", view.fault.code, "a sound file")
        if view.anchor is None or view.expires is None:
            raise _refused("RSD-6210", "no trust file is installed yet", "none", "a trust file signed by the sites")
        if at > view.expires:
            raise _expired(view.anchor)
        return view.anchor

    def _why_not(self, view: _View, anchor: Anchor, site: str, at: datetime) -> Refused | None:
        if site not in view.keys:
            limit = ", ".join(s.name for s in anchor.trust.sites)
            return _refused("RSD-6205", f"{site} is no member with a node key", site, limit)
        if site in view.suspended:
            return _refused(
                "RSD-6207", f"the operator has suspended {site}", "suspended", "not suspended",
                next="ask the operator for the reason: it stands in the operator's log",
            )  # fmt: skip
        if not any(start <= at <= end for start, end in view.agents[site]):
            return _refused("RSD-6209", f"{site} has no agent key that is valid now", "revoked or ended", "a valid key")
        return None

    def _look(self) -> _View:
        seen = self._stamp()
        with self._lock:
            if self._view is None or self._view.seen != seen:
                self._view = self._read(seen)
            return self._view

    def _stamp(self) -> _Seen:
        """Name, inode, size and time of each file: `write_durably` gives every new content a new inode."""
        found = []
        paths = [self._home.trust_file]
        if self._home.suspended.is_dir():
            paths += sorted(self._home.suspended.glob("*.json"))
        for path in paths:
            try:
                stat = os.stat(path)  # noqa: PTH116 - asked on every call
            except FileNotFoundError:
                continue
            found.append((path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(found)

    def _read(self, seen: _Seen) -> _View:
        # Whatever lies there suspends, readable or not: a damaged file must not let a site in again.
        suspended = frozenset(p.stem for p in self._home.suspended.glob("*.json"))
        nothing = _View(seen, None, None, None, {}, {}, suspended)
        if not self._home.trust_file.exists():
            return nothing
        try:
            anchor = open_trust(self._home.trust_file.read_bytes(), str(self._home.trust_file))
            keys = {s.name: normal_public_key(s.node_key.encode("ascii")) for s in anchor.trust.sites if s.node_key}
        except ResidencyError as e:
            return _View(seen, None, e, None, {}, {}, suspended)
        agents = {name: _periods(anchor, name) for name in keys}
        return _View(seen, anchor, None, parse_time(anchor.trust.expires), keys, agents, suspended)


def _periods(anchor: Anchor, site: str) -> tuple[tuple[datetime, datetime], ...]:
    """When each agent key of the site may sign, ends included."""
    found = []
    for key in anchor.trust.keys_of("agent", site):
        end = parse_time(key.not_after)
        if key.revoked_at is not None:
            end = min(end, parse_time(key.revoked_at) - _SECOND)
        found.append((parse_time(key.not_before), end))
    return tuple(found)


def _check_period(certificate: SiteCertificate, at: datetime) -> None:
    if not certificate.not_before <= at <= certificate.not_after:
        raise _refused(
            "RSD-6208", f"the certificate of {certificate.site} is not valid now", rfc3339(at),
            f"{rfc3339(certificate.not_before)} to {rfc3339(certificate.not_after)}",
            next="fetch a new certificate: residency agent start renews it, or residency consortium admit",
        )  # fmt: skip


def _expired(anchor: Anchor) -> Refused:
    return _refused(
        "RSD-6013", "the operator's trust file has expired", rfc3339(now()), anchor.trust.expires,
        next="issue the next version of the trust file: residency consortium admit",
    )  # fmt: skip


def _refused(code: str, message: str, found: str, limit: str, next: str = _NEXT) -> Refused:
    return Refused(code, message, rule="the doors serve members of the trust file", found=found, limit=limit, next=next)
