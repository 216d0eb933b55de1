"""A withdrawal and the real training process: it stops between two batches, and the next attempt has fewer rows."""

import threading
from math import prod

import numpy as np
import pytest

from client import session, subjects
from client.home import AgentHome
from client.site import Site
from compliance.errors import RunFailed
from tests.federation import consortium, entries


@pytest.fixture
def study():
    """Rounds that take long enough to be interrupted, at a noise that pays for them."""
    made = consortium()
    sites = [{**s, "noise_multiplier_micro": 60_000_000} for s in made.study()["sites"]]
    return made.sign_study(training={**made.study()["training"], "steps": 1000}, sites=sites, round_deadline_s=600)


def _cached_rows(home, study):
    """Rows of the prepared arrays, by the length of their first axis."""
    from safetensors import safe_open

    found = set()
    for file in (home.study_folder(study.digest) / "cache").glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            found |= {opened.get_slice(k).get_shape()[0] for k in opened.keys()}  # noqa: SIM118
    return found


def test_no_further_batch_is_drawn_and_the_next_round_is_prepared_without_the_subject(study, tmp_path, forked):
    home = AgentHome(consortium().copy_home("a", tmp_path))
    site = Site(home)
    site.workbench.threads = 1
    try:
        session.answer(site, study.join())
        assert 200 in _cached_rows(home, study)
        real, times = site.workbench.train, []

        def train(*args):
            timer = threading.Timer(0.5, lambda: times.append(subjects.withdraw(home, [("9000",)], "optout")))
            timer.start()
            try:
                return real(*args)
            finally:
                timer.join()

        site.workbench.train = train
        flat = np.zeros(_size(site, study), dtype="<f4")
        with pytest.raises(RunFailed) as failed:
            session.answer(site, study.round(flat))
        assert times == [1]
        assert failed.value.code == "RSD-4620"
        assert not (home.study_folder(study.digest) / "cache").exists()
        with pytest.raises(RunFailed) as again:
            session.answer(site, study.round(flat))
        assert again.value.code == "RSD-1218"
        assert not entries(site, "commit", "transfer")
        assert [(c.round, c.attempt) for c in site.ledger.charges(study.digest)] == [(1, 1)]
        case = site.joined_case(study.digest)
        site.workbench.prepare(case, home.study_folder(study.digest) / "cache")
        assert 199 in _cached_rows(home, study)
        assert 200 not in _cached_rows(home, study)
    finally:
        site.close()


def _size(site, study):
    """The number of trained parameters, from the join's answer."""
    case = site.joined_case(study.digest)
    layout = site.workbench.prepare(case, site.home.study_folder(study.digest) / "cache").layout
    return sum(prod(e.shape) for e in layout)
