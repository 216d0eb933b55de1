"""What a dishonest operator may send to a site: nothing of it changes privacy, and each refusal is logged."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import session
from client.work import RoundSpec
from compliance.canonical import canonical, parse_canonical, sha256_hex
from compliance.errors import InputError, Refused, ResidencyError
from compliance.identity import new_signer, parse_envelope, seal
from compliance.log import checkpoint, cosign, note
from compliance.messages import (
    CheckpointOffer,
    CosignedLine,
    RoundReply,
    WitnessReply,
    WitnessRequest,
    decode,
    encode,
)
from compliance.roster import Reason, Roster, RosterRow
from strategies.wire import Request
from tests.federation import (
    OPERATOR,
    REFUSED,
    SIGMA_MICRO,
    SIZE,
    TRAINING,
    consortium,
    day,
    entries,
    joined_home,
    main_study,
    open_home,
)
from tests.log_drafts import commit_body

PEER = "b"
ZEROS = np.zeros(SIZE, dtype="<f4")


@pytest.fixture
def site(tmp_path):
    """Site a, which has joined the main study."""
    with open_home(joined_home("a", tmp_path)) as opened:
        yield opened


def _refused(site, request, code, kind=Refused):
    with pytest.raises(kind) as error:
        session.answer(site, request)
    assert error.value.code == code
    assert entries(site, "refusal")[-1].body["code"] == code
    return error.value


def _specs():
    """The only attempts that the signed study allows."""
    fields = {
        "steps": 2,
        "sample_numerator": 20,
        "sample_denominator": 200,
        "expected_batch": 20,
        "clip_micro": 1_000_000,
        "noise_multiplier_micro": SIGMA_MICRO,
        "physical_batch": 16,
        "head_rate_milli": 1000,
        "adapter_rate_milli": 500,
    }
    return [RoundSpec(round=r, attempt=1, **fields) for r in (1, 2)]


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", max_size=12)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
extras = st.sampled_from(["noise_multiplier_micro", "sigma", "steps", "seed", "clip_micro", "batch", "epsilon_milli"])
messages = st.fixed_dictionaries(
    {
        "schema": st.just("residency.round/1"),
        "run": names,
        "study": st.one_of(st.none(), digests),
        "round": st.one_of(st.integers(-1, 4), st.integers()),
        "recipients": st.lists(st.one_of(st.sampled_from([*TRAINING, REFUSED]), names), max_size=6),
        "base_sha256": st.one_of(st.none(), digests),
    },
    optional={},
)


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory):
    with open_home(joined_home("a", tmp_path_factory.mktemp("shared"))) as opened:
        yield opened


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(message=messages, extra=st.one_of(st.none(), st.tuples(extras, st.integers())), scale=st.floats(-3, 3, width=32))
def test_no_message_changes_a_privacy_parameter(shared_site, message, extra, scale):
    base = np.full(SIZE, scale, dtype="<f4")
    body = {**message}
    body["study"] = body["study"] or main_study().digest
    body["base_sha256"] = body["base_sha256"] or sha256_hex(base.tobytes())
    if extra:
        body[extra[0]] = extra[1]
    with suppress(ResidencyError):
        session.answer(shared_site, Request("round", canonical(body), base))
    assert set(map(repr, shared_site.workbench.specs)) <= set(map(repr, _specs()))
    charged = [c.event for c in shared_site.ledger.charges(main_study().digest)]
    assert {(e.noise_multiplier_micro, e.steps, e.sample_numerator) for e in charged} <= {(SIGMA_MICRO, 2, 20)}
    assert len(charged) == len(shared_site.workbench.specs) <= 2


def test_an_honest_round_brings_exactly_the_signed_parameters_to_the_worker(site):
    session.answer(site, main_study().round())
    assert site.workbench.specs == _specs()[:1]


@pytest.mark.parametrize("field", ["noise_multiplier_micro", "seed", "clip_micro", "steps"])
def test_a_round_with_a_parameter_of_its_own_is_refused(site, field):
    body = {**parse_canonical(main_study().round().body, "round"), field: 1}
    error = _refused(site, Request("round", canonical(body), ZEROS), "RSD-1210", InputError)
    assert field in error.message
    assert site.workbench.specs == []


def test_a_round_for_a_denied_recipient_is_refused_after_it_was_denied_in_the_log(site):
    error = _refused(site, main_study().round(recipients=(*TRAINING, REFUSED)), "RSD-3100")
    assert error.rule.startswith("eu.no-basis: GDPR Art 44")
    denial = entries(site, "decision")[-1]
    assert (denial.body["effect"], denial.body["allow"], denial.body["round"]) == ("deny", False, 1)
    assert not entries(site, "transfer")


def test_an_update_is_decided_for_whoever_may_have_the_release_although_the_round_does_not_name_them(site):
    """It reaches them inside the released model, whatever the operator says of the round."""
    session.answer(site, main_study().round(recipients=("a",)))
    (told,) = (
        t for e in entries(site, "decision") if (t := e.body["transfer"])["artifact"] == "dp_update" and e.body["round"]
    )
    assert sorted(party["name"] for party in told["onward"]) == sorted({*TRAINING} - {"a"})


@pytest.mark.parametrize(
    ("changes", "code", "kind"),
    [
        ({"recipients": (*TRAINING, "mallory")}, "RSD-1212", Refused),
        ({"round": 3}, "RSD-1216", Refused),
        ({"base_sha256": "ab" * 32}, "RSD-1214", InputError),
        ({"study": "ab" * 32}, "RSD-1213", Refused),
    ],
)
def test_a_round_that_the_study_does_not_know_is_refused_uncharged(site, changes, code, kind):
    _refused(site, main_study().round(**changes), code, kind)
    assert site.ledger.charges(main_study().digest) == ()
    assert site.workbench.specs == []


def test_a_round_without_its_array_is_refused(site):
    _refused(site, Request("round", main_study().round().body), "RSD-1214", InputError)


def test_another_model_for_a_committed_round_is_refused(site):
    session.answer(site, main_study().round())
    _refused(site, main_study().round(np.ones(SIZE, dtype="<f4")), "RSD-1217")
    assert len(site.workbench.specs) == 1


@pytest.mark.parametrize("kind", ["hello", "eval", "shell"])
def test_an_unknown_kind_of_message_is_refused_and_logged(site, kind):
    _refused(site, Request(kind, b"{}"), "RSD-1211", InputError)


@pytest.mark.parametrize("kind", ["join", "round", "witness", "close"])
@pytest.mark.parametrize("body", [b"{}", b'{"schema":"residency.other/1"}', b"[]", b"\xff"])
def test_a_malformed_message_is_refused_and_logged(site, kind, body):
    with pytest.raises(InputError) as error:
        session.answer(site, Request(kind, body, ZEROS))
    assert entries(site, "refusal")[-1].body["code"] == error.value.code


# --- the roster -----------------------------------------------------------------------------------------------------


def _contribution(site):
    return decode(RoundReply, session.answer(site, main_study().round()).body, "reply")


def _row(name, reply=None, **changes):
    jurisdiction = next(s["jurisdiction"] for s in main_study().value["sites"] if s["name"] == name)
    fields = {"site": name, "jurisdiction": jurisdiction, "outcome": "late"}
    if reply is None:
        fields["reason"] = Reason(code="RSD-6102", rule="a round waits for a stated time", message="late")
    else:
        fields["outcome"] = "contributed"
        for key in ("attempt", "update_sha256", "charge", "commit", "decision", "transfer"):
            fields[key] = getattr(reply, key)
    return RosterRow(**{**fields, **changes})


def _roster(row, signer=None, **changes):
    others = [_row(name) for name in TRAINING if name != "a"]
    roster = Roster(
        **{
            "schema": "residency.roster/1",
            "study": main_study().digest,
            "run": "run-1",
            "round": 1,
            "unit": "record",
            "adjacency": "add_remove",
            "at": day(0),
            "base_sha256": sha256_hex(ZEROS.tobytes()),
            "result_sha256": "ab" * 32,
            "recipients": TRAINING,
            "rows": (row, *others) if row else tuple(others),
            **changes,
        }
    )
    return seal(roster.as_json(), signer or consortium().operator)


def _witness(site, roster=None, offers=(), cosigned=()):
    text = None if roster is None else roster.encode().decode()
    request = WitnessRequest(
        schema="residency.witness/1", study=main_study().digest, roster=text, offers=offers, cosigned=cosigned
    )
    return decode(WitnessReply, session.answer(site, Request("witness", encode(request))).body, "reply")


def test_a_true_roster_is_countersigned(site):
    reply = _witness(site, _roster(_row("a", _contribution(site))))
    keys = dict(parse_envelope(reply.roster.encode(), "roster").signatures)
    assert site.signer.identity.keyid in keys
    assert reply.refused == ()
    assert len(entries(site, "roster")) == 1


def test_a_false_late_is_not_countersigned(site):
    _contribution(site)
    _not_countersigned(site, _roster(_row("a")), "RSD-1224")


def test_a_contribution_that_was_not_made_is_not_countersigned(site):
    real = _contribution(site)
    other = main_study().round(round=2)
    assert other
    roster = _roster(_row("a", real), round=2)
    _not_countersigned(site, roster, "RSD-1224")


@pytest.mark.parametrize("field", ["update_sha256", "commit", "charge"])
def test_a_roster_with_another_update_of_this_site_is_not_countersigned(site, field):
    real = _contribution(site)
    wrong = "cd" * 32 if field == "update_sha256" else real.decision
    _not_countersigned(site, _roster(_row("a", real, **{field: wrong})), "RSD-1224")


def test_a_roster_whose_recipients_include_a_denied_site_is_not_countersigned(site):
    real = _contribution(site)
    _not_countersigned(site, _roster(_row("a", real), recipients=(*TRAINING, REFUSED)), "RSD-1224")


def test_a_roster_without_this_site_or_of_another_study_is_not_countersigned(site):
    real = _contribution(site)
    _not_countersigned(site, _roster(None), "RSD-1224")
    _not_countersigned(site, _roster(_row("a", real), study="ab" * 32), "RSD-1224")
    _not_countersigned(site, _roster(_row("a", real), unit="patient"), "RSD-1224")


def test_a_roster_that_the_operator_did_not_sign_is_not_countersigned(site):
    real = _contribution(site)
    stranger = new_signer("operator", OPERATOR, day(-1), day(10))
    _not_countersigned(site, _roster(_row("a", real), stranger), "RSD-6")


def _not_countersigned(site, roster, code):
    reply = _witness(site, roster)
    assert reply.roster is None
    assert code in reply.refused[0]
    assert entries(site, "refusal")[-1].body["code"].startswith(code)
    assert not entries(site, "roster")


# --- logs of the peers ----------------------------------------------------------------------------------------------


@pytest.fixture
def peer(tmp_path):
    """Site b's own log, for checkpoints."""
    with open_home(joined_home(PEER, tmp_path / "peer")) as opened:
        yield opened


def test_an_honest_checkpoint_is_cosigned_and_continued(site, peer):
    first = _witness(site, offers=(peer.offer(),))
    peer.record("commit", commit_body(1), main_study().digest)
    second = _witness(site, offers=(peer.offer(),))
    assert [c.size for c in (*first.cosigned, *second.cosigned)] == [peer.log.size - 1, peer.log.size]
    assert [e.body["size"] for e in entries(site, "cosign")] == [peer.log.size - 1, peer.log.size]


def test_a_site_that_was_killed_and_started_again_is_cosigned_on(site, tmp_path):
    """The cosignature of the last offer never reached its log; the proof must start there all the same."""
    home = joined_home(PEER, tmp_path / "killed")
    with open_home(home) as before:
        assert len(_witness(site, offers=(before.offer(),)).cosigned) == 1
    with open_home(home) as after:
        after.record("commit", commit_body(1), main_study().digest)
        reply = _witness(site, offers=(after.offer(),))
    assert reply.refused == ()
    assert len(reply.cosigned) == 1


def test_a_fork_or_a_rollback_of_a_peer_is_refused_and_logged(site, peer, tmp_path):
    small = peer.offer()
    with open_home(joined_home(PEER, tmp_path / "fork")) as twin:
        peer.record("commit", commit_body(1), main_study().digest)
        twin.record("commit", commit_body(2), main_study().digest)
        assert _witness(site, offers=(peer.offer(),)).refused == ()
        _offer_refused(site, twin.offer(), "RSD-5040")
        _offer_refused(site, small, "RSD-5041")
        twin.record("commit", commit_body(3), main_study().digest)
        offer = twin.offer()
        _offer_refused(site, offer, "RSD-5011")
    assert len(entries(site, "cosign")) == 1


def test_a_log_that_this_site_does_not_witness_is_refused(site, peer):
    offer = peer.offer()
    _offer_refused(site, offer.model_copy(update={"origin": "nowhere.example/x"}), "RSD-1223")
    _offer_refused(site, site.offer(), "RSD-1223")


def test_a_checkpoint_under_another_key_is_refused(site, peer):
    size = peer.log.size
    made = checkpoint.Checkpoint(peer.log.origin, size, bytes(32))
    forged = CheckpointOffer(origin=peer.log.origin, note=checkpoint.sign(made, site.signer.private), proofs={})
    _offer_refused(site, forged, "RSD-5002")


def _offer_refused(site, offer, code):
    reply = _witness(site, offers=(offer,))
    assert reply.cosigned == ()
    assert code in reply.refused[0]
    assert entries(site, "refusal")[-1].body["code"] == code


def _line(site, peer, signer):
    own = note.parse(site.offer().note)
    name = consortium().anchor.trust.witness_name(PEER)
    signature = cosign.cosign(own.text, name, signer, 1_800_000_000)
    return CosignedLine(origin=site.log.origin, size=site.log.size, witness=name, line=signature.line())


def test_a_forged_cosignature_is_refused_and_logged_and_the_rest_is_answered(site, peer):
    forged = _line(site, peer, site.signer.private)
    true = _line(site, peer, peer.signer.private)
    elsewhere = true.model_copy(update={"origin": peer.log.origin})
    reply = _witness(site, offers=(peer.offer(),), cosigned=(forged, elsewhere, true))
    assert len(reply.refused) == 2
    assert "RSD-1222" in reply.refused[1]
    assert len(reply.cosigned) == 1
    codes = [e.body["code"] for e in entries(site, "refusal")]
    assert len(codes) == 2
    assert codes[1] == "RSD-1222"
    (kept,) = site.log.cosigned_checkpoints()
    assert true.line in kept
    assert forged.line not in kept


def test_refusals_hold_no_free_text_of_the_sender(site):
    """A message is quoted in part only: what an operator writes must not fill the log."""
    _refused(site, main_study().round(recipients=("x" * 5000,)), "RSD-1212")
    assert len(json.dumps(entries(site, "refusal")[-1].body)) < 20_000


def test_a_site_that_has_closed_trains_no_more(site):
    from compliance.messages import CloseRequest

    close = CloseRequest(schema="residency.close/1", study=main_study().digest, rosters=())
    session.answer(site, Request("close", encode(close)))
    with pytest.raises(Refused) as refused:
        session.answer(site, main_study().round())
    assert refused.value.code == "RSD-4104"
    assert site.workbench.specs == []
