"""What the operator sends outside of runs: decided before the reply, logged once and whenever it changes."""

import pytest

from compliance.errors import Refused
from compliance.governance import ENROL, METHODS
from compliance.law.model import Party
from compliance.law.vocabulary import METADATA
from compliance.log.store import LogStore
from compliance.trust.home import OperatorHome
from server.law import REPLIES, Standing
from tests.federation import OPERATOR, day, new_signer

HUB, SITE = Party(name=OPERATOR, jurisdiction="IE"), Party(name="c", jurisdiction="JP")


@pytest.fixture
def log(tmp_path):
    key = new_signer("operator", OPERATOR, day(-1), day(10)).private
    with LogStore.open(tmp_path / "log.db", f"tiny/{OPERATOR}", key) as opened:
        yield opened


@pytest.fixture
def home(tmp_path):
    """A home without a law set."""
    return OperatorHome(tmp_path)


def test_every_method_has_an_artifact_without_patient_data():
    assert REPLIES.keys() == {*METHODS, *ENROL}
    assert set(REPLIES.values()) <= METADATA


def test_a_decision_is_logged_before_the_first_reply_and_not_again(log, home):
    standing = Standing(home)
    for _ in range(3):
        standing.check(log, HUB, SITE, "answer")
    standing.check(log, HUB, SITE, "roster")
    held = [(e.body["transfer"]["artifact"], e.body["peer"], e.body["allow"]) for e in log.entries(kind="decision")]
    assert held == [("answer", "c", True), ("roster", "c", True)]
    standing.check(log, HUB, SITE.model_copy(update={"jurisdiction": "FR"}), "answer")  # the member has moved
    assert len(log.entries(kind="decision")) == 3


def test_without_a_pack_that_binds_the_operator_nothing_goes_out(log, home):
    nowhere = Party(name=OPERATOR, jurisdiction="TW")
    with pytest.raises(Refused, match=r"engine\.no-pack"):
        Standing(home).check(log, nowhere, SITE, "answer")
    (entry,) = log.entries(kind="decision")
    assert not entry.body["allow"]
