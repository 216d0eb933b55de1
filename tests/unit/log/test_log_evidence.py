"""Evidence of a log: what it proves, and every way to falsify it that we could think of."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import CheckFailed, InputError, ResidencyError
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.entry import decode
from compliance.log.evidence import LogEvidence, build_evidence, check_evidence, compare_checkpoint
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from tests.log_drafts import CLOSE, commit

KEY = Ed25519PrivateKey.generate()
LOG = KEY.public_key()
WITNESSES = {name: Ed25519PrivateKey.generate() for name in ("berta.example", "carl.example")}
PEERS = {name: key.public_key() for name, key in WITNESSES.items()}
ORIGIN = "anna.example/log"


def cosign_now(store: LogStore, witness: WitnessStore) -> str:
    """What a site does after a round: have the checkpoint cosigned, keep the cosignature."""
    last = witness.last(store.origin)
    old = last[0] if last else 0
    done = witness.cosign(store.checkpoint(), store.public_key, old, store.consistency_proof(old))
    store.add_cosignature(done.size, done.line, PEERS)
    return done.line


@pytest.fixture
def witnesses(tmp_path: Path) -> Iterator[list[WitnessStore]]:
    opened = [WitnessStore(tmp_path / f"{name}.sqlite", name, key) for name, key in WITNESSES.items()]
    yield opened
    for witness in opened:
        witness.close()


@pytest.fixture
def store(tmp_path: Path, witnesses: list[WitnessStore]) -> Iterator[LogStore]:
    """20 entries: berta cosigned at 5, 10 and 20, carl at 10 and 20."""
    with LogStore.open(tmp_path / "log.sqlite", ORIGIN, KEY) as opened:
        for size, who in [(5, witnesses[:1]), (10, witnesses), (20, witnesses)]:
            opened.append_many([commit(i) for i in range(opened.size, size)])
            for witness in who:
                cosign_now(opened, witness)
        yield opened


def test_good_evidence(store: LogStore) -> None:
    evidence = LogEvidence.model_validate_json(build_evidence(store, [7, 2, 7, 19]).model_dump_json())
    checked = check_evidence(evidence, LOG, PEERS, 2)
    assert (checked.origin, checked.size) == (ORIGIN, 20)
    assert checked.entries == {i: store.entry(i) for i in (2, 7, 19)}
    assert checked.cosigners == {"berta.example": [5, 10, 20], "carl.example": [10, 20]}


def test_which_checkpoint_is_taken(store: LogStore) -> None:
    store.append("close", CLOSE)
    assert check_evidence(build_evidence(store, [3]), LOG, PEERS, 2).size == 20
    assert check_evidence(build_evidence(store, [3], 10), LOG, PEERS, 2).size == 10
    newest = build_evidence(store, [20])
    assert check_evidence(newest, LOG, PEERS, 0).size == 21
    with pytest.raises(CheckFailed, match="RSD-5054") as e:
        check_evidence(newest, LOG, PEERS, 1)
    assert (e.value.found, e.value.limit) == ("0 (nobody)", "at least 1")
    with pytest.raises(InputError, match="RSD-5034"):
        build_evidence(store, [21])


def test_an_entry_beyond_the_checkpoint_is_not_proved(store: LogStore) -> None:
    with pytest.raises(CheckFailed, match="RSD-5051 entry 12 "):
        check_evidence(build_evidence(store, [12], 10), LOG, PEERS, 0)


def test_an_empty_log(tmp_path: Path) -> None:
    with LogStore.open(tmp_path / "empty.sqlite", ORIGIN, KEY) as empty:
        assert check_evidence(build_evidence(empty, []), LOG, PEERS, 0).size == 0


def other_entry(e: dict[str, Any], i: int = 0) -> None:
    data = base64.b64decode(e["entries"][i]["entry"]).replace(b'"commit"', b'"policy"')
    e["entries"][i]["entry"] = base64.b64encode(data).decode()


def other_entry_and_hash(e: dict[str, Any]) -> None:
    other_entry(e)
    data = base64.b64decode(e["entries"][0]["entry"])
    e["leaf_hashes"][decode(data).index] = merkle.leaf_hash(data).hex()


def other_hash(e: dict[str, Any]) -> None:
    e["leaf_hashes"][12] = "00" * 32


def cut(e: dict[str, Any]) -> None:
    del e["leaf_hashes"][12]


def add(e: dict[str, Any]) -> None:
    e["leaf_hashes"].append("00" * 32)


def moved_index(e: dict[str, Any]) -> None:
    e["entries"][0]["index"] += 1


def far_index(e: dict[str, Any]) -> None:
    e["entries"][0]["index"] = 10**6


def twice(e: dict[str, Any]) -> None:
    e["entries"].append(e["entries"][0])


def renamed(e: dict[str, Any]) -> None:
    e["origin"] = "dora.example/log"


def later(e: dict[str, Any]) -> None:
    e["checkpoint"], e["earlier"] = e["earlier"][0], [e["checkpoint"]]


def no_log_line(e: dict[str, Any]) -> None:
    held = note.parse(e["checkpoint"])
    e["checkpoint"] = note.Note(held.text, held.signatures[1:]).encode()


def bad_cosignature(e: dict[str, Any]) -> None:
    held = note.parse(e["checkpoint"])
    spoiled = note.Signature(held.signatures[1].name, held.signatures[1].key_id, bytes(72))
    e["checkpoint"] = note.with_signature(held, spoiled).encode()


def bad_earlier(e: dict[str, Any]) -> None:
    text = checkpoint.sign(Checkpoint(ORIGIN, 5, bytes(32)), KEY)
    e["earlier"][0] = text


def unsigned_cosigners(e: dict[str, Any]) -> None:
    e["checkpoint"] = note.Note(note.parse(e["checkpoint"]).text, note.parse(e["checkpoint"]).signatures[:1]).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_entry, "RSD-5051 entry 7 of log anna.example/log"),
        (
            other_entry_and_hash,
            "RSD-5053 entries 5 to 9 of log .* are not those that berta.example and carl.example cosigned",
        ),
        (other_hash, r"RSD-5053 entries 10 to 19 of log anna.example/log"),
        (cut, r"RSD-5053 entries 10 to 19 .*found 19 entries in all, no root at 20"),
        (add, "RSD-5050"),
        (moved_index, "RSD-5051 entry 8"),
        (far_index, "RSD-5051 entry 1000000"),
        (twice, "RSD-5051 entry 7"),
        (renamed, "RSD-5005"),
        (later, "RSD-5050"),
        (no_log_line, "RSD-5002"),
        (bad_cosignature, "RSD-5002"),
        (bad_earlier, "RSD-5053 entries 0 to 4 .*that the log itself signed"),
        (unsigned_cosigners, "RSD-5054"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_falsified_evidence_is_named(store: LogStore, change: Callable[[dict[str, Any]], None], says: str) -> None:
    fields = build_evidence(store, [7, 15]).model_dump(mode="json")
    check_evidence(LogEvidence.model_validate(fields), LOG, PEERS, 2)
    change(fields)
    with pytest.raises(ResidencyError, match=says):
        check_evidence(LogEvidence.model_validate(fields), LOG, PEERS, 2)


def test_keys_come_from_outside(store: LogStore) -> None:
    evidence = build_evidence(store, [7])
    stranger = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(CheckFailed, match="RSD-5002"):
        check_evidence(evidence, stranger, PEERS, 0)
    with pytest.raises(CheckFailed, match="RSD-5054"):
        check_evidence(evidence, LOG, {"berta.example": stranger}, 1)
    with pytest.raises(InputError, match="RSD-5055"):
        check_evidence(evidence, LOG, {"a": PEERS["berta.example"], "b": PEERS["berta.example"]}, 2)
    with pytest.raises(InputError, match="RSD-5055"):
        check_evidence(evidence, LOG, {"anna.example": LOG}, 1)


def test_a_peer_compares_what_it_kept(store: LogStore, witnesses: list[WitnessStore]) -> None:
    held = witnesses[1].notes(ORIGIN)
    for log in (build_evidence(store, [7]), store.leaf_hashes()):
        compared = compare_checkpoint(log, *held, origin=ORIGIN, log_key=LOG, witness_keys=PEERS)
        assert [c.size for c in compared] == [10, 20]
    older = build_evidence(store, [7], 10)
    assert [
        c.size for c in compare_checkpoint(older, *held, origin=ORIGIN, log_key=LOG, witness_keys=PEERS, complete=False)
    ] == [10]
    with pytest.raises(CheckFailed, match=r"entries 10 to 19 .* are not those that carl.example cosigned"):
        compare_checkpoint(older, *held, origin=ORIGIN, log_key=LOG, witness_keys=PEERS)
    with pytest.raises(CheckFailed, match="RSD-5005"):
        compare_checkpoint(older, *held, origin="dora.example/log", log_key=LOG, witness_keys=PEERS)


def test_a_forged_held_checkpoint_convicts_nobody(store: LogStore) -> None:
    """A peer that wants to blame a log needs the log's own signature."""
    text = Checkpoint(ORIGIN, 20, bytes(32)).text()
    peer = WITNESSES["berta.example"]
    forged = note.Note(text, (cosign.cosign(text, "berta.example", peer, 1_700_000_000),)).encode()
    with pytest.raises(CheckFailed, match="RSD-5002"):
        compare_checkpoint(store.leaf_hashes(), forged, origin=ORIGIN, log_key=LOG, witness_keys=PEERS)


def test_opened_entries_alone_reveal_nothing_of_the_others(store: LogStore) -> None:
    text = build_evidence(store, [7]).model_dump_json()
    assert all(store.entry(i).salt not in text for i in range(20))
