"""What the agent's doctor looks at in the site's stores: extracts, models, studies, log and ledger.

It opens them to read, whoever else writes them. No row of an extract is parsed: a file is known by its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from client.admission import file_digest
from client.books import check_log_not_older
from client.doctor import Doctor
from client.home import DatasetRecord, ModelRecord, Registry, packs
from client.training.model_folder import model_digest
from compliance import doctor, doctor_facts
from compliance.clock import parse_time, rfc3339
from compliance.counting import noted
from compliance.doctor import Check, Fact, Limits, Unmet, examine
from compliance.errors import CheckFailed
from compliance.files import read_bytes
from compliance.law.law_set import LawSet
from compliance.log.alarms import alarms_of
from compliance.log.read_only import look, look_at_log
from compliance.log.store import LogStore
from compliance.privacy.ledger import Ledger
from compliance.privacy.ledger_records import LogHead
from compliance.software import VERSION
from compliance.study import Study, open_study
from compliance.trust.witnesses import owners, witness_keys

T = TypeVar("T")
Charged = tuple[str, int, str]  # data source, sequence number, head of the chain after it


@dataclass(frozen=True)
class Spent:
    """What the log says of the ledger: each charge, and how many entries tell of charges and reservations."""

    charges: tuple[Charged, ...]
    entries: int


class Stores:
    """The checks of what lies in the home of `standing`."""

    def __init__(self, standing: Doctor) -> None:
        self._d = standing
        self._registry: Fact[Registry] = Fact("registry.json", standing.home.registry)
        self._whole: Fact[Check] = Fact("log.db", lambda: self._log(whole=True))
        self._spent: Fact[Spent] = Fact("log.db", lambda: self._look(_spent))
        self._noted: Fact[tuple[int, str]] = Fact("log.db", lambda: self._look(noted))
        self._over: Fact[frozenset[str]] = Fact("log.db", lambda: self._look(_closed_studies))

    def data(self) -> Iterator[Check]:
        """Each registered extract and model."""
        yield from examine("registry", self._count)
        try:
            known = self._registry.need()
        except Unmet:
            return
        for record in known.datasets:
            yield from examine(f"dataset {record.name}", partial(self._dataset, record))
        for model in known.models:
            yield from examine(f"model {model.name}", partial(_model, model))

    def _count(self) -> Check:
        found = self._registry.get()
        text = f"{len(found.datasets)} datasets, {len(found.models)} models"
        if found.datasets and found.models:
            return Check("registry", "ok", text)
        advice = "register them before the first study: residency agent dataset add, residency agent model add"
        return Check("registry", "warn", text, "at least one of each", advice)

    def _dataset(self, record: DatasetRecord) -> Check:
        if record.retired:
            return Check(f"dataset {record.name}", "ok", f"retired {record.retired}")
        return extract(record, file_digest(Path(record.path)), self._d.at, self._d.limits)

    def studies(self) -> Iterator[Check]:
        """Each study that this site joined or was asked to answer, unless it is closed here or its term is over."""
        joined = {p.parent.name: p for p in sorted((self._d.path / "studies").glob("*/study.json"))}
        asked = {p.stem: p for p in sorted((self._d.path / "inbox" / "studies").glob("*.json"))}
        for digest, path in {**asked, **joined}.items():
            yield from examine(f"study {digest[:12]}", partial(self._study, path))

    def _study(self, path: Path) -> list[Check]:
        anchor, policy, law_set = self._d.anchor.need(), self._d.policy.need().policy, self._d.law.need().law_set
        data = read_bytes(path, "study").removesuffix(b"\n")
        study, digest = open_study(anchor, data, path.name)
        if parse_time(study.ends) < self._d.at or self._is_closed(digest):
            return []
        until = {"trust file": anchor.trust.expires, "policy": policy.expires, **pack_ends(law_set)}
        missing = unprovided(study, self._registry.need())
        return [
            outlives(
                f"study {digest[:12]}",
                study,
                {**until, **_extract_end(study, self._registry.need())},
                self._renewed(),
                missing,
            )
        ]

    def _is_closed(self, digest: str) -> bool:
        return (self._d.path / "log.db").exists() and digest in self._over.need()

    def _renewed(self) -> dict[str, str]:
        """Ends of what is renewed without stopping: the certificate and this site's keys."""
        trust, site = self._d.anchor.need().trust, self._d.config.need().site
        ends = {f"{k.role} key": k.not_after for k in trust.keys if k.holder == site and k.revoked_at is None}
        file = self._d.path / "certs" / "site.crt"
        if file.exists():
            ends["certificate"] = rfc3339(doctor_facts.certificate(file).not_after)
        return ends

    def books(self) -> Iterator[Check]:
        """Log, cosignatures, ledger and counters, and that these two hold what the log says of them."""
        yield from examine("log", self._whole.get)
        yield from examine("cosignatures", self._cosigned)
        yield from examine("alarms", self._alarms)
        yield from examine("other logs", self._others)
        yield from examine("ledger", self._ledger)
        yield from examine("counters", self._counters)

    def log_end(self) -> list[Check]:
        """The log by its last entry only: quick however long it is."""
        return examine("log", lambda: self._log(whole=False))

    def _log(self, *, whole: bool) -> Check:
        if not (self._d.path / "log.db").exists():
            traces = [n for n in ("ledger.db", "witness.db") if (self._d.path / n).exists()]
            return doctor.absent("log", traces + ["a joined study"] * self._joined())
        return self._look(partial(doctor_facts.log_check, whole=whole))

    def _joined(self) -> bool:
        return any((self._d.path / "studies").glob("*/study.json"))

    def _look(self, read: Callable[[LogStore], T]) -> T:
        origin = self._d.anchor.need().trust.log_origin(self._d.config.need().site)
        return look_at_log(self._d.path / "log.db", origin, self._d.signer.need().private, read)

    def _cosigned(self) -> Check:
        self._whole.need()
        if not (self._d.path / "log.db").exists():
            raise Unmet("there is no log.db")
        keys = witness_keys(self._d.anchor.need().trust, self._d.config.need().site, self._d.at)
        found = self._look(lambda log: doctor_facts.log_facts(log, keys))
        return doctor.cosigned("cosignatures", found, self._d.at, self._d.limits)

    def _alarms(self) -> Check:
        self._whole.need()
        if not (self._d.path / "log.db").exists():
            raise Unmet("there is no log.db")
        return doctor_facts.alarms_check(self._look(alarms_of), self._d.at)

    def _others(self) -> Check:
        site, known = self._d.config.need().site, owners(self._d.anchor.need().trust)
        origins = sorted(origin for origin, member in known.items() if member != site)
        return doctor_facts.others_check(self._d.path / "witness.db", origins, self._d.at)

    def _counters(self) -> Check:
        known = self._noted.need() if (self._d.path / "log.db").exists() else (0, "")
        return doctor_facts.counters_check(self._d.home.counters, known)

    def _ledger(self) -> Check:
        path = self._d.path / "ledger.db"
        spent = self._spent.need() if (self._d.path / "log.db").exists() else Spent((), 0)
        if not path.exists():
            return doctor.absent("ledger", [f"{spent.entries} entries of the log about it"] * bool(spent.entries))
        found, seen = look(path, lambda connection: _ledger_check(Ledger(connection, path), spent.charges))
        if (self._d.path / "log.db").exists():
            self._look(lambda log: check_log_not_older(log, seen))
        return found


# --- decisions ------------------------------------------------------------------------------------------------------


def _spent(log: LogStore) -> Spent:
    charges = [e.body for e in log.entries(kind="charge")]
    held = tuple((str(b["source"]), int(b["seq"]), str(b["head"])) for b in charges)
    return Spent(held, len(charges) + len(log.entries(kind="reservation")))


def _closed_studies(log: LogStore) -> frozenset[str]:
    """Studies whose run was closed at this site and not joined again since."""
    last = {e.study: e.kind for e in log.entries() if e.kind in {"join", "close"}}
    return frozenset(study for study, kind in last.items() if kind == "close")


def _ledger_check(ledger: Ledger, charged: Sequence[Charged]) -> tuple[Check, dict[str, LogHead]]:
    """Every chain is whole, and holds each charge of the log at its place (what `agent start` asks too).

    And the logs as the charges found them.
    """
    sources = ledger.sources()
    heads = {source: ledger.head(source) for source in sources}
    lost = [f"{source} number {seq}" for source, seq, head in charged if not ledger.holds(source, seq, head)]
    if lost:
        raise CheckFailed(
            "RSD-1225", "the ledger lacks charges that the log holds", rule="what was spent stays spent",
            found=f"{len(lost)} missing, the first: {lost[0]}", limit=f"{len(charged)} charges in the log",
            next=doctor.STOP,
        )  # fmt: skip
    found = f"{len(heads)} data sources, {len(charged)} charges of the log are there"
    return Check("ledger", "ok", found), ledger.logs_seen()


def unchanged(name: str, registered: str, found: str) -> Check:
    """A file or folder that must be what it was when it was registered."""
    if found == registered:
        return Check(name, "ok", f"unchanged, {found[:12]}")
    return Check(
        name, "fail", f"changed: {found[:12]}", registered[:12],
        "restore what was registered, or register the new one under another name and have the next study name it",
    )  # fmt: skip


def _model(record: ModelRecord) -> Check:
    return unchanged(f"model {record.name}", record.sha256, model_digest(Path(record.path)))


def pack_ends(law_set: LawSet) -> dict[str, str]:
    """The days on which the adopted packs end, those that are installed."""
    held = packs()
    return {f"law pack {p.id}": held[p.id].expires_on for p in law_set.packs if p.id in held}


def extract(record: DatasetRecord, found: str, at: datetime, limits: Limits) -> Check:
    """An extract: the file that was registered, and in date for the studies to come."""
    name = f"dataset {record.name}"
    check = unchanged(name, record.sha256, found)
    if check.state != "ok":
        return check
    advice = "have the legal basis looked at again, and register a new extract: residency agent dataset add"
    dated = doctor.in_date(name, parse_time(record.expires), at, limits.near_end, advice)
    return replace(dated, found=f"{check.found}; {dated.found}; {', '.join(record.purposes)}")


def _extract_end(study: Study, known: Registry) -> dict[str, str]:
    return {f"dataset {d.name}": d.expires for d in known.datasets if d.name == study.dataset}


def unprovided(study: Study, known: Registry) -> list[str]:
    """What the study needs from this site and it does not offer."""
    record = next((d for d in known.datasets if d.name == study.dataset and not d.retired), None)
    missing = [] if record else [f"dataset {study.dataset}"]
    if record and study.purpose not in record.purposes:
        missing.append(f"purpose {study.purpose} of dataset {record.name}")
    if not study.model.built_in and study.model.sha256 not in {m.sha256 for m in known.models}:
        missing.append(f"model {study.model.name} {study.model.sha256[:12]}")
    return missing


def outlives(
    name: str, study: Study, until: Mapping[str, str], renewed: Mapping[str, str], missing: Sequence[str] = ()
) -> Check:
    """Everything that a study needs holds beyond its planned end, and it names the installed software.

    `until` are dates before which a run is refused; what is in `renewed` can be replaced while the study goes on.
    """
    ends = parse_time(study.ends)
    papers = {f"document {d.id}": d.expires for d in study.documents}
    short = sorted(f"{k} {v}" for k, v in {**until, **papers}.items() if parse_time(v) < ends)
    limit = f"beyond {study.ends}"
    if study.software.version != VERSION:
        advice = "install the version that the study names, or have a study proposed for this one"
        return Check(name, "fail", f"{study.name}: version {study.software.version}", VERSION, advice)
    if missing:
        advice = "register it (residency agent dataset add, model add), or have the study refused"
        return Check(name, "fail", f"{study.name}: not here: {', '.join(missing)}", "what the study names", advice)
    if short:
        advice = "have it renewed before the run, or a shorter study proposed: residency study check --home"
        return Check(name, "fail", f"{study.name}: ends before the study: {', '.join(short)}", limit, advice)
    soon = sorted(f"{k} {v}" for k, v in renewed.items() if parse_time(v) < ends)
    if soon:
        advice = "renew it before it ends; a round after that is refused"
        return Check(name, "warn", f"{study.name}: to be renewed on the way: {', '.join(soon)}", limit, advice)
    return Check(name, "ok", f"{study.name}: everything in date", limit)


__all__ = ["Stores", "outlives", "pack_ends", "unchanged"]
