"""The .tlog-proof files of a bundle, read from their text alone and checked by golang.org/x/mod/sumdb."""

from __future__ import annotations

import base64

import pytest

from compliance.canonical import b64encode
from compliance.log import merkle
from tests.conformance.oracle import Oracle, verifier_key
from tests.world import world

PROOFS = ("coordinator.close", "coordinator.roster", "site-a.commit", "site-d.transfer")


@pytest.mark.parametrize("name", PROOFS)
def test_go_finds_the_entry_under_the_signed_checkpoint(oracle: Oracle, name: str) -> None:
    head, _, signed = world().bundle[f"proofs/{name}.tlog-proof"].decode().partition("\n\n")
    first, extra, index, *hashes = head.split("\n")
    assert first == "c2sp.org/tlog-proof@v1"
    member = name.split(".", maxsplit=1)[0]
    origin, size, root = signed.split("\n")[:3]
    key = verifier_key(origin, world().log_signer(member).private.public_key())
    assert oracle.ask("open", text=signed, key=key)["text"] == f"{origin}\n{size}\n{root}\n"
    entry = base64.b64decode(extra.removeprefix("extra "))
    at = int(index.removeprefix("index "))

    def found(record: bytes, where: int) -> bool:
        return oracle.accepts(
            "check record",
            proof=hashes,
            size=int(size),
            root=root,
            index=where,
            leaf=b64encode(merkle.leaf_hash(record)),
        )

    assert found(entry, at)
    assert not found(entry + b" ", at)
    assert not found(entry, at - 1)
