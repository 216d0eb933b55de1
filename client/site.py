"""One site at work: its stores, its worker, and what it remembers of the studies that it joined."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from client.admission import Case, check_answers, open_case
from client.home import AgentHome
from client.workbench import Workbench
from compliance.canonical import Json, parse_canonical
from compliance.errors import Refused, ResidencyError
from compliance.files import read_bytes
from compliance.identity import Signer
from compliance.law.model import Decision, Party
from compliance.law.vocabulary import Artifact
from compliance.log import merkle
from compliance.log.checkpoint import open_signed
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import CheckpointOffer
from compliance.privacy.ledger import Ledger
from compliance.roster import EntryRef
from compliance.trust.root import Anchor

_KEPT_OFFERS = 64


class Site:
    """Everything that one agent process holds open. Not thread-safe: the node answers one message at a time."""

    def __init__(self, home: AgentHome) -> None:
        self.home = home
        self.name = home.config.site
        self.anchor: Anchor = home.anchor()
        self.signer: Signer = home.signer()
        self.log: LogStore = home.log(self.anchor, self.signer)
        self.witness: WitnessStore = home.witness(self.anchor, self.signer)
        self.ledger: Ledger = home.ledger()
        self.workbench = Workbench()
        self._seen: set[int] = set()  # sizes that the operator says others have seen

    def close(self) -> None:
        """Stop the worker and close the stores."""
        self.workbench.close()
        self.log.close()
        self.witness.close()
        self.ledger.close()

    def record(self, kind: str, body: dict[str, Json], study: str) -> EntryRef:
        """Append to the log; it is on disk when this returns."""
        added = self.log.append(kind, body, study)
        return EntryRef(origin=self.log.origin, index=added.index, leaf=added.leaf_hash.hex())

    def decide(
        self, case: Case, artifact: Artifact, recipient: Party, onward: tuple[Party, ...] = (), round_: int = 0
    ) -> tuple[Decision, EntryRef]:
        """Decide about one transfer and log the decision, whichever way it falls."""
        decision = case.decide(artifact, recipient, onward)
        body = {**decision.as_entry(), "round": round_, "peer": recipient.name}
        return decision, self.record("decision", body, case.digest)

    def offer(self) -> CheckpointOffer:
        """The log's checkpoint now, with proofs from the sizes that others may have cosigned."""
        size = self.log.size
        known = {*self.log.signed_sizes(_KEPT_OFFERS), *self._seen}  # on disk: a restart forgets none
        earlier = sorted(s for s in known if 0 < s <= size)
        proofs = {str(s): tuple(h.hex() for h in self.log.consistency_proof(s, size)) for s in earlier}
        return CheckpointOffer(origin=self.log.origin, note=self.log.checkpoint(size), proofs=proofs)

    def check_not_restored(self, known: str) -> None:
        """This site's log continues `known`, its own checkpoint as others last saw it. Raises Refused RSD-1225.

        A home restored from a backup would train and spend again what it has forgotten.
        """
        if not known:
            return
        seen = open_signed(known, self.log.public_key, self.log.origin).checkpoint
        size = self.log.size
        self._seen.add(seen.size)
        if seen.size > size or merkle.root(self.log.leaf_hashes(seen.size)) != seen.root:
            raise Refused(
                "RSD-1225",
                "this site's log is older than the one that others have seen, or another one",
                rule="a restored home may not spend again",
                found=f"{size} entries",
                limit=f"a continuation of {seen.size} entries",
                next="restore the newest home; if it is lost, retire the data source with the DPO's advice",
            )

    def check_ledger(self) -> None:
        """Every charge in the log stands in the ledger, at its place. Raises Refused RSD-1225 for a restored ledger."""
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
        case = open_case(self.home, read_bytes(file, "study"), str(file))
        answers = parse_canonical(read_bytes(file.with_name("answers.json"), "answers"), "answers.json")
        check_answers(case, tuple(answers))
        return case

    def record_refusal(self, error: ResidencyError, study: str) -> None:
        """Log what was refused before the refusal is answered."""
        self.record("refusal", {**error.as_json()}, study)


@lru_cache(maxsize=8)
def open_site(home: Path) -> Site:
    """The one Site of this process for `home`."""
    return Site(AgentHome(home))
