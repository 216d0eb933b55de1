"""The insider's forgery is sound by itself; only what a peer kept convicts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from compliance.canonical import parse_json
from compliance.errors import CheckFailed, RunFailed
from compliance.identity import Signer, new_signer, save_signer
from compliance.log.evidence import LogEvidence, check_evidence, compare_checkpoint
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.trust.root import Anchor, Trust
from demo.insider import copy_database, denies, forge, held_by_peer
from tests.log_drafts import CLOSE, decided

STUDY = "ab" * 32


class Place:
    """One site's log with a denial, cosigned by a peer, in two agents' homes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.signers = {n: self._agent(n) for n in ("other", "svi", "svhd")}
        self.anchor = Anchor(self._trust(), "0" * 64, None)  # type: ignore[arg-type]
        self.origin = self.anchor.trust.log_origin("other")
        name = self.anchor.trust.witness_name("svi")
        with (
            LogStore.open(root / "other" / "log.db", self.origin, self.signers["other"].private) as log,
            WitnessStore(root / "svi" / "witness.db", name, self.signers["svi"].private) as peer,
        ):
            for kind, body in (
                ("study", {"name": "thyroid"}),
                ("decision", decided("svi", allow=True)),
                ("decision", decided("svhd", allow=False)),
                ("close", CLOSE),
            ):
                log.append(kind, body, STUDY)
            peer.cosign(log.checkpoint(), log.public_key, 0, ())

    def _agent(self, name: str) -> Signer:
        signer = new_signer("agent", name, "2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z")
        save_signer(signer, self.root / name / "keys")
        return signer

    def _trust(self) -> Trust:
        record = {
            "schema": "residency.trust/1",
            "consortium": "demo",
            "version": 1,
            "issued": "2026-01-01T00:00:00Z",
            "expires": "2036-01-01T00:00:00Z",
            "threshold": 1,
            "operator": {"name": "hub", "jurisdiction": "IE"},
            "sites": tuple({"name": n, "jurisdiction": "FR"} for n in self.signers),
            "keys": tuple(s.identity.as_json() for s in self.signers.values()),
        }
        return Trust.model_validate(record)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A fresh one."""
    return Place(tmp_path)


def load(path: Path) -> LogEvidence:
    """Evidence from its file."""
    return LogEvidence.model_validate(parse_json(path.read_bytes(), "evidence"))


def test_the_forgery_is_sound_by_itself_and_lacks_the_denial(place: Place, tmp_path: Path) -> None:
    made = forge(tmp_path / "other", place.anchor, "other", "svhd", tmp_path / "out")
    key = place.signers["other"].private.public_key()
    honest = check_evidence(load(made.honest), key, {}, 0)
    forged = check_evidence(load(made.evidence), key, {}, 0)
    assert made.cut_index == 2
    assert any(denies("svhd")(e) for e in honest.entries.values())
    assert not any(denies("svhd")(e) for e in forged.entries.values())
    assert forged.size == honest.size - 1


def test_what_a_peer_kept_convicts_it_and_clears_the_honest_one(place: Place, tmp_path: Path) -> None:
    made = forge(tmp_path / "other", place.anchor, "other", "svhd", tmp_path / "out")
    held = held_by_peer(tmp_path / "svi", place.anchor, "svi", place.origin, tmp_path / "out")
    texts = [p.read_text() for p in held]
    assert len(texts) == 1
    keys = {place.anchor.trust.witness_name("svi"): place.signers["svi"].private.public_key()}
    own = place.signers["other"].private.public_key()
    compare_checkpoint(load(made.honest), *texts, origin=place.origin, log_key=own, witness_keys=keys)
    with pytest.raises(CheckFailed, match="RSD-5053"):
        compare_checkpoint(load(made.evidence), *texts, origin=place.origin, log_key=own, witness_keys=keys)


def test_the_real_log_is_untouched(place: Place, tmp_path: Path) -> None:
    forge(tmp_path / "other", place.anchor, "other", "svhd", tmp_path / "out")
    with LogStore.open(tmp_path / "other" / "log.db", place.origin, place.signers["other"].private) as log:
        assert log.fsck() == 4


def test_without_a_denial_there_is_nothing_to_cut(place: Place, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="RSD-8905"):
        forge(tmp_path / "other", place.anchor, "other", "stmw", tmp_path / "out")


def test_a_copy_of_an_open_database_is_whole(place: Place, tmp_path: Path) -> None:
    with LogStore.open(tmp_path / "other" / "log.db", place.origin, place.signers["other"].private) as log:
        log.append("close", CLOSE, STUDY)  # still in the write-ahead log
        copy_database(tmp_path / "other" / "log.db", tmp_path / "copy.db")
        with LogStore.open(tmp_path / "copy.db", place.origin, place.signers["other"].private) as copy:
            assert copy.size == log.size
