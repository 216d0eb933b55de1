"""A real `residency log witness serve`: real HTTP, kill -9 at its durable step, a fork, a new trust file."""

from __future__ import annotations

import http.client
import signal
import time
from pathlib import Path

import pytest

from compliance.log import cosign, note
from compliance.log.witness_home import WitnessHome
from compliance.log.witness_protocol import parse_lines
from tests.desk import refused
from tests.witnesses import WITNESS, Running, Small, grow, request, serving, small

# Dies once a cosignature is on disk and before it is answered, or before it is on disk: kill -9 at the durable step.
DIES = """
import os, signal, sys
from compliance.log import witness
from residency import main
real = witness.WitnessStore.{method}
def dies(self, *args, **kwargs):
    {first}
    found = real(self, *args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
    return found
witness.WitnessStore.{method} = dies
sys.argv[0] = "residency"
main()
"""


@pytest.fixture
def made(tmp_path: Path) -> Small:
    return small(tmp_path)


def _cosigned(running: Running, made: Small, member: str, old: int) -> int:
    with made.log(member) as log:
        asked = request(log, old)
        status, body = running.post(asked.encode())
        assert status == 200, body
        (line,) = parse_lines(body)
        key = WitnessHome(made.witness).signer().identity.key()
        cosign.verify(note.parse(asked.note).text, line, key)
        assert line.name == WITNESS
        return log.size


def test_it_cosigns_the_members_logs_and_no_second_history(made: Small, tmp_path: Path) -> None:
    with serving(made) as running:
        sizes = {member: _cosigned(running, made, member, 0) for member in ("hub", "a", "b")}
        with made.log("a") as log:
            grow(log)
        assert _cosigned(running, made, "a", sizes["a"]) == 4
        with made.log("a", "twin.db") as twin:  # another history under the real key, as large
            grow(twin, 4)
            status, _ = running.post(request(twin, 4).encode())
            assert status == 409
            assert running.post(request(twin, 0).encode()) == (409, "4\n")
        # A trust file that names the key no more ends the cosigning; a torn one changes nothing.
        before = made.anchor
        with made.log("b") as log:
            made.trust.write_bytes(b"torn")
            time.sleep(1.5)
            assert running.post(request(log, sizes["b"]).encode())[0] == 200
            made.write_trust(version=before.trust.version + 1, previous=before.digest)
            until = time.monotonic() + 20
            while (status := running.post(request(log, sizes["b"]).encode())[0]) == 200:
                assert time.monotonic() < until
                time.sleep(0.1)
        assert status == 404
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0
    with (store := WitnessHome(made.witness)).store(store.signer()) as memory:
        assert [r.code for r in memory.refused()] == ["RSD-5040"]


@pytest.mark.parametrize(
    ("method", "first", "remembered"),
    [("cosign", "", True), ("_remember", "os.kill(os.getpid(), signal.SIGKILL)", False)],
    ids=["remembered-not-answered", "not-remembered"],
)
def test_killed_at_its_durable_step_it_cosigns_one_history_only(
    made: Small, method: str, first: str, remembered: bool
) -> None:
    with made.log("a") as log, made.log("a", "twin.db") as twin:
        grow(twin, 3)
        asked, forked = request(log, 0).encode(), request(twin, 0).encode()
        with serving(made, "-c", DIES.format(method=method, first=first)) as running:
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                running.post(asked)
            assert running.process.wait(20) == -signal.SIGKILL
        with serving(made) as running:
            status, body = running.post(forked)
            if not remembered:
                assert status == 200  # nobody has a cosignature of the first: the second is the first
                return
            assert (status, body) == (409, "3\n")
            status, body = running.post(request(log, 3).encode())
            assert status == 200
            assert parse_lines(body)[0].name == WITNESS
            assert running.post(request(twin, 3).encode())[0] == 409


def test_without_its_memory_or_outside_its_consortium_it_does_not_start(made: Small) -> None:
    words = ("log", "witness", "serve", "--home", made.witness, "--port", 0)
    refused(5, "RSD-6015", *words)
    before = made.anchor
    made.write_trust(version=2, previous=before.digest)
    refused(4, "RSD-5110", *words, "--trust", made.trust)
    (made.witness / "witness.db").rename(made.witness / "lost")
    refused(3, "RSD-5100", *words, "--trust", made.trust)
