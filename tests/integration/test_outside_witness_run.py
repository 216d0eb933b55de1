"""A run whose study asks for an outside witness: online it works; away it fails the release loudly, and is mended.

What the witness is shown was decided and logged before, by the operator and by the site whose log it is.
"""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, contextmanager

import pytest

from compliance.clock import now
from compliance.errors import RunFailed
from compliance.identity import seal
from compliance.log import note
from compliance.log.evidence import LogEvidence, check_evidence
from compliance.log.witness_home import WitnessHome, known_logs
from compliance.log.witness_protocol import WitnessPart, parse_request
from compliance.log.witness_server import WitnessDoor
from compliance.messages import CloseReply, decode, encode
from compliance.release import verify_told
from compliance.release.build import build_bundle
from compliance.release.bundle_folder import read_folder
from compliance.release.case import Contents
from compliance.release.verify import verify_bundle
from compliance.trust.root import load_anchor
from compliance.trust.witnesses import witness_keys
from server import quorum
from server.outside_witnesses import install
from server.quorum import witness_error
from strategies.wire import Reply
from tests import egress
from tests.desk import ok
from tests.federation import OPERATOR, consortium
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


def _name(world, *keys, place="DE", homes=()):
    """The trust file at the operator and the sites, or only at `homes`, with `keys` as well, of holders in `place`."""
    record = json.loads(consortium().anchor.envelope.payload)
    record |= {"version": 2, "previous": consortium().anchor.digest}
    record["keys"] += [k.as_json() for k in keys]
    if place:
        record["witnesses"] = [{"name": k.holder, "jurisdiction": place} for k in keys]
    data = seal(record, *consortium().signatories.values()).encode() + b"\n"
    for home in homes or (world.hub, *world.homes):
        (home / "trust.json").write_bytes(data)


@contextmanager
def online(world, witness, then=lambda: None):
    """The witness answers in this process, at the address that the server has. `then`: done on the first request."""
    signer = witness.signer()
    with witness.store(signer) as store:
        part, arrived = WitnessPart(store, known_logs([load_anchor(world.hub / "trust.json")], signer)), []

        def answer(data):
            origin = note.parse(parse_request(data).note).text.partition("\n")[0]
            owner = origin.rpartition("/")[2]
            logs = {OPERATOR: world.hub, owner: next((h for h in world.homes if h.name == owner), world.hub)}
            arrived.append((owner, {name: _word(home) for name, home in logs.items()}))
            if len(arrived) == 1:
                then()
            return part.answer(data)

        door = WitnessDoor(("127.0.0.1", 0), answer, None)
        threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        install(world.hub, [f"{WITNESS}=127.0.0.1:{door.port}"], None)
        yield arrived
        door.shutdown()
        door.server_close()


def _decisions(home):
    """The decisions on the witness in the log at `home`, which the run holds open."""
    bodies = [e["body"] for _, e in egress._entries(home) if e["kind"] == "decision"]
    return [b for b in bodies if b["transfer"]["artifact"] == "log_checkpoint" and b["peer"] == WITNESS]


def _word(home):
    """The last of them: allow, deny or none."""
    return next((b["effect"] for b in reversed(_decisions(home))), "none")


def verified(world):
    anchor = load_anchor(world.hub / "trust.json")
    files = build_bundle(read_folder(world.folder.path), consortium().operator, anchor)
    return verify_bundle(files, anchor, now())


def test_an_outside_witness_online_makes_the_quorum(world):
    world, witness = world
    with online(world, witness) as arrived:
        world.run()
    assert world.result()["outcome"] == "finished"
    assert witness_error(world.hub, world.folder) is None
    report = verified(world)
    assert report.error is None
    assert world.events("unwitnessed") == []
    assert WITNESS in world.site("a").log.cosigned_sizes()  # the lines went back to the sites as well
    # Nothing was shown before it was decided and logged, by the operator and by whose log it is; and once for all.
    assert {owner for owner, _ in arrived} == {OPERATOR, *SITES}
    assert {word for _, words in arrived for word in words.values()} == {"allow"}
    assert [len(_decisions(home)) for home in (world.hub, *world.homes)] == [1, 1, 1]
    (told,) = [e.body["transfer"] for e in world.site("a").log.entries(kind="decision") if _to_operator(e)]
    assert [p["name"] for p in told["onward"]] == ["b", "c", "d", "e", WITNESS]
    assert WITNESS not in str(report.asserted())  # where it is, the trust file says

    # Whoever verifies with a trust file that does not say it is told whose word it is.
    anchor = load_anchor(world.hub / "trust.json")
    contents = Contents(build_bundle(read_folder(world.folder.path), consortium().operator, anchor))
    assert verify_told.outside(contents, anchor.trust) == []
    told = verify_told.outside(contents, consortium().anchor.trust)
    assert {(who, WITNESS in text, "is in DE" in text) for who, text in told} == {
        (who, True, True) for who in (OPERATOR, *SITES)
    }


def _to_operator(entry):
    about = entry.body["transfer"]
    return (about["artifact"], entry.body["peer"], about["study"] != "") == ("log_checkpoint", OPERATOR, True)


def test_a_witness_of_an_older_trust_file_is_shown_nothing_and_a_study_that_needs_it_is_refused(world):
    world, witness = world
    _name(world, witness.signer().identity, place="")
    with online(world, witness) as arrived, pytest.raises(RunFailed) as failed:
        world.run()
    assert (failed.value.code, arrived) == ("RSD-5117", [])
    assert "no country code" in failed.value.found
    assert "consortium admit --witness FILE --jurisdiction CODE" in failed.value.next
    assert [_word(home) for home in (world.hub, *world.homes)] == ["deny"] * 3
    assert world.site("a").log.entries(0, kind="charge") == []


def test_a_study_that_needs_no_outside_witness_goes_on_and_shows_a_denied_one_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(quorum, "PATIENCE_S", 0.0)
    study = consortium().sign_study(model={**consortium().model, "adapters": None}, quorum={"sites": 2})
    world, witness = World(tmp_path, study, SITES), WitnessHome.make(tmp_path / "witness", WITNESS, 300)
    _name(world, witness.signer().identity, place="")
    with ExitStack() as stack:
        arrived = stack.enter_context(online(world.open(stack), witness))
        world.run()
        assert (world.result()["outcome"], arrived) == ("finished", [])
        told = [(e["witness"][:4], e["error"]["code"]) for e in world.events("unwitnessed")]
        assert told == [("http", "RSD-3100")]  # once, not once a round
        assert len(_decisions(world.hub)) == 1
        assert verified(world).error is None


def test_a_site_whose_own_trust_file_does_not_name_the_witness_keeps_its_log_from_it(world):
    world, witness = world
    _name(world, homes=world.homes[:1])  # a has not installed the next version yet: it was never asked
    with online(world, witness) as arrived, pytest.raises(RunFailed) as failed:
        world.run()
    assert (failed.value.code, arrived) == ("RSD-5117", [])
    assert ("the checkpoint of a is not passed on" in failed.value.found, "ask a" in failed.value.next) == (True, True)


def test_a_witness_that_is_in_another_country_from_the_middle_of_a_run_is_decided_on_anew(world):
    world, witness = world
    with online(
        world, witness, then=lambda: _name(world, witness.signer().identity, place="FR", homes=(world.hub,))
    ) as arrived:
        world.run()
    assert [owner for owner, _ in arrived if owner != OPERATOR] == ["a"]  # before; no site was asked about France
    assert [d["recipient"]["jurisdiction"] for d in _decisions(world.hub)] == ["DE", "FR"]
    told = [e["error"] for e in world.events("unwitnessed")]
    assert {e["code"] for e in told} == {"RSD-5120"}
    assert all("in DE; the operator's trust file: patients-union in FR" in e["found"] for e in told)
    assert witness_error(world.hub, world.folder) is not None


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
