"""One site at work: its stores, its worker, and what it remembers of the studies that it joined."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from client.admission import Case, check_answers, open_case
from client.books import Books, check_log_not_older
from client.denial import denied
from client.fingerprints import Fingerprints
from client.home import AgentHome, packs
from client.subjects import finish_withdrawals
from client.workbench import Workbench
from compliance.canonical import parse_canonical
from compliance.clock import now, rfc3339
from compliance.counting import Tally
from compliance.errors import Refused
from compliance.files import read_bytes
from compliance.law.alarm import sound
from compliance.law.law_adoption import check_in_force
from compliance.law.model import Decision, Party
from compliance.law.regions import load_regions
from compliance.law.vocabulary import Artifact
from compliance.log.order import refuse_set_back
from compliance.privacy.ledger import Ledger
from compliance.release.bodies import decision_body
from compliance.roster import EntryRef
from compliance.study_transfer import COUNTED


class Site(Books):
    """Everything that one agent process holds open. Not thread-safe: the node answers one message at a time."""

    def __init__(self, home: AgentHome) -> None:
        super().__init__(home)
        finish_withdrawals(self)
        self.ledger: Ledger = home.ledger()
        self.tally = Tally(home.counters, self.log)
        self.workbench = Workbench(Fingerprints(home.path / "drawn.marks", home.secret))

    def close(self) -> None:
        """Stop the worker and close the stores."""
        self.workbench.close()
        super().close()
        self.ledger.close()

    def decide(
        self, case: Case, artifact: Artifact, recipient: Party, onward: tuple[Party, ...] = (), round_: int = 0
    ) -> tuple[Decision, EntryRef]:
        """Decide about one transfer and log the decision, whichever way it falls. Raises Refused RSD-3065 (clock)."""
        decision = self._decided(case, artifact, recipient, onward)
        return decision, self._log_decision(case, decision, round_)

    def let_out(
        self, case: Case, artifact: Artifact, recipient: Party, onward: tuple[Party, ...] = (), round_: int = 0
    ) -> EntryRef:
        """`decide`, and count whom it is about: once this returns, the artifact may leave. Raises Refused RSD-3100.

        The count is on disk before the decision, and the decision before anything leaves.
        """
        decision = self._decided(case, artifact, recipient, onward)
        if decision.allow and artifact in COUNTED:
            self.tally.record(decision, *case.persons())
        entry = self._log_decision(case, decision, round_)
        if not decision.allow:
            raise denied(decision)
        return entry

    def cleared_peers(self, case: Case) -> tuple[str, ...]:
        """The peers who may have the released model, by this site's last decisions: an update reaches them too."""
        last = {
            str(entry.body["peer"]): bool(entry.body["allow"])
            for entry in self.log.entries(study=case.digest, kind="decision")
            if entry.body["transfer"]["artifact"] == "released_model"
        }
        return tuple(peer for peer, allow in last.items() if allow)

    def _decided(self, case: Case, artifact: Artifact, recipient: Party, onward: tuple[Party, ...]) -> Decision:
        refuse_set_back(self.log, rfc3339(now()))
        if artifact in COUNTED:
            self.tally.check()
        return case.decide(artifact, recipient, onward)

    def _log_decision(self, case: Case, decision: Decision, round_: int) -> EntryRef:
        body = decision_body(decision, round_, decision.transfer.recipient.name)
        entry = self.record("decision", body, case.digest)
        sound(self.log, decision, entry.index, case.digest)
        return entry

    def check_ledger(self) -> None:
        """Every charge in the log stands in the ledger, at its place, and the log is not older than the ledger.

        Raises Refused RSD-1225 if one of the two was restored.
        """
        check_log_not_older(self.log, self.ledger.logs_seen())
        for entry in self.log.entries(0, kind="charge"):
            source, seq, head = (entry.body[k] for k in ("source", "seq", "head"))
            if not self.ledger.holds(str(source), int(seq), str(head)):
                raise Refused(
                    "RSD-1225",
                    f"the ledger of data source {source} lacks a charge that the log holds",
                    rule="what was spent stays spent",
                    found=f"no charge number {seq}",
                    limit=f"entry {entry.index} of the log",
                    next="restore the newest ledger; the log tells what was charged",
                )

    def joined_case(self, study: str) -> Case:
        """The case of a study that this site joined; judged anew, so that an expired policy or approval stops it.

        Raises Refused RSD-1213 when the site did not join, and whatever a join would raise.
        """
        file = self.joined_study(study)
        case = open_case(self.home, read_bytes(file, "study"), str(file))
        check_in_force(case.law.law_set, packs(), load_regions(), now())
        answers = parse_canonical(read_bytes(file.with_name("answers.json"), "answers"), "answers.json")
        check_answers(case, tuple(answers))
        return case

    def joined_study(self, study: str) -> Path:
        """The file of a study that this site joined. Raises Refused RSD-1213 when it did not."""
        file = self.home.study_folder(study) / "study.json"
        if not file.exists():
            raise Refused(
                "RSD-1213",
                "this site has not joined that study",
                rule="a round comes after a join with signed answers",
                found=study[:12],
                limit="a joined study",
                next="start the run again: residency run start",
            )
        return file


@lru_cache(maxsize=8)
def open_site(home: Path) -> Site:
    """The one Site of this process for `home`."""
    return Site(AgentHome(home))
