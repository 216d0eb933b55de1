"""Whose checkpoint may be shown to which outside witness: by the operator's rules, and by those of the log's site.

The operator shows its own log and passes the sites' on, so it decides for each witness what it sends. A site decides
for its own log when it joins; what it denies, or was not asked about, is not passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from compliance.clock import now
from compliance.errors import Refused, ResidencyError
from compliance.law.decide import Engine
from compliance.law.model import Decision, Party
from compliance.messages import JoinReply
from compliance.study import Study
from compliance.study_transfer import SHOWN, witness_party
from compliance.trust.home import OperatorHome
from compliance.trust.root import Trust
from compliance.trust.witnesses import NOWHERE, check_outside, outside_keys, outside_party, owners, placed, shown_to
from server.law import denied, operator_engine, operator_law
from server.outside_witnesses import configured

Cleared = Mapping[str, tuple[Party, ...]]
"""Site -> who may be shown its checkpoints, by its own decisions, and where each was when the site decided."""


class _Decider(Protocol):
    def may_show(self, witness: Party) -> Decision:
        """May the operator show checkpoints to this witness? Logged first, and when it changes."""


def cleared_by(joined: Mapping[str, JoinReply]) -> dict[str, tuple[Party, ...]]:
    """What the sites that joined decided about their own checkpoints; whom one of a site's decisions denies is out."""
    told = {site: [d for d in reply.decisions if d.artifact == SHOWN] for site, reply in joined.items()}
    denied = {site: {d.recipient.name for d in made if not d.allow} for site, made in told.items()}
    return {
        site: tuple(d.recipient for d in made if d.recipient.name not in denied[site]) for site, made in told.items()
    }


@dataclass(frozen=True)
class WitnessGate:
    """One run's. `read` gives the trust file that holds now, `cleared` what the sites have decided by now."""

    read: Callable[[], Trust]
    study: Study
    decider: _Decider
    cleared: Callable[[], Cleared]

    @property
    def trust(self) -> Trust:
        """The trust file that holds now. Raises Refused RSD-6210, RSD-6013."""
        return self.read()

    def check(self, witness: str, origin: str) -> None:
        """Returns if the checkpoint of the log `origin` may go to `witness`; that is decided and logged by then.

        Raises Refused RSD-5110 (the trust file names no such witness), RSD-3100 (the operator's rules), RSD-5120 (the
        site's), RSD-3065 (clock set back), RSD-6210, RSD-6013 (no trust file that holds).
        """
        trust = self.trust
        check_outside(trust, witness, now())
        party = witness_party(self.study, trust, witness)
        decision = self.decider.may_show(party)
        if not decision.allow:
            raise placed(denied(decision, f"{SHOWN} of {trust.operator.name}"), party)
        owner = owners(trust).get(origin, origin)
        allowed = self.cleared().get(owner, ())
        if owner != trust.operator.name and party not in allowed:
            raise _withheld(owner, party, next((p for p in allowed if p.name == witness), None))

    def refused(self, witness: str, member: str) -> ResidencyError | None:
        """Why `witness` cannot cosign the log of `member`; None if it may be shown it."""
        try:
            self.check(witness, self.trust.log_origin(member))
        except Refused as e:
            return e
        return None


def _withheld(owner: str, witness: Party, told: Party | None) -> Refused:
    """`told`: as what the site allowed the witness, if it did; it is another recipient now."""
    found, advice = f"no ALLOW of {owner} for {witness.name}", f"ask {owner} for the rule in its log"
    if told is not None:
        found = f"an ALLOW of {owner} for {_words(told)}; the operator's trust file: {_words(witness)}"
        advice = f"see that {owner} and the operator have the newest trust file"
    return Refused(
        "RSD-5120",
        f"the checkpoint of {owner} is not passed on to {witness.name}",
        rule="whose log it is decides who is shown its checkpoints",
        found=found,
        limit=f"the logged decision of {owner}, made when it joins",
        next=f"{advice}; then start a run of a new study",
    )


def _words(party: Party) -> str:
    reached = f", reached from {', '.join(party.access)}" if party.access else ""
    return f"{party.name} in {party.jurisdiction}{reached}{', a covered person' if party.covered_person else ''}"


@dataclass(frozen=True)
class Judged:
    """An outside witness of the trust file or of the server's last start, by the operator's rules now; not logged.

    `refusal` None: it may be shown checkpoints, as far as the operator goes. `addresses`: where the server asks it.
    """

    party: Party
    addresses: tuple[str, ...]
    refusal: Refused | None

    @property
    def place(self) -> str:
        """Its jurisdiction in words."""
        return "unknown" if self.party.jurisdiction == NOWHERE else self.party.jurisdiction

    def line(self) -> str:
        """For people: who it is, and why it is shown nothing if that is so."""
        return f"{self.party.name} ({self.place}): {self.refusal.message if self.refusal else 'is shown checkpoints'}"

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        refusal = self.refusal.as_json() if self.refusal else None
        return {**self.party.model_dump(mode="json"), "addresses": list(self.addresses), "refused": refusal}


def judged(home: OperatorHome) -> list[Judged]:
    """Every outside witness, by name. Raises what `operator_law` and `configured` raise."""
    trust, opened = home.anchor().trust, operator_law(home)
    engine, asked = operator_engine(opened.law_set if opened else None), configured(home.root).named()
    names = {*outside_keys(trust, now()), *(n.witness for n in asked)} - {trust.operator.name}
    return [
        Judged(
            outside_party(trust, name),
            tuple(str(n.address) for n in asked if n.witness == name),
            _refusal(engine, trust, name),
        )
        for name in sorted(names)
    ]


def _refusal(engine: Engine, trust: Trust, name: str) -> Refused | None:
    try:
        decision = engine.decide(shown_to(trust, trust.operator.name, name, now()))
    except Refused as e:
        return e
    error = denied(decision, f"{SHOWN} of {trust.operator.name}")
    return None if decision.allow else placed(error, decision.transfer.recipient)
