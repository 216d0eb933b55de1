"""The operator's part in cosigning: a site speaks for its own log and under its own name."""

import pytest

from compliance.errors import CheckFailed, Refused
from compliance.log import cosign, note
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import CheckpointOffer, CosignedLine
from compliance.roster import EntryRef
from server.witness_desk import WitnessDesk
from tests.federation import OPERATOR, consortium, joined_home, main_study, open_home
from tests.log_drafts import CLOSE, refusal_body


@pytest.fixture
def desk(tmp_path):
    made = consortium()
    trust, key = made.anchor.trust, made.operator.private
    with (
        LogStore.open(tmp_path / "log.db", trust.log_origin(OPERATOR), key) as log,
        WitnessStore(tmp_path / "witness.db", trust.witness_name(OPERATOR), key) as witness,
    ):
        log.append("close", CLOSE, main_study().digest)
        yield WitnessDesk(made.anchor, log, witness)


@pytest.fixture
def a(tmp_path):
    with open_home(joined_home("a", tmp_path)) as opened:
        yield opened


@pytest.fixture
def b(tmp_path):
    with open_home(joined_home("b", tmp_path)) as opened:
        yield opened


def _line(witness, offer, name=None):
    """A cosignature by the site `witness` on the checkpoint of `offer`."""
    parsed = note.parse(offer.note)
    name = name or consortium().anchor.trust.witness_name(witness.name)
    signature = cosign.cosign(parsed.text, name, witness.signer.private, 1_800_000_000)
    size = int(parsed.text.splitlines()[1])
    return CosignedLine(origin=offer.origin, size=size, witness=name, line=signature.line())


def test_a_checkpoint_is_shown_to_the_others_and_not_to_its_own_site(desk, a, b):
    desk.show("a", a.offer())
    desk.show("b", b.offer())
    assert desk.offers_for("a")[0].origin == b.log.origin
    assert a.log.origin not in {o.origin for o in desk.offers_for("a")}
    assert consortium().anchor.trust.log_origin(OPERATOR) in {o.origin for o in desk.offers_for("a")}


def test_the_operator_cosigns_what_it_is_shown(desk, a):
    desk.show("a", a.offer())
    (line,) = desk.lines_for("a")
    a.log.add_cosignature(line.size, line.line, {line.witness: consortium().operator.private.public_key()})
    assert desk.lines_for("a") == ()


def test_a_site_cannot_show_the_log_of_another(desk, a, b):
    with pytest.raises(Refused) as refused:
        desk.show("b", a.offer())
    assert (refused.value.code, refused.value.found, refused.value.limit) == ("RSD-8220", a.log.origin, b.log.origin)
    assert desk.try_show("b", CheckpointOffer(origin="nowhere", note="", proofs={})).code == "RSD-8220"
    assert len(desk.offers_for("c")) == 1


def test_a_rolled_back_log_is_refused_and_not_shown_on(desk, a):
    small = a.offer()
    a.record("refusal", refusal_body(1), main_study().digest)
    desk.show("a", a.offer())
    assert desk.try_show("a", small).code == "RSD-5041"
    shown = next(o for o in desk.offers_for("b") if o.origin == a.log.origin)
    assert shown.note != small.note


def test_a_fork_is_refused_and_not_shown_on(desk, a, tmp_path):
    with open_home(joined_home("a", tmp_path / "twin")) as twin:
        a.record("refusal", refusal_body(1), main_study().digest)
        twin.record("refusal", refusal_body(2), main_study().digest)
        desk.show("a", a.offer())
        assert desk.try_show("a", twin.offer()).code == "RSD-5040"


def test_cosignatures_are_handed_to_the_log_that_they_are_on_once(desk, a, b):
    line = _line(b, a.offer())
    desk.take("b", line)
    assert desk.lines_for("b") == ()
    assert desk.lines_for("a") == (line,)
    assert desk.lines_for("a") == ()


def test_a_site_cannot_cosign_under_the_name_of_another(desk, a, b):
    honest = _line(b, a.offer())
    desk.take("b", honest)
    forged = _line(a, a.offer(), name=honest.witness)
    error = desk.try_take("a", forged)
    assert error.code == "RSD-8220"
    assert desk.lines_for("a") == (honest,)


def test_a_forged_cosignature_on_the_operators_log_is_refused(desk, a, b):
    own = desk.offers_for("a")[-1]
    forged = _line(b, own, name=consortium().anchor.trust.witness_name("a"))
    with pytest.raises((CheckFailed, Refused)):
        desk.take("a", forged)
    desk.take("a", _line(a, own))
    assert desk.try_take("b", _line(b, own)) is None


def test_entries_that_a_site_names_are_its_own_in_order_and_covered_by_its_checkpoint(desk, a, b):
    def refs(*indices, log=a.log.origin):
        return [EntryRef(origin=log, index=i, leaf="ab" * 32) for i in indices]

    size = a.log.size
    desk.show("a", a.offer(), *refs(0, size - 1))
    for bad in (refs(0, 0, 0, 0), refs(2, 1), refs(1, size), refs(0, 1, log=b.log.origin)):
        with pytest.raises(Refused) as refused:
            desk.show("a", a.offer(), *bad)
        assert refused.value.code == "RSD-8220"
