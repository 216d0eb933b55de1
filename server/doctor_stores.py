"""What the server's doctor looks at in the operator's home: log, runs, sites, invitations, certificates, studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from compliance import doctor, doctor_facts
from compliance.answers import APPROVAL, REFUSAL
from compliance.canonical import parse_canonical
from compliance.clock import parse_time, rfc3339
from compliance.counting import noted
from compliance.doctor import Check, Fact, Limits, Unmet, examine
from compliance.files import read_bytes
from compliance.identity import media_type, parse_envelope
from compliance.log.alarms import alarms_of
from compliance.log.read_only import look_at_log
from compliance.log.store import LogStore
from compliance.pki import read_site_certificate
from compliance.study import Study, open_study
from compliance.trust.enrol import Invited
from compliance.trust.home import OperatorHome
from compliance.trust.witnesses import witness_keys
from server.doctor import Doctor
from server.witness_gate import Judged, judged

T = TypeVar("T")
_DECISIONS = {media_type(APPROVAL), media_type(REFUSAL)}
_RECENT = 2_000  # entries looked through for the last call of each site


class Stores:
    """The checks of what lies in the home of `standing`."""

    def __init__(self, standing: Doctor) -> None:
        self._d = standing
        self._whole: Fact[Check] = Fact("log.db", lambda: self._log(whole=True))
        self._noted: Fact[tuple[int, str]] = Fact("log.db", lambda: self._look(noted))

    def books(self) -> Iterator[Check]:
        """Log, cosignatures and counters."""
        yield from examine("log", self._whole.get)
        yield from examine("cosignatures", self._cosigned)
        yield from examine("alarms", self._alarms)
        yield from examine("other logs", self._others)
        yield from examine("outside witnesses", lambda: witnesses(judged(self._admitted())))
        yield from examine("counters", self._counters)

    def log_end(self) -> list[Check]:
        """The log by its last entry only: quick however long it is."""
        return examine("log", lambda: self._log(whole=False))

    def _log(self, *, whole: bool) -> Check:
        if not self._d.home.log_file.exists():
            traces = [n for n in ("witness.db", "runs", "studies") if (self._d.path / n).exists()]
            return doctor.absent("log", traces)
        return self._look(lambda log: doctor_facts.log_check(log, whole=whole))

    def _look(self, read: Callable[[LogStore], T]) -> T:
        if not self._d.home.log_file.exists():
            raise Unmet("there is no log.db")
        config = self._d.config.need()
        origin = f"residency/{config.name}/{config.operator.name}"
        return look_at_log(self._d.home.log_file, origin, self._d.signer.need().private, read)

    def _cosigned(self) -> Check:
        self._whole.need()
        keys = witness_keys(self._d.anchor.need().trust, self._d.config.need().operator.name, self._d.at)
        found = self._look(lambda log: doctor_facts.log_facts(log, keys))
        return doctor.cosigned("cosignatures", found, self._d.at, self._d.limits)

    def _alarms(self) -> Check:
        self._whole.need()
        return doctor_facts.alarms_check(self._look(alarms_of), self._d.at)

    def _others(self) -> Check:
        trust = self._d.anchor.need().trust
        origins = [trust.log_origin(s.name) for s in trust.sites]
        return doctor_facts.others_check(self._d.path / "witness.db", origins, self._d.at)

    def _admitted(self) -> OperatorHome:
        self._d.anchor.need()
        return self._d.home

    def _counters(self) -> Check:
        known = self._noted.need() if self._d.home.log_file.exists() else (0, "")
        return doctor_facts.counters_check(self._d.path / "counters.db", known)

    def work(self) -> Iterator[Check]:
        """Runs, sites, invitations, certificates, studies that wait for answers."""
        yield from examine("runs", lambda: runs(unfinished(self._d.path), serving=self._d.runs()))
        yield from examine("sites", self._sites)
        yield from examine("invitations", self._invitations)
        yield from examine("certificates", self._certificates)
        for path in sorted((self._d.path / "studies").glob("*/study.json")):
            yield from examine(f"study {path.parent.name[:12]}", lambda p=path: self._study(p))  # type: ignore[misc]

    def _sites(self) -> Check:
        names = [s.name for s in self._d.anchor.need().trust.sites]
        if not self._d.runs():
            raise Unmet("the server does not run")
        out = {p.stem for p in self._d.home.suspended.glob("*.json")}
        return sites({n: up for n, up in self._d.online(self._d.path).items() if n in names}, out, self._heard())

    def _heard(self) -> dict[str, str]:
        """Site -> when the log last noted a call of it, among the newest entries."""

        def read(log: LogStore) -> dict[str, str]:
            found = {}
            for entry in log.entries(max(0, log.size - _RECENT), kind="calls"):
                for call in entry.body.get("calls", ()):
                    found[str(call.get("site", ""))] = entry.at
            return found

        return self._look(read)

    def _invitations(self) -> Check:
        files = sorted(self._d.home.invitations.glob("*.json"))
        waiting = [p for p in files if not any(p.with_suffix(end).exists() for end in (".used", ".retired"))]
        members = {s.name for s in self._d.anchor.need().trust.sites} if self._d.home.trust_file.exists() else set()
        held = [self._d.home.read_invited(p) for p in waiting]
        return invitations([i for i in held if i.site not in members], self._d.at, self._d.limits)

    def _certificates(self) -> list[Check]:
        trust = self._d.anchor.need().trust
        until: dict[str, datetime | None] = {}
        for site in trust.sites:
            path = self._d.home.certificates / f"{site.name}.crt"
            there = path.exists()
            until[site.name] = read_site_certificate(read_bytes(path, "a certificate")).not_after if there else None
        return [certificates(until, self._d.at, self._d.limits)]

    def _study(self, path: Path) -> list[Check]:
        study, digest = open_study(self._d.anchor.need(), read_bytes(path, "study").removesuffix(b"\n"), path.name)
        if parse_time(study.ends) < self._d.at:
            return []
        return [answers(f"study {digest[:12]}", study, decided(path.parent / "answers", digest))]


def unfinished(home: Path) -> list[str]:
    """Names of the runs that were started and have no result."""
    return sorted(
        p.parent.name for p in (home / "runs").glob("*/study.json") if not (p.parent / "result.json").exists()
    )


def decided(folder: Path, study: str) -> set[str]:
    """The sites whose signatory's decision on `study` was delivered; its signature is judged when a run starts."""
    found = set()
    for path in sorted(folder.glob("*.json")):
        envelope = parse_envelope(read_bytes(path, "an answer"), path.name)
        payload = parse_canonical(envelope.payload, path.name)
        if envelope.payload_type in _DECISIONS and isinstance(payload, dict) and payload.get("digest") == study:
            found.add(str(payload.get("site", "")))
    return found


# --- decisions ------------------------------------------------------------------------------------------------------


def runs(names: list[str], *, serving: bool) -> Check:
    """Runs that have neither ended nor been cancelled: a server that runs takes them up again."""
    if not names:
        return Check("runs", "ok", "none unfinished")
    found = f"{len(names)} unfinished: {', '.join(names)}"
    if serving:
        return Check("runs", "ok", found)
    return Check("runs", "warn", found, "a running server", "residency server start: it goes on with them")


def sites(online: Mapping[str, bool], suspended: set[str], heard: Mapping[str, str]) -> Check:
    """Who is connected now; when the log last heard of the others."""
    away = [f"{n} ({heard[n]})" if n in heard else f"{n} (never heard)" for n, up in sorted(online.items())
            if not up and n not in suspended]  # fmt: skip
    out = f"; suspended: {', '.join(sorted(suspended))}" if suspended else ""
    found = f"{sum(online.values())} of {len(online)} connected{out}"
    if not away:
        return Check("sites", "ok", found)
    advice = "ask the site for: residency agent doctor"
    return Check("sites", "warn", f"{found}; away, last heard: {', '.join(away)}", "every site connected", advice)


def witnesses(found: list[Judged]) -> Check:
    """Who of the outside witnesses may not be shown checkpoints by the operator's rules, or stands in no trust file."""
    refused = [(w, w.refusal) for w in found if w.refusal is not None]
    if not refused:
        told = ", ".join(f"{w.party.name} ({w.place})" for w in found) or "none"
        return Check("outside witnesses", "ok", told)
    told = "; ".join(w.line() for w, _ in refused)
    return Check("outside witnesses", "fail", told, "an ALLOW of the law engine for each", refused[0][1].next)


def invitations(waiting: list[Invited], at: datetime, limits: Limits) -> Check:
    """Invitations of sites that have not enrolled, and whose token ends soon or has ended."""
    ends = {i.site: parse_time(i.token_expires) for i in sorted(waiting, key=lambda i: i.token_expires)}
    soon = [f"{site} {rfc3339(end)}" for site, end in ends.items() if end - at < limits.token_near_end]
    if not soon:
        return Check("invitations", "ok", f"{len(ends)} open")
    return Check(
        "invitations", "warn", f"{len(ends)} open; token ends: {', '.join(soon)}",
        f"{limits.token_near_end.days} days left", "remind the site, or invite it again: residency consortium invite",
    )  # fmt: skip


def certificates(until: Mapping[str, datetime | None], at: datetime, limits: Limits) -> Check:
    """The members' certificates as they were issued here. An agent renews its own while it is connected."""
    short = [
        f"{site} {rfc3339(end) if end else 'none issued'}"
        for site, end in sorted(until.items())
        if end is None or end - at < limits.near_end
    ]
    if not short:
        return Check("certificates", "ok", f"{len(until)} members, all in date")
    return Check(
        "certificates", "warn", ", ".join(short), f"more than {limits.near_end.days} days",
        "ask the site whether its agent runs: it renews by itself; or: residency consortium admit --install",
    )  # fmt: skip


def answers(name: str, study: Study, decided_by: set[str]) -> Check:
    """Which of the study's sites have not decided yet."""
    waiting = [s.name for s in study.sites if s.name not in decided_by]
    if not waiting:
        return Check(name, "ok", f"{study.name}: all {len(study.sites)} sites decided")
    advice = "remind their signatories: the study is frozen, and its papers run out"
    return Check(name, "warn", f"{study.name}: no decision of {', '.join(waiting)}", "every site decided", advice)


__all__ = ["Stores", "answers", "certificates", "decided", "invitations", "runs", "sites", "unfinished", "witnesses"]
