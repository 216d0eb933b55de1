"""The operator's side of the law: the set that it adopted, or every pack, and what is sent outside of runs."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

from compliance.clock import now, rfc3339
from compliance.errors import Refused
from compliance.files import read_bytes, write_durably
from compliance.law.alarm import sound
from compliance.law.decide import Engine, builtin_packs
from compliance.law.law_adoption import OpenAdoption, check_in_force
from compliance.law.law_set import LawSet
from compliance.law.model import Decision, Party, Transfer
from compliance.law.regions import load_regions
from compliance.law.vocabulary import Artifact
from compliance.log.order import refuse_set_back
from compliance.log.store import LogStore
from compliance.release.bodies import decision_body
from compliance.trust.home import OperatorHome
from server import adoptions

# Method of the governance service -> what its reply is, for the law. The door's enrolment is an upkeep of keys too.
REPLIES: Final[dict[str, Artifact]] = {
    "Status": "conformance_report",
    "Trust": "roster",
    "Study": "answer",
    "Answer": "answer",
    "Exchange": "log_checkpoint",
    "Renew": "conformance_report",
    "Enrol": "conformance_report",
}


@lru_cache(maxsize=4)
def operator_engine(law_set: LawSet | None) -> Engine:
    """The engine of the operator's law set; without one it applies every pack of the package. Compiled once."""
    packs = builtin_packs()
    if law_set is not None:
        return Engine.of(law_set, packs, load_regions())
    return Engine(packs, {name: pack.digest for name, pack in packs.items()})


def operator_law(home: OperatorHome) -> OpenAdoption | None:
    """The law set in the home, adopted with the operator's key, judged now; None if there is no law.json.

    Raises Refused RSD-3040 before there is a trust file, or what `adoptions.of_operator` raises.
    """
    if not home.law_file.exists():
        return None
    return _judged(home, read_bytes(home.law_file, "the operator's law set"), str(home.law_file))


def check_operator_law(home: OperatorHome) -> None:
    """What the server must not start with: a law set that is not the operator's own, or would deny everything.

    Raises what `operator_law` raises, and Refused RSD-3036.
    """
    opened = operator_law(home)
    if opened is not None:
        _check(opened)


def install(home: OperatorHome, file: Path) -> None:
    """Log the adopted law set in `file` and put it into the home; the same one again changes nothing.

    Raises as `check_operator_law` does, and then nothing changed.
    """
    home.need_whole()
    data = read_bytes(file, "the operator's law set")
    opened = _judged(home, data, str(file))
    _check(opened)
    if home.law_file.exists() and read_bytes(home.law_file, "the operator's law set") == data:
        return
    home.record(adoptions.body(opened), "law")
    write_durably(home.law_file, data)


def _judged(home: OperatorHome, data: bytes, what: str) -> OpenAdoption:
    if not home.trust_file.exists():
        raise Refused(
            "RSD-3040",
            f"{what} cannot be judged before there is a trust file",
            rule="the operator's law set is judged by the key that the trust file names",
            found="no trust.json",
            limit="a trust file signed by the sites",
            next="start without a law set, admit the sites, then: residency server start --law FILE",
        )
    return adoptions.of_operator(home.anchor(), data, what)


def _check(opened: OpenAdoption) -> None:
    check_in_force(opened.law_set, builtin_packs(), load_regions(), now())


def denied(decision: Decision, what: str) -> Refused:
    """Refused RSD-3100 that names the rule, its citations, what is missing and what would make it pass."""
    return Refused(
        "RSD-3100",
        f"{what} may not go to {decision.recipient.name}: {decision.plain}",
        rule=f"{decision.rule}: {', '.join(decision.law) or ', '.join(decision.house)}",
        found="; ".join(decision.missing) or "deny",
        limit="allow by both evaluators, and by every contributing site",
        next=decision.would_allow or "no document makes this pass",
    )


class Standing:
    """Decisions about what the operator sends to one member outside of runs: logged first, and when they change.

    By the law set that stood in the home at the first of them. Safe for several threads.
    """

    def __init__(self, home: OperatorHome) -> None:
        self._home = home
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._logged: dict[tuple[str, Artifact], tuple[object, ...]] = {}

    def check(self, log: LogStore, operator: Party, member: Party, artifact: Artifact) -> None:
        """Returns if `artifact` may go from `operator` to `member`.

        Raises Refused RSD-3100, RSD-3065 (clock), or what `operator_law` raises: by a law set that cannot be
        judged nothing goes out.
        """
        transfer = Transfer(
            artifact=artifact, exporter=operator, recipient=member, purpose="study_administration", study="",
            at=rfc3339(now()),
        )  # fmt: skip
        refuse_set_back(log, transfer.at)
        decision = self._decider().decide(transfer)
        made = (decision.allow, decision.rule, member, tuple(sorted(decision.packs.items())))
        with self._lock:
            if self._logged.get((member.name, artifact)) != made:
                added = log.append("decision", decision_body(decision, 0, member.name))
                sound(log, decision, added.index)
                self._logged[member.name, artifact] = made
        if not decision.allow:
            raise denied(decision, f"{artifact} of {operator.name}")

    def _decider(self) -> Engine:
        with self._lock:
            if self._engine is None:
                opened = operator_law(self._home)
                self._engine = operator_engine(opened.law_set if opened else None)
            return self._engine
