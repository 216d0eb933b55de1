"""Who may be sent the global model: decided and logged for each site that joined, before the first round."""

import json

import pytest

from compliance.counting import Tally
from compliance.errors import Refused
from compliance.law.counters import Counters
from compliance.law.decide import Engine, builtin_packs
from compliance.law.model import Party
from compliance.log.store import LogStore
from compliance.messages import CheckpointOffer, JoinReply, LayoutEntry, PeerDecision
from compliance.roster import EntryRef
from compliance.study import Study
from compliance.validation import load_model
from server import gatekeeper
from server.gatekeeper import Gatekeeper
from server.law import operator_engine
from tests.federation import HEAD_ONLY as MODEL
from tests.federation import JURISDICTIONS, OPERATOR, TRAINING, day, new_signer, study_json

DIGEST = "cd" * 32


@pytest.fixture
def log(tmp_path):
    key = new_signer("operator", OPERATOR, day(-1), day(10)).private
    with LogStore.open(tmp_path / "log.db", f"tiny/{OPERATOR}", key) as opened:
        yield opened


def _study(**changes):
    return load_model(Study, study_json(MODEL, **changes), "RSD-2007", "study")


@pytest.fixture
def keeper(log, tmp_path):
    """Makes the gatekeeper of a study with some changes; every pack applies if no engine is given."""

    def make(engine=None, **changes):
        tally = Tally(tmp_path / "counters.db", log)
        return Gatekeeper(_study(**changes), DIGEST, log, tally, engine or operator_engine(None))

    return make


def _reply(site, *denied):
    entry = EntryRef(origin=f"tiny/{site}", index=3, leaf="ab" * 32)
    decisions = tuple(
        PeerDecision(
            recipient=Party(name=peer, jurisdiction=place),
            artifact="aggregate",
            allow=peer not in denied,
            rule="x.rule",
            plain="Not this one.",
            entry=entry,
        )
        for peer, place in JURISDICTIONS.items()
        if peer != site
    )
    return JoinReply(
        schema="residency.joined/1",
        site=site,
        layout=(LayoutEntry(name="w", shape=(2,)),),
        device="cpu",
        decisions=decisions,
        adoption="",
        offer=CheckpointOffer(origin=f"tiny/{site}", note="", proofs={}),
    )


def _decisions(log):
    return [e for e in log.entries(0, log.size) if e.kind == "decision"]


def test_a_site_without_a_transfer_basis_is_left_out_by_the_operators_own_rules(log, keeper):
    joined = {site: _reply(site) for site in JURISDICTIONS}
    allowed, left_out = keeper().judge(joined)
    assert set(allowed) == set(TRAINING)
    assert set(left_out) == {"e"}
    error = left_out["e"].error
    assert (error.code, error.rule) == ("RSD-3100", "eu.no-basis: GDPR Art 44, GDPR Art 45, GDPR Art 46")
    (entry,) = left_out["e"].entries
    logged = log.entry(entry.index)
    assert (logged.body["effect"], logged.body["peer"], entry.leaf) == ("deny", "e", logged.leaf_hash().hex())


def test_every_decision_is_logged_with_its_index(log, keeper):
    allowed, _ = keeper().judge({site: _reply(site) for site in JURISDICTIONS})
    assert [e.body["peer"] for e in _decisions(log)] == list(JURISDICTIONS)
    for site, entry in allowed.items():
        body = log.entry(entry.index).body
        assert (body["peer"], body["effect"]) == (site, "allow")


def test_a_site_that_one_contributor_denies_is_left_out_although_the_operator_would_send(log, keeper):
    joined = {site: _reply(site, *(["b"] if site == "d" else [])) for site in TRAINING}
    allowed, left_out = keeper().judge(joined)
    assert set(allowed) == {"a", "c", "d"}
    verdict = left_out["b"]
    assert (verdict.error.code, verdict.error.rule, verdict.error.found) == ("RSD-3100", "x.rule", "denied by d")
    assert [e.origin for e in verdict.entries] == ["tiny/d"]


def test_a_denial_of_another_artifact_does_not_keep_the_model_from_a_site(log, keeper):
    reply = _reply("a")
    other = reply.decisions[0].model_copy(update={"artifact": "dp_update", "allow": False})
    joined = {"a": reply.model_copy(update={"decisions": (other, *reply.decisions[1:])}), "b": _reply("b")}
    allowed, left_out = keeper().judge(joined)
    assert (set(allowed), left_out) == ({"a", "b"}, {})


def test_a_site_that_did_not_join_is_not_judged(log, keeper):
    allowed, left_out = keeper().judge({"a": _reply("a")})
    assert (set(allowed), left_out) == ({"a"}, {})
    assert len(_decisions(log)) == 1


def test_a_missing_document_leaves_a_site_out_and_says_what_would_let_it_in(log, keeper):
    documents = [p for p in study_json(MODEL)["documents"] if p["id"] != "adequacy-b"]
    _, left_out = keeper(documents=documents).judge({"b": _reply("b")})
    assert left_out["b"].error.rule.startswith("eu.adequacy-unconfirmed")
    assert "adequacy_confirmation" in left_out["b"].error.next


def test_an_expired_pack_lets_nobody_in(keeper):
    old = {
        n: p.model_copy(update={"verified_on": "2020-01-01", "expires_on": "2020-02-01"})
        for n, p in builtin_packs().items()
    }
    engine = Engine(old, {name: pack.digest for name, pack in old.items()})
    allowed, left_out = keeper(engine).judge({site: _reply(site) for site in TRAINING})
    assert allowed == {}
    assert {v.error.code for v in left_out.values()} == {"RSD-3100"}


def test_the_study_itself_goes_only_where_metadata_may_go(log, keeper):
    assert keeper().closed_to("c") is None
    told = [(e.body["transfer"]["artifact"], e.body["peer"], e.body["effect"]) for e in _decisions(log)]
    assert told == [(kind, "c", "allow") for kind in gatekeeper.METADATA]
    nowhere = keeper(operator={"name": OPERATOR, "jurisdiction": "TW"})  # no pack binds the operator there
    error = nowhere.closed_to("c")
    assert (error.code, error.rule.split(":")[0]) == ("RSD-3100", "engine.no-pack")


def test_the_release_is_decided_once_for_every_site_of_the_study(log, keeper):
    for _ in range(2):  # the second time after a crash
        keeper().release(TRAINING)
    told = {e.body["peer"]: e.body["effect"] for e in _decisions(log)}
    assert told == {**dict.fromkeys(TRAINING, "allow"), "e": "deny"}
    assert len(_decisions(log)) == len(JURISDICTIONS)


def test_who_is_let_in_is_counted_before_the_decision_and_by_bucket_only(log, keeper, tmp_path):
    operator = {"name": OPERATOR, "jurisdiction": "US"}  # its packs deny: the count shows what was asked about
    plain = study_json(MODEL)
    sites = [{**s, "records_public": 43_217_280} for s in plain["sites"]]
    privacy = {**plain["privacy"], "inverse_delta": 10**10}
    american = keeper(operator=operator, sites=sites, privacy=privacy)
    american.judge({site: _reply(site) for site in TRAINING})
    counts = [e.body["transfer"]["counts"] for e in _decisions(log)]
    assert [[(c["counter"], c["recipient"], c["at_most"]) for c in found] for found in counts] == [
        [("us_12_months", site, 10**9)] for site in TRAINING
    ]
    keeper(sites=sites, privacy=privacy).judge({site: _reply(site) for site in TRAINING})
    kinds = [e.kind for e in log.entries(0, log.size)]
    assert kinds[len(TRAINING) :] == ["count", "decision"] * len(TRAINING)
    text = json.dumps([e.body for e in log.entries(0, log.size)])
    assert str(4 * 43_217_280) not in text
    with Counters.open(tmp_path / "counters.db") as counters:
        assert counters.head()[0] == len(TRAINING)


def test_counters_that_were_put_back_let_the_model_go_to_nobody(log, keeper, tmp_path):
    keeper().judge({"a": _reply("a")})
    (tmp_path / "counters.db").unlink()
    with pytest.raises(Refused, match="RSD-3060"):
        keeper().judge({"a": _reply("a")})
    assert len(_decisions(log)) == 1
