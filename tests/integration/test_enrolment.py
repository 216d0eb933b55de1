"""From an empty server to a served site, by the public commands: enrol over the door, admit, sign, install."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.fleet import Fleet, fleet_tls
from client.node import load_node_key
from compliance.errors import PeerUnreachable
from compliance.pki import read_site_certificate
from tests.desk import ok, refused
from tests.doorstep import Server, wait
from tests.federation import free_port

SITES = {"berlin": "DE", "leeds": "GB"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    root = tmp_path_factory.mktemp("enrolment")
    hub = root / "hub"
    doors = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    ok("consortium", "init", "small", "--operator", "hub", "--jurisdiction", "IE", "--threshold", 2,
       "--server", doors[0], "--governance", doors[1], "--enrolment", doors[2], "--home", hub)  # fmt: skip
    for site, jurisdiction in SITES.items():
        for role in ("signatory", "dpo"):
            ok("key", "new", "--role", role, "--holder", site, "--out", root / site)
        ok("consortium", "invite", site, "--jurisdiction", jurisdiction, "--home", hub, "--out", root / f"{site}.kit")
    server = Server(hub, root / "server.log")
    yield root, server
    assert server.stop() == 0, server.said()


def enrol(root: Path, site: str, home: Path) -> tuple[object, ...]:
    """The command that a site engineer types."""
    people = ("--signatory", root / site / "signatory.pub.json", "--dpo", root / site / "dpo.pub.json")
    return ("agent", "enroll", root / f"{site}.kit", "--home", home, *people)


def served(root: Path, server: Server, site: str) -> bool:
    """Whether the fleet door serves the site's node."""
    home = root / "homes" / site
    tls = fleet_tls(home / "ca.crt", home / "certs" / "site.crt", home / "keys" / "node.key")
    try:
        with Fleet(server.fleet, tls, load_node_key(home / "keys" / "node.key"), threading.Event()) as fleet:
            return fleet.receive() is None
    except PeerUnreachable as e:
        if e.code != "RSD-6103":
            raise
        return False


def test_a_site_enrols_and_is_served_once_the_sites_have_signed(world: tuple[Path, Server]) -> None:
    root, server = world
    assert server.ready["nodes"] == 0
    for site in SITES:
        home = root / "homes" / site
        ok(*enrol(root, site, home))
        certificate = read_site_certificate((home / "certs" / "site.crt").read_bytes())
        assert (certificate.site, certificate.consortium) == (site, "small")
        assert not served(root, server, site)  # a certificate alone admits nobody
        refused(3, "RSD-1208", *enrol(root, site, home))
        (home / "certs" / "site.crt").unlink()  # as if the reply had been lost
        ok(*enrol(root, site, home))
        error = refused(4, "RSD-6214", *enrol(root, site, root / "thief" / site))  # the kit, found by somebody else
        assert "operator" in error["next"]
    draft = root / "draft.json"
    ok("consortium", "admit", "--home", root / "hub", "--out", draft)
    for site in SITES:
        ok("consortium", "sign", draft, "--key", root / site / "signatory.key")
    ok("consortium", "admit", "--install", draft, "--home", root / "hub")
    for site in SITES:
        wait(lambda site=site: served(root, server, site), 20)
        ok("agent", "enroll", "--home", root / "homes" / site, "--trust", draft)


def test_an_agent_without_its_certificate_does_not_start(world: tuple[Path, Server], tmp_path: Path) -> None:
    root, _ = world
    ok("consortium", "invite", "lyon", "--jurisdiction", "FR", "--home", root / "hub", "--out", tmp_path / "lyon.kit")
    for role in ("signatory", "dpo"):
        ok("key", "new", "--role", role, "--holder", "lyon", "--out", tmp_path / "lyon")
    ok(*enrol(tmp_path, "lyon", tmp_path / "home"), "--out", tmp_path / "request.json")
    error = refused(4, "RSD-6211", "agent", "start", "--home", tmp_path / "home")
    assert "--certificate FILE" in error["next"]
    theirs = root / "homes" / "leeds" / "certs" / "site.crt"
    error = refused(4, "RSD-6211", "agent", "enroll", "--home", tmp_path / "home", "--certificate", theirs)
    assert error["found"] == "leeds of small"
    garbage = tmp_path / "garbage.crt"
    garbage.write_bytes(b"garbage")
    refused(3, "RSD-6203", "agent", "enroll", "--home", tmp_path / "home", "--certificate", garbage)
    assert not (tmp_path / "home" / "certs").exists()
