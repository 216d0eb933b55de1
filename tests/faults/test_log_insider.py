"""An insider with the file and the real log key cuts an entry, rebuilds and re-signs: a peer's cosignature convicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import CheckFailed
from compliance.log import tree
from compliance.log.entry import Entry
from compliance.log.evidence import build_evidence, check_evidence, compare_checkpoint
from compliance.log.store import Draft, LogStore
from compliance.log.witness import WitnessStore
from tests.log_drafts import commit, refusal_body

KEY = Ed25519PrivateKey.generate()
WITNESS = Ed25519PrivateKey.generate()
PEERS = {"berta.example": WITNESS.public_key()}
ORIGIN = "anna.example/log"
DENIAL = 41


def draft(e: Entry) -> Draft:
    return Draft(e.kind, e.body, e.study)


def cut(entries: list[Entry]) -> list[Draft]:
    return [draft(e) for e in entries if e.index != DENIAL]


def cut_and_fill_up(entries: list[Entry]) -> list[Draft]:
    return [*cut(entries), commit(99)]


def change(entries: list[Entry]) -> list[Draft]:
    return [commit(DENIAL) if e.index == DENIAL else draft(e) for e in entries]


@pytest.mark.parametrize("rebuild", [cut, cut_and_fill_up, change])
def test_a_rebuilt_log_is_convicted(tmp_path: Path, rebuild: Callable[[list[Entry]], list[Draft]]) -> None:
    with WitnessStore(tmp_path / "peer.sqlite", "berta.example", WITNESS) as peer:
        with LogStore.open(tmp_path / "log.sqlite", ORIGIN, KEY) as store:
            for size in (38, 45):
                store.append_many(
                    [commit(i) if i != DENIAL else Draft("refusal", refusal_body()) for i in range(store.size, size)]
                )
                last = peer.last(ORIGIN)
                old = last[0] if last else 0
                peer.cosign(store.checkpoint(), store.public_key, old, store.consistency_proof(old))
            entries = store.entries()

        with LogStore.open(tmp_path / "rebuilt.sqlite", ORIGIN, KEY) as rebuilt:
            # The best an insider can do: keep the honest bytes up to the entry, so that the first cosignature fits.
            copy_prefix(tmp_path / "log.sqlite", rebuilt, DENIAL)
            rebuilt.append_many(rebuild(entries)[DENIAL:])
            assert rebuilt.fsck() == rebuilt.size
            evidence = build_evidence(rebuilt, [3])
            check_evidence(evidence, KEY.public_key(), PEERS, 0)  # alone it looks perfect
            for log in (evidence, rebuilt.leaf_hashes()):
                with pytest.raises(CheckFailed) as e:
                    compare_checkpoint(
                        log, *peer.notes(ORIGIN), origin=ORIGIN, log_key=KEY.public_key(), witness_keys=PEERS
                    )
                assert e.value.code == "RSD-5053"
                assert e.value.message == (
                    f"entries 38 to 44 of log {ORIGIN} are not those that berta.example cosigned"
                )
            with pytest.raises(CheckFailed, match=r"RSD-50(40|41|43|11)"):
                peer.cosign(rebuilt.checkpoint(), KEY.public_key(), 38, rebuilt.consistency_proof(38))


def copy_prefix(honest: Path, rebuilt: LogStore, count: int) -> None:
    with LogStore.open(honest, ORIGIN, KEY) as store, rebuilt._database.writing() as connection:
        tree.insert(connection, 0, [entry.encode() for entry in store.entries(0, count)])
