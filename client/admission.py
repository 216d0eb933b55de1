"""Whether a site takes part in a study: every check before the first message of a run is answered.

The order is fixed: study and term, software, policy, approval, dataset and model, transfers, ledger. The first check
that fails refuses the study as a whole; nothing is merged and nothing is asked again with other values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from client.data.withdrawals import people_at_most, standing, stop_file
from client.home import AgentHome, DatasetRecord, ModelRecord, OpenLaw, OpenPolicy, packs
from client.stop_file import stop_mark
from client.taken_back import check_not_taken_back
from client.unit_terms import check_unit
from compliance.answers import (
    ADVICE,
    APPROVAL,
    REFUSAL,
    WITHDRAWAL,
    Approval,
    OpenedAdvice,
    answer_schema,
    check_approval,
    open_advice,
    open_approval,
    open_refusal,
    open_withdrawal,
)
from compliance.canonical import parse_canonical
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import EnvironmentFault, InputError, Refused
from compliance.identity import parse_envelope
from compliance.law.counters import Counters
from compliance.law.decide import Engine
from compliance.law.law_set import LawSet
from compliance.law.model import Count, Decision, Party
from compliance.law.vocabulary import Artifact
from compliance.policy import check_study
from compliance.privacy.events import UNITS, PrivacyEvent, Unit
from compliance.software import VERSION
from compliance.study import SiteTerms, Study, open_study
from compliance.study_desk import check_members
from compliance.study_event import study_event
from compliance.study_transfer import COUNTED, party, transfer_of, witness_party
from compliance.trust.root import Anchor
from compliance.trust.witnesses import outside_keys


@dataclass(frozen=True)
class Case:
    """A study that lies within the policy of this site, with what the site has for it."""

    anchor: Anchor
    policy: OpenPolicy
    law: OpenLaw
    study: Study
    digest: str
    terms: SiteTerms
    dataset: DatasetRecord
    model: ModelRecord | None  # None: a model that comes with the software
    engine: Engine
    people: int  # in the data source at most, rounded up
    counters: Path  # the file in which this site counts the persons whose data reached somebody
    excluded: tuple[int, ...] = ()  # rows of the extract, by position, whose subjects were withdrawn
    stop_file: str = ""  # changes when a subject is withdrawn: no batch is drawn after that
    stop_mark: str = ""  # digest of the stop file's content before `excluded` was read
    withdrawal: int = 0  # the last one that touched the data source when the case was opened

    def event(self, rounds: int) -> PrivacyEvent:
        """What `rounds` rounds of this study do at this site."""
        return study_event(self.study, self.terms, rounds)

    def units(self) -> tuple[Unit, ...]:
        """The units in which what this study spends here is accounted: both where a record is a patient."""
        return (self.study.privacy.unit,) if self.dataset.several_rows else UNITS

    def decide(self, artifact: Artifact, recipient: Party, onward: tuple[Party, ...] = ()) -> Decision:
        """May this site send `artifact` to `recipient`, who passes it on to `onward`, now? Counts nobody.

        Raises InputError RSD-3050, Refused RSD-3051 for counters that cannot be relied on.
        """
        at, parties = rfc3339(now()), (recipient, *onward)
        counts: tuple[Count, ...] = ()
        if artifact in COUNTED:
            source, persons = self.persons()
            with Counters.open(self.counters) as counters:
                counts = counters.counts(self.party(), parties, source, persons, self.study.data_categories, at)
        told = transfer_of(self.study, self.digest, self.terms.name, artifact, recipient, onward, counts=counts, at=at)
        return self.engine.decide(told)

    def persons(self) -> tuple[str, int]:
        """The data source of this study here, and how many persons it has held at most, in all extracts."""
        return self.dataset.source, self.people

    def party(self) -> Party:
        """This site."""
        return party(self.terms)

    def operator(self) -> Party:
        """The recipient of the updates."""
        return party(self.study.operator)

    def peers(self) -> tuple[Party, ...]:
        """The other sites of the study: the global model would reach them."""
        return tuple(party(s) for s in self.study.sites if s.name != self.terms.name)

    def witnesses(self) -> tuple[Party, ...]:
        """The outside witnesses of the trust file: the operator's server would show them this site's checkpoints."""
        trust, own = self.anchor.trust, {self.terms.name, self.study.operator.name}
        return tuple(witness_party(self.study, trust, n) for n in sorted(outside_keys(trust, now())) if n not in own)


def open_case(home: AgentHome, study_bytes: bytes, what: str) -> Case:
    """Study, term, software, policy, dataset and model. Raises Refused, CheckFailed or InputError."""
    anchor = home.anchor()
    study, digest = open_study(anchor, study_bytes, what, now())
    check_members(study, anchor.trust)
    check_not_taken_back(home, digest)
    _check_term(anchor, study)
    if study.software.version != VERSION:
        raise Refused(
            "RSD-2209",
            "the study names another version of the software than is installed here",
            rule="a site runs what it approved",
            found=VERSION,
            limit=study.software.version,
            next="install the version that the study names, or have a study proposed for this one",
        )
    policy = home.policy(anchor)
    check_study(policy.policy, study)
    law = home.law(anchor, policy.policy)
    _check_outlives(law.law_set, study)
    terms = study.site(home.config.site)
    if terms is None:  # check_study has refused that already
        raise Refused("RSD-2102", f"study {study.name} does not list site {home.config.site}", rule="site policy")
    dataset, model = _dataset(home, study, digest), _model(home, study)
    check_unit(policy.policy, study, terms, dataset)
    stop = str(stop_file(home.path, dataset.source))
    mark = stop_mark(stop)  # first: a withdrawal between the two ends the attempt, and is never missed
    excluded, withdrawal = standing(home, dataset.name, dataset.sha256)
    engine, people = home.engine(law.law_set), people_at_most(home, dataset.source)
    return Case(
        *(anchor, policy, law, study, digest, terms, dataset, model, engine, people, home.counters),
        *(excluded, stop, mark, withdrawal),
    )


def _check_term(anchor: Anchor, study: Study) -> None:
    at = now()
    if not parse_time(study.starts) <= at <= parse_time(study.ends):
        raise Refused(
            "RSD-2008",
            f"study {study.name} is not in its term now",
            rule="study.starts and study.ends",
            found=rfc3339(at),
            limit=f"{study.starts} to {study.ends}",
            next="propose a study whose term covers the run; if the clock of this machine is wrong, set it",
        )
    if parse_time(anchor.trust.expires) < parse_time(study.ends):
        raise Refused(
            "RSD-6013",
            "the trust file expires before the study ends",
            rule="a run starts only if trust outlives its planned end",
            found=anchor.trust.expires,
            limit=study.ends,
            next="issue the next version of the trust file first",
        )


def _check_outlives(law_set: LawSet, study: Study) -> None:
    """The law packs that the site adopted hold until the study ends. Raises Refused RSD-1215."""
    for adopted in law_set.packs:
        pack = packs().get(adopted.id)
        if pack is not None and parse_time(pack.expires_on) < parse_time(study.ends):
            raise Refused(
                "RSD-1215",
                f"law pack {pack.id} expires before the study ends",
                rule="a run starts only if its law packs outlive its planned end",
                found=pack.expires_on,
                limit=study.ends,
                next="adopt the pack's next version first, or have a shorter study proposed",
            )


def _dataset(home: AgentHome, study: Study, digest: str) -> DatasetRecord:
    registered = home.registry().datasets
    for record in registered:
        if record.name == study.dataset:
            _check_usable(home, record, study, digest)
            if not Path(record.path).is_file():
                raise EnvironmentFault(
                    "RSD-1206",
                    f"the file of dataset {record.name} is gone",
                    found="no file",
                    limit="the registered file",
                    next="restore the file, or register the dataset again: residency agent dataset add",
                )
            return record
    raise InputError(
        "RSD-1205",
        f"no dataset {study.dataset} is registered at this site",
        found=", ".join(d.name for d in registered) or "no dataset",
        limit=study.dataset,
        next=f"residency agent dataset add {study.dataset} --path FILE --source SOURCE",
    )


def _check_usable(home: AgentHome, record: DatasetRecord, study: Study, digest: str) -> None:
    """Purpose, expiry and retirement. Raises Refused RSD-2410, RSD-2411, RSD-2412."""
    if study.purpose not in record.purposes:
        raise Refused(
            "RSD-2410",
            f"dataset {record.name} may not be used for the purpose of study {study.name}",
            rule=f"purposes of the dataset, on {record.legal_basis}",
            found=study.purpose,
            limit=", ".join(record.purposes),
            next="ask whoever answers for the data whether the purpose is covered; register an extract that is",
        )
    if parse_time(record.expires) < parse_time(study.ends):
        raise Refused(
            "RSD-2411",
            f"dataset {record.name} expires before study {study.name} ends",
            rule="a run starts only if its data may be used until its planned end",
            found=record.expires,
            limit=study.ends,
            next="have a shorter study proposed, or register an extract that may be used for longer",
        )
    if record.retired and not (home.study_folder(digest) / "study.json").exists():
        raise Refused(
            "RSD-2412",
            f"dataset {record.name} was retired",
            rule="no new study uses a retired dataset",
            found=record.retired,
            limit="a dataset in use",
            next="register another extract; it inherits what the data source has spent",
        )


def _model(home: AgentHome, study: Study) -> ModelRecord | None:
    if study.model.built_in:
        return None
    registered = home.registry().models
    for record in registered:
        if record.sha256 == study.model.sha256:
            return record
    raise InputError(
        "RSD-1207",
        f"model {study.model.name} is not registered at this site",
        rule="a model is known by the digest of its folder",
        found=", ".join(m.sha256[:12] for m in registered) or "no model",
        limit=study.model.sha256[:12],
        next="residency agent model add FOLDER",
    )


def check_extract(case: Case) -> None:
    """The dataset's file is byte for byte the one that was registered. Raises Refused RSD-1226.

    Its rows were bound to their ledger at registration; other rows would spend from the wrong one.
    """
    found = file_digest(Path(case.dataset.path))
    if found != case.dataset.sha256:
        raise Refused(
            "RSD-1226",
            f"the file of dataset {case.dataset.name} has changed since it was registered",
            rule="rows are bound to a ledger at registration",
            found=found[:12],
            limit=case.dataset.sha256[:12],
            next="restore the file, or register the new extract under another name and have the study name it",
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file of any size."""
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise EnvironmentFault(
            "RSD-1206", f"the dataset's file cannot be read: {e.strerror}", found=e.strerror, limit="a readable file",
            next="restore the file",
        ) from e  # fmt: skip


def own_answers(site: str, answers: tuple[str, ...]) -> tuple[str, ...]:
    """The answers that claim to be of `site`: what others signed is none of its business, and cannot disturb it."""
    return tuple(a for a in answers if _claimed_site(a) == site)


def _claimed_site(answer: str) -> str:
    payload = parse_canonical(parse_envelope(answer.encode("utf-8"), "answer").payload, "answer")
    return str(payload.get("site", "")) if isinstance(payload, dict) else ""


def check_answers(case: Case, answers: tuple[str, ...]) -> Approval:
    """This site's own approval of this study is among `answers`, with its DPO's advice.

    Raises Refused RSD-2207 (no approval), RSD-2208 (a refusal) or what `check_approval` raises. Who delivered the
    answers does not matter: only the signatures of this site's people count, with keys that may sign then and now.
    """
    site = case.terms.name
    advices: dict[str, OpenedAdvice] = {}
    approval: Approval | None = None
    for text in own_answers(site, answers):
        data = text.encode("utf-8")
        kind = answer_schema(data, "answer")
        if kind == ADVICE:
            advice = open_advice(case.anchor, data, "advice", "study", now())
            advices[advice.digest] = advice
        elif kind == REFUSAL:
            refusal, _ = open_refusal(case.anchor, data, "refusal", now())
            if refusal.digest == case.digest:
                raise Refused(
                    "RSD-2208", f"the signatory of {site} refused this study", found=refusal.reason, limit="an approval"
                )
        elif kind == WITHDRAWAL:
            taken, _ = open_withdrawal(case.anchor, data, "withdrawal", now())
            if taken.digest == case.digest:
                raise Refused(
                    "RSD-2208",
                    f"the signatory of {site} took the approval back",
                    found=taken.reason,
                    limit="an approval",
                )
        elif kind == APPROVAL:
            approval, _ = open_approval(case.anchor, data, "approval", now())
    if approval is None:
        raise Refused(
            "RSD-2207",
            f"the signatory of {site} has not approved this study",
            rule="no site takes part without its signatory's approval",
            found="no approval",
            limit=case.digest[:12],
            next="residency study approve, and hand the file to the operator",
        )
    check_approval(approval, case.digest, case.study, site, case.policy.digest, advices.get(approval.advice))
    return approval
