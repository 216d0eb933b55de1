"""What both doctors look at on the machine and on the wire. Reads only; a decision about it is in compliance/doctor."""

from __future__ import annotations

import os
import socket
import sqlite3
import ssl
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from compliance import doctor
from compliance.clock import parse_time, rfc3339
from compliance.counting import check_holds
from compliance.doctor import Check, LogFacts, Unmet
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.law.counters import Counters
from compliance.log import witness
from compliance.log.alarms import SILENT, STANDS, Alarm, of_silence, standing
from compliance.log.cosign import WitnessKeys, cosigners
from compliance.log.note import parse
from compliance.log.read_only import ReadOnlyDatabase, look
from compliance.log.store import LogStore

_DOOR_LIMIT_S: Final = 5.0
_CGROUP: Final = Path("/sys/fs/cgroup")
_MOST_NOTES: Final = 64


def modes(home: Path, names: tuple[str, ...]) -> dict[str, int | None]:
    """The permission bits of each file below `home`, None for a missing one."""
    found: dict[str, int | None] = {}
    for name in names:
        path = home / name
        found[name] = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    return found


@dataclass(frozen=True)
class CertificateFacts:
    """The period of a certificate and its public key (PEM)."""

    not_before: datetime
    not_after: datetime
    public_key: bytes


def certificate(path: Path) -> CertificateFacts:
    """Read a PEM certificate. Raises InputError RSD-2005 (no file) or RSD-1121 (no certificate)."""
    try:
        found = x509.load_pem_x509_certificate(read_bytes(path, "the certificate"))
        key = found.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as e:
        raise InputError(
            "RSD-1121",
            f"{path.name} is no certificate",
            rule="PEM, RFC 7468",
            found=type(e).__name__,
            limit="a PEM certificate",
            next="restore the file from the newest backup of this home",
        ) from e
    return CertificateFacts(found.not_valid_before_utc, found.not_valid_after_utc, key)


def free_bytes(home: Path) -> int:
    """What this user may still write on the file system that holds `home`. Raises OSError."""
    found = os.statvfs(home)
    return found.f_bavail * found.f_frsize


def available_memory() -> int:
    """Bytes that a new process may take: of the machine, or of this control group (v2) if that is less.

    Raises Unmet where the system does not tell.
    """
    _need_proc()
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(machine, _left_in_group(machine))


def _need_proc() -> None:
    if not Path("/proc/locks").exists():
        raise Unmet("this system does not tell: it has no /proc/locks")


def _left_in_group(otherwise: int) -> int:
    with suppress(OSError, ValueError):  # no control group, or no limit ("max")
        most = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        return max(0, most - int((_CGROUP / "memory.current").read_text(encoding="ascii")))
    return otherwise


def lock_holder(path: Path) -> int | None:
    """The process that holds the exclusive flock(2) on `path`, None if nobody does, whatever file lies there.

    Asked of the system (/proc/locks), not tried: a lock that is taken for a moment could stop an agent from starting.
    Raises Unmet where the system does not tell.
    """
    _need_proc()
    if not path.exists():
        return None
    wanted = path.stat()
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        words = line.split()
        if len(words) < 6 or words[1] != "FLOCK" or words[3] != "WRITE" or int(words[5].split(":")[2]) != wanted.st_ino:
            continue
        if _has_open(int(words[4]), wanted):
            return int(words[4])
    return None


def _has_open(process: int, wanted: os.stat_result) -> bool:
    """Whether the process has that very file open; true where it may not be asked: the inode's number agreed."""
    folder = Path("/proc") / str(process) / "fd"
    try:
        for link in folder.iterdir():
            with suppress(OSError):  # closed in between
                if os.path.samestat(link.stat(), wanted):
                    return True
    except PermissionError:
        return True
    except OSError:
        return False
    return False


@dataclass(frozen=True)
class DoorFacts:
    """One try of a TLS port. `answer` is the first line after the handshake; `error` says why there is none.

    `untrusted`: the other side's certificate is not of the pinned CA, not for this name, or not in date.
    """

    address: str
    reached: bool
    answer: str = ""
    error: str = ""
    untrusted: bool = False


def door(address: str, ca: Path, identity: tuple[Path, Path] | None = None, limit_s: float = _DOOR_LIMIT_S
         ) -> DoorFacts:  # fmt: skip
    """Connect to host:port over TLS with the pinned `ca`, as `identity` (certificate, key) if given, and ask one thing.

    A server that wants a certificate and gets none, or one that it does not take, ends the connection with an alert:
    `reached`, and the alert is the error. Raises InputError RSD-2005 if `ca` or the identity cannot be read.
    """
    for path in (ca, *(identity or ())):
        read_bytes(path, "TLS material")
    host, _, port = address.rpartition(":")
    reached = False
    try:
        context = ssl.create_default_context(cafile=str(ca))
        if identity is not None:
            context.load_cert_chain(identity[0], identity[1])
        with socket.create_connection((host, int(port)), timeout=limit_s) as plain:
            reached = True
            with context.wrap_socket(plain, server_hostname=host) as secured:
                secured.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
                line = secured.recv(64).partition(b"\r\n")[0].decode("ascii", errors="replace")
                return DoorFacts(address, reached=True, answer=line, error="" if line else "closed without an answer")
    except ssl.SSLCertVerificationError as e:
        return DoorFacts(address, reached, error=e.verify_message, untrusted=True)
    except ssl.SSLError as e:
        return DoorFacts(address, reached, error=(e.reason or type(e).__name__).lower().replace("_", " "))
    except (OSError, ValueError, OverflowError) as e:  # no route; an address that is none
        return DoorFacts(address, reached, error=getattr(e, "strerror", None) or str(e) or type(e).__name__)


def log_facts(log: LogStore, keys: WitnessKeys) -> LogFacts:
    """Where the newest checkpoint stands that a member with one of `keys` cosigned, among the last few."""
    size, cosigned_size, last = log.size, 0, None
    for encoded in reversed(log.cosigned_checkpoints()[-_MOST_NOTES:]):
        times = cosigners(parse(encoded), keys)
        if times:
            cosigned_size = int(encoded.split("\n")[1])
            last = max(times.values())
            break
    since = parse_time(log.entry(cosigned_size).at) if size > cosigned_size else None
    return LogFacts(size, size - cosigned_size, since, _second(last))


def _second(at: int | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def alarms_check(found: Iterable[Alarm], at: datetime) -> Check:
    """Fails while an alarm stands."""
    seen = standing(found, at)
    if not seen:
        return Check("alarms", "ok", "none stands", f"none in {STANDS.days} days")
    told = "; ".join(f"{a.title}, {a.about} (entry {a.index}, {a.code})" for a in seen)
    advice = "residency explain CODE; it is told until 30 days are over, whatever was done about it"
    return Check("alarms", "fail", f"{len(seen)}: {told}", f"none in {STANDS.days} days", advice)


def others_check(path: Path, origins: Sequence[str], at: datetime) -> Check:
    """When each of these logs was last seen to grow, by the witness memory at `path`; one too long ago is a warning."""
    seen: dict[str, datetime | None] = {}
    if path.exists():
        seen = {s.origin: _second(s.at) for s in look(path, witness.seen)}
    known = {origin: when for origin in origins if (when := seen.get(origin)) is not None}
    quiet = [f"{o} {rfc3339(when)}" for o, when in known.items() if of_silence(o, when, at, when, SILENT)]
    limit = f"each seen to grow in {SILENT.total_seconds() / 3600:g} h"
    if not quiet:
        return Check("other logs", "ok", f"{len(known)} of {len(origins)} were ever shown here; none is silent", limit)
    advice = "ask those members whether their agents run; in a run it becomes an alarm"
    return Check("other logs", "warn", f"silent since: {', '.join(quiet)}", limit, advice)


def counters_check(path: Path, head: tuple[int, str]) -> Check:
    """The counters of persons at `path`: whole, and holding the newest head that the log knows. No number is told."""
    if not path.exists():
        return doctor.absent("counters", ["what the log says was counted"] * bool(head[0]))

    def whole(connection: sqlite3.Connection) -> Check:
        counters = Counters(ReadOnlyDatabase(path, connection))
        counters.check()
        check_holds(counters, head)
        return Check("counters", "ok", "whole, and what the log says was counted is there")

    return look(path, whole)


def log_check(log: LogStore, *, whole: bool) -> Check:
    """A log that can be read and continues what it signed. Raises CheckFailed that names the first bad part."""
    size = log.fsck() if whole else log.size
    if size and not whole:
        log.entry(size - 1)
    return Check("log", "ok", f"{size} entries{', all hashed again' if whole else ''}")
