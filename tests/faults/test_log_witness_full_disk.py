"""A witness whose disk is full: no cosignature, no memory of one; when there is room again, it goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import EnvironmentFault
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from tests.log_drafts import commit

ORIGIN = "anna.example/log"


def test_a_full_disk_stops_the_witness_and_nothing_is_cosigned(tmp_path: Path) -> None:
    key, peer = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with (
        LogStore.open(tmp_path / "log.db", ORIGIN, key) as store,
        WitnessStore(tmp_path / "witness.db", "berta.example", peer) as witness,
    ):

        def grown() -> int:
            before = witness.last(ORIGIN)
            store.append_many([commit(store.size)])
            old = before[0] if before else 0
            return witness.cosign(store.checkpoint(), store.public_key, old, store.consistency_proof(old)).size

        assert grown() == 1
        connection = witness._database._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(EnvironmentFault, match="RSD-5030"):
            list(iter(grown, 0))
        remembered = witness.last(ORIGIN)
        assert remembered is not None
        refused = store.size
        assert 1 < remembered[0] == refused - 1 == len(witness.notes(ORIGIN))
        connection.execute(f"PRAGMA max_page_count = {pages + 100}")
        assert grown() == refused + 1
        assert len(witness.notes(ORIGIN)) == refused  # the one that was refused was never cosigned
