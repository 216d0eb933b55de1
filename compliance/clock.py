"""Time as it is written everywhere: UTC, RFC 3339, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from compliance.errors import InputError


def now() -> datetime:
    """The current time in UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def rfc3339(at: datetime) -> str:
    """`at` as RFC 3339 with the suffix Z, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def time_or_none(text: object) -> datetime | None:
    """`parse_time`, or None for what is no time."""
    try:
        return parse_time(text) if isinstance(text, str) else None
    except InputError:
        return None


def parse_time(text: str, what: str = "time") -> datetime:
    """Parse `2026-11-21T10:00:00Z` or a date (midnight UTC). Raises InputError RSD-2004."""
    found = _parsed(text)
    if found is None:
        limit = "2026-11-21T10:00:00Z or 2026-11-21"
        raise InputError("RSD-2004", f"{what} is not a UTC time", rule="RFC 3339", found=text, limit=limit)
    return found


@lru_cache(maxsize=8192)  # the same few texts come back thousands of times: key periods, expiries
def _parsed(text: str) -> datetime | None:
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None
