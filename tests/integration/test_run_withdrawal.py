"""A subject is withdrawn in the middle of a run: the run goes on, and its release says what happened and verifies."""

from contextlib import ExitStack

import pytest

from client import session, subjects
from compliance.errors import RunFailed
from tests.federation import REFUSED, entries
from tests.local_run import World, head_only

SITES = ("a", "b", "d", REFUSED)
CLEAN = {**dict.fromkeys(SITES[:-1], "contributed"), REFUSED: "refused"}


@pytest.fixture
def world(tmp_path):
    with ExitStack() as stack:
        yield World(tmp_path, head_only(*SITES), SITES).open(stack)


def _withdraw(world, *ids):
    subjects.withdraw(world.site("a").home, [(i,) for i in ids], "consent")


def _outcomes(world, number):
    return {name: row["outcome"] for name, row in world.rows(number)[0].items()}


def _during_training(world):
    bench = world.site("a").workbench
    real, asked = bench.train, []

    def train(case, *rest):
        asked.append(case.excluded)
        if len(asked) == 1:
            _withdraw(world, "9000")
        return real(case, *rest)

    bench.train = train
    world.run()
    assert asked == [(), (0,)]


def _on_its_way(world, monkeypatch):
    """The site has logged the transfer; the answer is lost, a subject is withdrawn, and the server asks again."""
    lost, requests = [], []
    real = session.answer

    def answer(site, request):
        requests.append(request)
        return real(site, request)

    def tamper(site, kind, reply):
        if (site, kind) == ("a", "round") and not lost:
            lost.append(reply)
            _withdraw(world, "9000")
            return real(world.site("a"), requests[-1])
        return reply

    monkeypatch.setattr(session, "answer", answer)
    world.run(tamper)


@pytest.mark.parametrize("when", ["training", "on its way"])
def test_the_round_fails_at_this_site_the_next_one_leaves_the_subject_out_and_the_release_verifies(
    world, monkeypatch, when
):
    if when == "training":
        _during_training(world)
    else:
        _on_its_way(world, monkeypatch)
    assert world.result()["outcome"] == "finished"
    rows, signatures = world.rows(1)
    assert _outcomes(world, 1) == {**CLEAN, "a": "failed"}
    assert rows["a"]["reason"]["code"] == "RSD-2430"
    assert world.site("a").signer.identity.keyid in signatures  # it is what the site's own log says
    assert _outcomes(world, 2) == CLEAN
    site = world.site("a")
    attempts = [(c.round, c.attempt) for c in site.ledger.charges(world.signed.digest)]
    assert attempts == [(1, 1), (2, 1)]  # spent, and not drawn again
    assert len(entries(site, "failure")) == 1
    report = world.verify()
    assert report.error is None, report.error
    told = any("was withdrawn with a subject before it arrived" in line for line in report.lines())
    assert told == (when == "on its way")


def test_an_operator_cannot_leave_an_update_out_as_withdrawn(world):
    """Only the site's own log can say so: the round is not countersigned, and the release does not verify."""

    def tamper(site, kind, reply):
        if (site, kind) == ("a", "round"):
            raise RunFailed("RSD-2430", "a subject was withdrawn")
        return reply

    world.run(tamper)
    assert world.site("a").signer.identity.keyid not in world.rows(1)[1]
    report = world.verify()
    assert report.failed is not None or "a" not in report.fields()["epsilon_milli"]


def test_a_withdrawal_after_the_round_leaves_the_roster_as_it_is(world):
    """The update was counted: it is listed as affected, and the release verifies."""

    def tamper(site, kind, reply):
        if (site, kind) == ("d", "round") and not subjects.affected(world.site("a").home):
            _withdraw(world, "9000")  # a has answered already
        return reply

    world.run(tamper)
    assert _outcomes(world, 1) == CLEAN
    assert world.site("a").signer.identity.keyid in world.rows(1)[1]
    (row,) = subjects.affected(world.site("a").home)
    assert (row.round, row.study) == (1, world.signed.digest)
    assert row.roster_sha256
    assert world.verify().error is None
