"""A run whose study asks for an outside witness: online it works; away it fails the release loudly, and is mended."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, contextmanager

import pytest

from compliance.clock import now
from compliance.errors import RunFailed
from compliance.identity import seal
from compliance.log.evidence import LogEvidence, check_evidence
from compliance.log.witness_home import WitnessHome, known_logs
from compliance.log.witness_protocol import WitnessPart
from compliance.log.witness_server import WitnessDoor
from compliance.messages import CloseReply, decode, encode
from compliance.release.build import build_bundle
from compliance.release.bundle_folder import read_folder
from compliance.release.verify import verify_bundle
from compliance.trust.root import load_anchor
from compliance.trust.witnesses import witness_keys
from server import quorum
from server.outside_witnesses import install
from server.quorum import witness_error
from strategies.wire import Reply
from tests.desk import ok
from tests.federation import consortium
from tests.local_run import World
from tests.witnesses import WITNESS

SITES = ("a", "b")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two sites and a witness whom the trust file names: each site's log can have two neutral cosigners, not more."""
    monkeypatch.setattr(quorum, "PATIENCE_S", 0.0)
    monkeypatch.setattr(quorum.completed, "__defaults__", (0.0, lambda _: None))
    made = consortium()
    study = made.sign_study(model={**made.model, "adapters": None}, quorum={"sites": 2, "witnesses": 2})
    world = World(tmp_path, study, SITES)
    witness = WitnessHome.make(tmp_path / "witness", WITNESS, 300)
    _name(world, witness.signer().identity)
    with ExitStack() as stack:
        yield world.open(stack), witness


def _name(world, *keys):
    """The trust file at the operator and at the sites, with `keys` as well."""
    record = json.loads(consortium().anchor.envelope.payload)
    record |= {"version": 2, "previous": consortium().anchor.digest}
    record["keys"] += [k.as_json() for k in keys]
    data = seal(record, *consortium().signatories.values()).encode() + b"\n"
    for home in (world.hub, *world.homes):
        (home / "trust.json").write_bytes(data)


@contextmanager
def online(world, witness):
    """The witness answers in this process, and the server was started with its address."""
    signer = witness.signer()
    with witness.store(signer) as store:
        part = WitnessPart(store, known_logs([load_anchor(world.hub / "trust.json")], signer))
        door = WitnessDoor(("127.0.0.1", 0), part.answer, None)
        threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        install(world.hub, [f"127.0.0.1:{door.port}"], None)
        yield
        door.shutdown()
        door.server_close()


def verified(world):
    anchor = load_anchor(world.hub / "trust.json")
    files = build_bundle(read_folder(world.folder.path), consortium().operator, anchor)
    return verify_bundle(files, anchor, now())


def test_an_outside_witness_online_makes_the_quorum(world):
    world, witness = world
    with online(world, witness):
        world.run()
    assert world.result()["outcome"] == "finished"
    assert witness_error(world.hub, world.folder) is None
    assert verified(world).error is None
    assert world.events("unwitnessed") == []
    assert WITNESS in world.site("a").log.cosigned_sizes()  # the lines went back to the sites as well


def test_a_witness_that_is_away_blocks_no_training_and_fails_the_release_until_it_has_cosigned(world, tmp_path):
    world, witness = world
    with online(world, witness):
        pass  # its address is known, and nobody answers there
    world.run()
    assert world.result()["outcome"] == "finished"
    assert {e["error"]["code"] for e in world.events("unwitnessed")} == {"RSD-5102"}
    below = {e["site"]: e["error"] for e in world.events("below_witness_quorum")}
    assert set(below) == set(SITES)
    assert below["a"]["found"] == "1 (b)"
    error = witness_error(world.hub, world.folder)
    assert (error.code, error.exit_code, "a: 1 (b)" in error.found) == ("RSD-5117", 8, True)
    report = verified(world)
    assert (report.failed.step.number, report.error.found) == (7, "1 (b)")

    # By file, where no network reaches.
    trust = ("--trust", world.hub / "trust.json")
    files = sorted((world.folder.path / "evidence").glob("*.json"))
    done = ok("log", "witness", "cosign", *files, "--home", witness.root, *trust, "--out", tmp_path / "out")["cosigned"]
    ok("log", "witness", "take", *(d["file"] for d in done), "--into", world.folder.path, *trust)
    assert witness_error(world.hub, world.folder) is None
    assert verified(world).error is None


def test_a_run_that_can_never_get_its_witnesses_ends_before_anything_is_trained(world):
    world, _ = world
    _name(world)  # a trust file that names no witness
    with pytest.raises(RunFailed) as failed:
        world.run()
    assert (failed.value.code, failed.value.found, failed.value.limit[:2]) == ("RSD-5117", "1 (b)", "2 ")
    assert world.site("a").log.entries(0, kind="charge") == []


def _another_log(site, kind, reply):
    """Site a hands out the evidence of b's log as its own, then what is no evidence: b's release must not suffer."""
    if kind != "close" or site != "a" or not CAUGHT:
        if kind == "close" and site == "b":
            CAUGHT.append(decode(CloseReply, reply.body, "reply").evidence)
        return reply
    message = decode(CloseReply, reply.body, "reply")
    return Reply(encode(message.model_copy(update={"evidence": CAUGHT[-1]})))


CAUGHT = []


def test_a_site_that_hands_out_anothers_evidence_spoils_only_its_own(world):
    world, witness = world
    CAUGHT.clear()
    with online(world, witness):
        world.run(_another_log)
    assert world.result()["outcome"] == "finished"
    assert {(e["site"], e["error"]["code"]) for e in world.events("no_evidence")} == {("a", "RSD-5005")}
    b = LogEvidence.model_validate_json((world.folder.path / "evidence" / "b.json").read_bytes())
    anchor = load_anchor(world.hub / "trust.json")
    check_evidence(b, anchor.trust.log_key("b").key(), witness_keys(anchor.trust, "b", now()), 2)
