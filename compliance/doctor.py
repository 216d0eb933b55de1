"""What both doctors share: the form of a check, and decisions over facts that somebody else gathered.

A check never raises: what cannot be read is its own finding, and hides no other. A doctor writes nothing, so it may run
beside a working agent or server at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, Literal, TypeVar

from compliance.canonical import Json
from compliance.cli import Result, table
from compliance.clock import rfc3339
from compliance.errors import EnvironmentFault, ResidencyError

State = Literal["ok", "warn", "fail", "skipped"]
T = TypeVar("T")
GIB: Final = 1 << 30
STOP: Final = "stop; restore the newest backup of this file, and tell the members and the auditor"
_LONGEST: Final = 240  # characters of one text of a check


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, what it is judged by, and what to do; no patient data in any of them.

    ok: as it should be. warn: works now, and will not for ever. fail: something does not work. skipped: cannot be told
    here, because of the reason in `found`.
    """

    name: str
    state: State
    found: str
    limit: str = ""
    next: str = ""

    def as_json(self) -> dict[str, Json]:
        """The object in the JSON output: five texts."""
        return {k: _plain(getattr(self, k)) for k in ("name", "state", "found", "limit", "next")}


@dataclass(frozen=True)
class Limits:
    """What the doctors judge by.

    Days: renewing takes signatures of people, who need weeks. Disk: below 1 GiB a round's charge, entry and update may
    find no place, and nothing leaves without them; below 10 GiB the caches of the next study may not fit. Memory: a
    training process with a small encoder takes about 2 GiB. Clock: half of the five minutes by which a statement of
    another machine may lie ahead is too near; beyond them signatures and certificates are refused. Idle: sites exchange
    checkpoints within minutes.
    """

    near_end: timedelta = timedelta(days=30)
    disk_warn: int = 10 * GIB
    disk_fail: int = GIB
    memory_warn: int = 2 * GIB
    memory_fail: int = GIB // 2
    skew_warn_s: float = 60.0
    skew_fail_s: float = 300.0
    uncosigned: timedelta = timedelta(hours=1)
    token_near_end: timedelta = timedelta(days=2)


@dataclass(frozen=True)
class LogFacts:
    """How far others cosigned a log: its entries, those after the last cosigned one, the time of the first of these,
    and of the last cosignature.
    """

    size: int
    uncosigned: int
    since: datetime | None
    last: datetime | None


class Unmet(Exception):
    """A fact that a check needs could not be had; the check of that fact says why."""


class Fact(Generic[T]):
    """Something that several checks need, read once. Its own check calls `get`, the others `need`."""

    def __init__(self, name: str, read: Callable[[], T]) -> None:
        self.name = name
        self._read = read
        self._held: list[T] = []
        self._error: BaseException | None = None

    def get(self) -> T:
        """The value. Raises what reading it raised, each time."""
        if self._error is not None:
            raise self._error
        if not self._held:
            try:
                self._held.append(self._read())
            except (ResidencyError, OSError, Unmet) as e:
                self._error = e
                raise
        return self._held[0]

    def need(self) -> T:
        """The value. Raises Unmet if it cannot be had."""
        try:
            return self.get()
        except (ResidencyError, OSError) as e:
            raise Unmet(f"needs {self.name}") from e


def examine(name: str, look: Callable[[], Check | Iterable[Check]]) -> list[Check]:
    """The checks that `look` gives; an error on the way becomes the check `name`, so that it hides no other."""
    try:
        found = look()
        return [found] if isinstance(found, Check) else list(found)
    except Unmet as e:
        return [Check(name, "skipped", str(e))]
    except ResidencyError as e:
        return [failed(name, e)]
    except OSError as e:
        reason = e.strerror or type(e).__name__
        return [Check(name, "fail", reason, "a file that this user may read", "check the path and its owner")]


def failed(name: str, error: ResidencyError) -> Check:
    """An error as a check: its code and message, both values, what to do."""
    found = f"{error.code}: {error.message}" + (f" (found {error.found})" if error.found else "")
    return Check(name, "fail", found, error.limit, error.next or f"residency explain {error.code}")


def worst(states: Iterable[State]) -> State:
    """fail before warn before ok; skipped only if nothing else was found."""
    order: tuple[State, ...] = ("fail", "warn", "ok", "skipped")
    seen = set(states)
    return next((s for s in order if s in seen), "ok")


def report(site: str, checks: Sequence[Check]) -> Result:
    """The command's result: every check, how many of each state, and EnvironmentFault RSD-7200 if one fails."""
    counts = {s: sum(c.state == s for c in checks) for s in ("ok", "warn", "fail", "skipped")}
    shown = [c.as_json() for c in checks]
    columns = ("name", "state", "found", "limit")
    lines = table(["check", *columns[1:]], [[c[k] for k in columns] for c in shown])
    lines += [f"{c['name']}: {c['next']}" for c in shown if c["next"] and c["state"] in ("warn", "fail")]
    broken = [c.name for c in checks if c.state == "fail"]
    error = None
    if broken:
        error = EnvironmentFault(
            "RSD-7200",
            f"{len(broken)} of {len(checks)} checks failed: {', '.join(broken)}",
            rule="every check of the doctor",
            found=f"{len(broken)} failed",
            limit="0",
            next="do what stands behind each failed check, then run the doctor again",
        )
    fields: dict[str, Json] = {"who": site, "state": worst(c.state for c in checks), "counts": counts, "checks": shown}
    return Result(fields, lines, error)


def _plain(text: str) -> str:
    """One line of printable text: a peer's words may hold terminal controls, and an error's may be long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


# --- decisions ------------------------------------------------------------------------------------------------------


def in_date(name: str, until: datetime, at: datetime, near: timedelta, next: str) -> Check:
    """Something that ends at `until`: fail once it has ended, warn within `near` of the end."""
    left = until - at
    limit = f"more than {near.days} days"
    if left <= timedelta(0):
        return Check(name, "fail", f"ended {rfc3339(until)}", "a date ahead", next)
    found = f"until {rfc3339(until)}, {left.days} days"
    return Check(name, "warn", found, limit, next) if left < near else Check(name, "ok", found, limit)


def key_period(name: str, not_before: datetime, until: datetime, at: datetime, near: timedelta, next: str) -> Check:
    """As `in_date`, and fail before the period begins: then this clock, or the one of whoever made it, is wrong."""
    if at < not_before:
        return Check(name, "fail", f"begins {rfc3339(not_before)}", f"before {rfc3339(at)}", "set this machine's clock")
    return in_date(name, until, at, near, next)


def private_modes(name: str, modes: Mapping[str, int | None]) -> Check:
    """Files that only their owner may touch, by their permission bits; None for a missing one."""
    missing = sorted(f for f, mode in modes.items() if mode is None)
    if missing:
        return Check(
            name, "fail", f"missing: {', '.join(missing)}", "every key in its place",
            "restore the files from the newest backup of this home; nothing makes a second one by itself",
        )  # fmt: skip
    loose = sorted(f"{f} {mode:04o}" for f, mode in modes.items() if mode is not None and mode & 0o177)
    if loose:
        files = " ".join(f.split()[0] for f in loose)
        return Check(name, "fail", ", ".join(loose), "0600", f"chmod 600 {files}; ask who may have read them")
    return Check(name, "ok", f"{len(modes)} files, owner only", "0600")


def disk(name: str, free: int, limits: Limits) -> Check:
    """Free bytes of the file system that holds the home."""
    found, advice = f"{free / GIB:.1f} GiB free", "free space, or move the home to a larger disk"
    if free < limits.disk_fail:
        return Check(name, "fail", found, f"{limits.disk_fail / GIB:g} GiB", advice)
    state: State = "warn" if free < limits.disk_warn else "ok"
    return Check(name, state, found, f"{limits.disk_warn / GIB:g} GiB", advice if state == "warn" else "")


def memory(name: str, available: int, limits: Limits) -> Check:
    """Bytes that a new process may take: of the machine, or of this container if that is less."""
    found, advice = f"{available / GIB:.1f} GiB available", "stop other programs, or raise the limit of the container"
    if available < limits.memory_fail:
        return Check(name, "fail", found, f"{limits.memory_fail / GIB:g} GiB", advice)
    state: State = "warn" if available < limits.memory_warn else "ok"
    return Check(name, state, found, f"{limits.memory_warn / GIB:g} GiB", advice if state == "warn" else "")


def clock(name: str, skew_s: float, limits: Limits) -> Check:
    """How far this clock is ahead of the peer's (negative: behind), in seconds."""
    found, advice = f"{skew_s:+.1f} s against the server", "synchronise this machine's clock (NTP), or the server's"
    if abs(skew_s) > limits.skew_fail_s:
        return Check(name, "fail", found, f"{limits.skew_fail_s:g} s", advice)
    state: State = "warn" if abs(skew_s) > limits.skew_warn_s else "ok"
    return Check(name, state, found, f"{limits.skew_warn_s:g} s", advice if state == "warn" else "")


def versions(name: str, own: str, other: str) -> Check:
    """Both sides' versions of this package: a study names one, and a site with another refuses it."""
    if own == other:
        return Check(name, "ok", own, "the same on both sides")
    return Check(
        name, "warn", f"{own} here, {other} at the server", "the same on both sides",
        "install the version that the next study names, at the site or at the server",
    )  # fmt: skip


def cosigned(name: str, found: LogFacts, at: datetime, limits: Limits) -> Check:
    """How long entries of a log have stood that no other member cosigned.

    A log that nobody vouches for is one that its owner could rewrite, or that of a site that nobody has heard of.
    """
    seen = f"last cosignature {rfc3339(found.last)}" if found.last else "never cosigned"
    limit = f"no entry uncosigned for {limits.uncosigned.total_seconds() / 3600:g} h"
    if found.since is None:
        return Check(name, "ok", seen if found.size else "no entries", limit)
    text = f"{found.uncosigned} of {found.size} entries uncosigned, the first of {rfc3339(found.since)}; {seen}"
    if at - found.since <= limits.uncosigned:
        return Check(name, "ok", text, limit)
    return Check(name, "warn", text, limit, "let agents and server run: members cosign while they are connected")


def absent(name: str, traces: list[str]) -> Check:
    """A store that is not there: right for a home where nothing has happened yet, a loss where something has."""
    if not traces:
        return Check(name, "ok", f"no {name}.db: nothing has happened here")
    return Check(name, "fail", f"no {name}.db, and there is {', '.join(traces)}", f"the {name} of this site", STOP)
