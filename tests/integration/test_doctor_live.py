"""Both doctors and both health commands beside a real server and a real agent: true while they serve, and only then."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from client import doctor_commands as agent_commands
from compliance.pki import issue_site_certificate, make_csr
from server import doctor_commands as server_commands
from tests.federation import CONSORTIUM, OPERATOR, Live, consortium, residency

pytestmark = pytest.mark.timeout(600)


class Plain(Live):
    """`Live`, with server and agent as people start them."""

    start_program = subprocess.Popen

    def program(self, name: str) -> tuple[str, ...]:
        """See `Live.program`."""
        del name
        return (sys.executable, "-m", "residency")


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """The server and the agent of one site."""
    running = Plain(consortium())
    try:
        running.spawn(OPERATOR, "server", "start", "--home", running.made.hub, "--host", "127.0.0.1")
        running.spawn("a", "agent", "start", "--home", running.made.home("a"), "--threads", "1")
        for name in (OPERATOR, "a"):
            running.wait(lambda name=name: '"ready": true' in running.said(name), 120, f"{name} ready")  # type: ignore[misc]
        yield running
    finally:
        running.stop()


def _ask(who: str, home: Path, *more: str) -> tuple[int, dict[str, str]]:
    """The command, in this process: loading the libraries for each question would take most of the time."""
    command = {"agent": agent_commands.doctor, "server": server_commands.doctor}[who]
    done = CliRunner().invoke(command, ["--home", str(home), "--json", *more])
    return done.exit_code, {c["name"]: c["state"] for c in json.loads(done.stdout)["checks"]}


def test_the_doctors_and_health_tell_the_truth(live: Live) -> None:
    agent, hub = live.made.home("a"), live.made.hub
    live.wait(lambda: _ask("agent", agent, "--health")[0] == 0, 60, "a healthy agent")
    assert (
        residency("agent", "doctor", "--home", agent, "--health", forked=False).code == 0
    )  # and by the command itself
    assert residency("server", "doctor", "--home", hub, "--health", forked=False).code == 0
    code, checks = _ask("agent", agent)
    assert (code, [n for n, s in checks.items() if s in ("fail", "skipped")]) == (0, [])
    assert {checks[n] for n in ("server", "governance", "clock", "versions", "trust at the server", "agent")} == {"ok"}
    assert {"accelerator", "isolation", "memory", "ledger", "log", "answers"} <= set(checks)
    code, checks = _ask("server", hub)
    assert (code, [n for n, s in checks.items() if s in ("fail", "skipped")]) == (0, [])
    assert checks["server"] == checks["fleet door"] == checks["governance door"] == checks["enrolment door"] == "ok"
    assert checks["sites"] == "warn"  # four of five are away

    other = live.made.home("b")
    code, checks = _ask("agent", other, "--health")  # everything is in order there, but no agent runs
    assert (code, [n for n, s in checks.items() if s == "fail"]) == (7, ["agent"])

    certificate = agent / "certs" / "site.crt"
    good = certificate.read_bytes()
    certificate.write_bytes(_ended(agent))
    code, checks = _ask("agent", agent, "--health")
    assert (code, checks["certificate"], checks["server"], checks["governance"]) == (7, "fail", "fail", "fail")
    certificate.write_bytes((other / "certs" / "site.crt").read_bytes())  # another site's
    code, checks = _ask("agent", agent, "--health")
    assert (code, checks["certificate"], checks["server"]) == (7, "fail", "fail")
    certificate.write_bytes(good)

    live.kill("a")
    code, checks = _ask("agent", agent, "--health")
    assert (code, [n for n, s in checks.items() if s == "fail"]) == (7, ["agent"])
    live.kill(OPERATOR)
    code, checks = _ask("agent", agent, "--health")
    assert {n for n, s in checks.items() if s == "fail"} == {"agent", "server", "governance"}
    code, checks = _ask("server", hub, "--health")
    assert (code, checks["server"]) == (7, "fail")  # ready.json is still there, and proves nothing


def _ended(home: Path) -> bytes:
    """A certificate for the site's own key whose last second has passed."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key((home / "keys" / "node.key").read_bytes(), None)
    csr = make_csr(key, home.name, CONSORTIUM)  # type: ignore[arg-type]
    return issue_site_certificate(consortium().hub / "tls", csr, home.name, CONSORTIUM, 0)
