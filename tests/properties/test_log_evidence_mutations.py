"""Whatever is changed in evidence, the check says no, or proves less; never something else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compliance.errors import ResidencyError
from compliance.log.evidence import LogEvidence, build_evidence, check_evidence
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from tests.log_drafts import commit

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PEERS = {"berta.example": WITNESS.public_key()}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("evidence")
    with (
        LogStore.open(folder / "log.sqlite", "anna.example/log", KEY) as store,
        WitnessStore(folder / "witness.sqlite", "berta.example", WITNESS) as witness,
    ):
        old = 0
        for size in (3, 7):
            store.append_many([commit(i) for i in range(old, size)])
            done = witness.cosign(store.checkpoint(), store.public_key, old, store.consistency_proof(old))
            store.add_cosignature(done.size, done.line, PEERS)
            old = size
        yield build_evidence(store, [1, 5]).model_dump_json()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every string and number."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*at, key))
    else:
        yield at


def changed(value: Any, position: int, by: int) -> Any:
    if isinstance(value, int):
        return value + by
    i = position % len(value)
    return value[:i] + chr((ord(value[i]) + by) % 128) + value[i + 1 :]


@given(where=st.integers(0, 10**6), position=st.integers(0, 10**6), by=st.integers(1, 127))
def test_one_changed_character_is_found(text: str, where: int, position: int, by: int) -> None:
    fields = json.loads(text)
    paths = list(places(fields))
    *parents, last = paths[where % len(paths)]
    holder = fields
    for key in parents:
        holder = holder[key]
    original = holder[last]
    holder[last] = changed(original, position, by)
    honest = check_evidence(LogEvidence.model_validate_json(text), KEY.public_key(), PEERS, 1)
    try:
        checked = check_evidence(LogEvidence.model_validate(fields), KEY.public_key(), PEERS, 1)
    except (ResidencyError, ValidationError):
        return
    # A line of an unknown key is ignored, so an earlier cosignature can be made unknown: that only proves less.
    assert parents[0] == "earlier"
    assert (checked.size, checked.entries) == (honest.size, honest.entries)
    assert checked.cosigners == {"berta.example": [7]} != honest.cosigners


@given(where=st.integers(0, 10**6), other=st.integers(0, 10**6))
def test_a_dropped_or_swapped_leaf_is_found(text: str, where: int, other: int) -> None:
    fields = json.loads(text)
    leaves = fields["leaf_hashes"]
    i, j = where % len(leaves), other % len(leaves)
    if i == j:
        del leaves[i]
    else:
        leaves[i], leaves[j] = leaves[j], leaves[i]
    with pytest.raises(ResidencyError, match=r"RSD-5053 entr(y|ies) "):
        check_evidence(LogEvidence.model_validate(fields), KEY.public_key(), PEERS, 1)
