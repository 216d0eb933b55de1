"""`residency bench round` in its short form: both deployments run, the form of the result, and ours is the quicker."""

from __future__ import annotations

import psutil
import pytest

from tests.federation import residency

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # about a minute on a calm machine


@pytest.fixture(scope="module")
def record():
    done = residency("bench", "round", "--short", "--json", limit_s=540)
    assert done.code == 0, (done.out, done.err)
    return done.json


def test_the_form_is_the_one_that_is_documented(record):
    assert record["schema"] == "residency.bench.round/1"
    for side in ("stock", "ours"):
        assert record["seconds_per_round_s"][side]["0.1M"] > 0
        assert record["cpu_s_per_message"][side] > 0
        assert record["rounds"]["0.1M"][side] == len(record["samples"]["0.1M"][side]) >= 1
    assert set(record["idle"]) == {"agent_cores", "agent_rss_mib", "server_cores"}
    assert record["idle"]["agent_rss_mib"] > 100  # the warm process counts
    assert record["versions"]["flwr"].startswith("1.41.")


def test_a_round_is_quicker_and_cheaper_than_stock(record):
    """Far from the figures of a calm machine, so that it holds on a loaded one."""
    assert record["ratio"]["0.1M"] > 2
    assert record["cpu_s_per_message"]["stock"] > 5 * record["cpu_s_per_message"]["ours"]


def test_nothing_is_left_running(record):
    del record
    own = {p.pid for p in psutil.Process().children(recursive=True)}
    left = [p for p in psutil.process_iter(["cmdline", "ppid"]) if "bench.round_agent" in (p.info["cmdline"] or [])]
    assert not [p for p in left if p.pid in own or p.info["ppid"] == 1]
