"""Somebody changes a bundle, rebuilds a log or the whole world. Each is caught with exit code 1."""

from __future__ import annotations

from functools import cache

import pytest

from compliance.clock import parse_time
from compliance.errors import CheckFailed, ResidencyError
from compliance.identity import parse_envelope
from compliance.log.entry import Entry
from compliance.log.evidence import LogEvidence
from compliance.release.build import build_bundle
from compliance.release.case import Contents, evidence_bytes
from compliance.release.evidence_check import verify_evidence
from compliance.release.manifest import check_files
from compliance.release.report import Report
from compliance.release.verify import verify_bundle, verify_integrity
from tests.world import AT, OPERATOR, REFUSED, Plan, World, build_world, rebuilt, world

DENYING = "site-d"


@cache
def honest() -> dict[str, bytes]:
    return world().bundle


@cache
def other_world() -> World:
    """The same names and the same study, with keys that somebody else made."""
    return build_world(Plan())


def exits(report: Report) -> int:
    return report.error.exit_code if report.error else 0


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# The entries of these files are many and alike: a step with no factor in common with their lengths meets each place.
EACH = pytest.param(1, marks=pytest.mark.slow)


@pytest.mark.parametrize("step", [11, EACH])
def test_every_byte_of_the_manifest(step: int) -> None:
    data, anchor = honest()["manifest.json"], world().anchor
    files = dict(honest())
    for at in range(0, len(data), step):
        files["manifest.json"] = flipped(data, at)
        assert exits(verify_bundle(files, anchor, AT)) == 1, at


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b"", b"\n\n"), (b" ", b"\n"), (b"", b" \n")])
def test_the_manifest_has_one_form(before: bytes, after: bytes) -> None:
    files = {**honest(), "manifest.json": before + honest()["manifest.json"][:-1] + after}
    assert exits(verify_bundle(files, world().anchor, AT)) == 1
    assert exits(verify_integrity(files)) == 1


# One file of each kind: the others differ in their signers only, and sixteen places of each are tried below.
SIGNED = ("study.json", "answers/site-a.advice.json", "answers/site-a.approval.json", "rosters/round-001.json")


@pytest.mark.parametrize("step", [5, EACH])
@pytest.mark.parametrize("path", SIGNED)
def test_every_byte_of_a_signed_file(path: str, step: int) -> None:
    """The manifest notices each byte; without it, by itself, the file's own signature or form does."""
    data = honest()[path]
    manifest = Contents(honest()).manifest
    claimed = manifest.model_copy(update={"files": tuple(f for f in manifest.files if f.path == path)})
    keys = {s.identity.keyid: s.identity.key() for s in world().keys.values()}
    signers = len(parse_envelope(data, path).signatures)
    for at in range(0, len(data), step):
        broken = flipped(data, at)
        with pytest.raises(CheckFailed, match="was changed"):
            check_files(claimed, {path: broken})
        try:
            good = len(parse_envelope(broken, path).valid_keyids(keys))
        except ResidencyError:
            continue
        assert good < signers, at


@pytest.mark.parametrize("path", sorted(honest()))
def test_sixteen_places_of_every_file(path: str) -> None:
    data, anchor = honest()[path], world().anchor
    for number in range(16):
        files = {**honest(), path: flipped(data, number * 7919 % len(data))}
        report = verify_bundle(files, anchor, AT)
        assert exits(report) == 1, number
        assert exits(verify_integrity(files)) == (1 if path != "manifest.json" else exits(verify_integrity(files)))


def test_another_world_with_new_keys_fails_under_the_first_trust_file() -> None:
    foreign = other_world()
    assert exits(foreign.verify(foreign.bundle)) == 0
    report = world().verify(foreign.bundle)
    assert exits(report) == 1
    assert report.failed is not None
    assert report.failed.step.number == 1


def test_a_second_bundle_of_the_same_operator_does_not_lend_its_files() -> None:
    """Files of an honest run of another study, put under this bundle's manifest and signed again."""
    second = build_world(Plan(rounds=3))
    for folder in ("rosters/", "evidence/", "snapshots/", "answers/"):
        files = {p: d for p, d in honest().items() if not p.startswith(folder)}
        files |= {p: d for p, d in second.bundle.items() if p.startswith(folder)}
        assert exits(world().verify(world().resigned(files))) == 1, folder


def cut(made: World) -> list[Entry]:
    """The entries of the insider's log without its denials of the model and of the release."""
    kept = [e for e in made.entries(DENYING) if not (e.kind == "decision" and e.body["peer"] == REFUSED)]
    assert len(kept) == len(made.entries(DENYING)) - 2
    return kept


def bundle_with(made: World, evidence: LogEvidence) -> dict[str, bytes]:
    """The release that the operator builds from the insider's evidence."""
    return build_bundle({**made.run, f"evidence/{DENYING}.json": evidence_bytes(evidence)}, made.operator, made.anchor)


def test_insider_cuts_a_denial_and_signs_the_log_again() -> None:
    made = world()
    original = made.evidence(DENYING)
    forged = rebuilt(made, DENYING, cut(made)).model_copy(update={"earlier": original.earlier})
    report = made.verify(bundle_with(made, forged))
    assert report.failed is not None
    assert report.failed.step.number == 7
    assert report.error is not None
    assert f"entries 0 to 10 of log {made.origin(DENYING)} are not those that" in report.error.message
    assert made.anchor.trust.witness_name(OPERATOR) in report.error.message
    assert "cosigned" in report.error.message


def test_insider_leaves_out_the_cosigned_checkpoints() -> None:
    made = world()
    report = made.verify(bundle_with(made, rebuilt(made, DENYING, cut(made))))
    assert report.failed is not None
    assert report.failed.step.number == 7
    assert report.error is not None
    assert f"too few witnesses cosigned log {made.origin(DENYING)}" in report.error.message


def test_insider_finds_an_accomplice_who_cosigns_the_forgery() -> None:
    made = world()
    report = made.verify(bundle_with(made, rebuilt(made, DENYING, cut(made), cosigners=["site-b"])))
    assert report.failed is not None
    assert report.failed.step.number == 7
    assert report.error is not None
    assert f"of log {made.origin(DENYING)} are not those that {OPERATOR} cosigned" in report.error.message


def test_the_evidence_file_alone_is_convicted_by_a_checkpoint_that_a_peer_holds() -> None:
    made = world()
    forged = evidence_bytes(rebuilt(made, DENYING, cut(made)))
    assert exits(verify_evidence(forged, [], made.anchor, AT)) == 0  # by itself it cannot be told
    held = [(f"held-{i}", text) for i, text in enumerate(made.held[DENYING])]
    report = verify_evidence(forged, held, made.anchor, AT)
    assert exits(report) == 1
    assert report.error is not None
    assert report.error.code == "RSD-9031"
    assert f"of log {made.origin(DENYING)} are not those that" in report.error.message
    honest_one = made.run[f"evidence/{DENYING}.json"]
    assert exits(verify_evidence(honest_one, held, made.anchor, AT)) == 0
    own = rebuilt(made, DENYING, made.entries(DENYING)[:3]).checkpoint
    assert exits(verify_evidence(honest_one, [("own", own)], made.anchor, AT)) == 1  # nobody else cosigned it


def test_evidence_of_a_stranger_or_of_another_member() -> None:
    made = world()
    foreign = other_world().run[f"evidence/{DENYING}.json"]
    assert exits(verify_evidence(foreign, [], made.anchor, AT)) == 1
    assert exits(verify_evidence(b"{}", [], made.anchor, AT)) == 1
    assert exits(verify_evidence(b"[" * 100_000, [], made.anchor, AT)) == 1
    late = parse_time("2030-01-01")
    assert exits(verify_evidence(made.run[f"evidence/{DENYING}.json"], [], made.anchor, late)) == 1
    data = made.run[f"evidence/{DENYING}.json"]
    for number in range(64):
        broken = flipped(data, number * 7919 % len(data))
        report = verify_evidence(broken, [], made.anchor, AT)
        assert exits(report) == 1 or _only_a_cosignature_was_lost(report), number


def _only_a_cosignature_was_lost(report: Report) -> bool:
    """A flipped byte in a witness's name makes its line that of a stranger, which notes must ignore."""
    whole = verify_evidence(world().run[f"evidence/{DENYING}.json"], [], world().anchor, AT)
    return sum(map(len, report.facts["cosigners"].values())) < sum(map(len, whole.facts["cosigners"].values()))
