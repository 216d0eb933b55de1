"""Which certificate an agent keeps: of the pinned CA, for its own name and node key, valid now."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from client import enrolment
from client.fleet import fleet_tls
from client.home import AgentHome
from client.node import load_node_key
from compliance.clock import now
from compliance.errors import InputError, Refused
from compliance.pki import issue_site_certificate, make_csr
from compliance.tls import make_tls
from compliance.trust.consortium import Consortium
from compliance.trust.enrol import make_invitation
from tests.desk import consortium, day, node_key

WORLD = consortium()
DOOR = "127.0.0.1:9092"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's CA in tls/, and the agent's home in site/."""
    root = tmp_path_factory.mktemp("certificate")
    tls = make_tls(root / "tls")
    config = Consortium(
        schema="residency.consortium/1", name="thyroid", operator={"name": "hub", "jurisdiction": "IE"},
        threshold=1, server=DOOR, governance="127.0.0.1:9093", enrolment="127.0.0.1:9094",
    )  # fmt: skip
    invitation = make_invitation(config, WORLD.operator, "berlin", "DE", tls.ca.read_text())
    (root / "kit.json").write_bytes(invitation.encode())
    people = (WORLD.signatories["berlin"].identity, WORLD.dpos["berlin"].identity)
    enrolment.enrol(root / "site", root / "kit.json", *people, day(30))
    return root


def certificate(made: Path, site: str = "berlin", consortium_name: str = "thyroid") -> bytes:
    key = load_node_key(made / "site" / "keys" / "node.key")
    return issue_site_certificate(made / "tls", make_csr(key, site, consortium_name), site, consortium_name, 9)


def refused(made: Path, data: bytes) -> str:
    """What is wrong with this certificate, in a word."""
    with pytest.raises(Refused) as e:
        enrolment.install_certificate(AgentHome(made / "site"), data)
    assert e.value.code == "RSD-6211"
    assert not enrolment.certificate_file(made / "site").exists()
    return e.value.message.rpartition(" ")[2]


def test_what_is_not_for_this_agent(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused) as e:
        enrolment.need_certificate(AgentHome(made / "site"))
    assert e.value.code == "RSD-6211"
    assert refused(made, certificate(made, site="leeds")) == "name"
    assert refused(made, certificate(made, consortium_name="other")) == "name"
    stranger = make_csr(node_key(), "berlin", "thyroid")
    assert refused(made, issue_site_certificate(made / "tls", stranger, "berlin", "thyroid", 9)) == "key"
    make_tls(tmp_path)
    own = make_csr(load_node_key(made / "site" / "keys" / "node.key"), "berlin", "thyroid")
    assert refused(made, issue_site_certificate(tmp_path, own, "berlin", "thyroid", 9)) == "issuer"
    good = certificate(made)
    monkeypatch.setattr(enrolment, "now", lambda: now() + timedelta(days=10))
    assert refused(made, good) == "time"
    monkeypatch.undo()
    enrolment.install_certificate(AgentHome(made / "site"), good)
    assert enrolment.need_certificate(AgentHome(made / "site")).read_bytes() == good


def test_tls_files_that_do_not_belong_together(made: Path, tmp_path: Path) -> None:
    (tmp_path / "good.crt").write_bytes(certificate(made))
    key, ca = made / "site" / "keys" / "node.key", made / "site" / "ca.crt"
    fleet_tls(ca, tmp_path / "good.crt", key)
    (tmp_path / "garbage").write_bytes(b"garbage")
    for parts in (
        (tmp_path / "none", tmp_path / "good.crt", key),
        (ca, tmp_path / "none", key),
        (ca, tmp_path / "garbage", key),
        (ca, tmp_path / "good.crt", made / "tls" / "server.key"),
    ):
        with pytest.raises(InputError) as e:
            fleet_tls(*parts)
        assert e.value.code == "RSD-6216"
