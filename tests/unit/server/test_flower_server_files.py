import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from compliance.clock import now
from compliance.errors import EnvironmentFault, InputError, PeerUnreachable
from compliance.tls import make_tls, tls_files
from server.app import server_home
from server.control import Control, NodeInfo
from server.flower_files import flower_files, read_token
from server.launcher import ServerConfig, prepare
from server.nodes import normal_public_key, reconcile
from server.superexec import SuperExec, superexec_environment
from tests.desk import ok


def public(key, ssh=False):
    if ssh:
        return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" user@host\n"
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_node_key_has_one_form():
    key = ec.generate_private_key(ec.SECP384R1())
    assert normal_public_key(public(key)) == normal_public_key(public(key, ssh=True)) == public(key)


class _Nodes:
    """In the place of the control client: the nodes that Flower has."""

    def __init__(self, *nodes):
        self._nodes = list(nodes)
        self.done = []

    def nodes(self):
        return tuple(self._nodes)

    def register_node(self, key):
        self.done.append(("register", key))

    def unregister_node(self, number):
        self.done.append(("unregister", number))


def test_flower_is_told_of_new_keys_and_of_keys_that_are_gone():
    control = _Nodes(NodeInfo(1, b"a", True), NodeInfo(2, b"b", True), NodeInfo(3, b"c", False))
    assert reconcile(control, [b"a", b"d"]) == 2
    assert control.done == [("unregister", 2), ("register", b"d")]
    assert _Nodes(NodeInfo(1, b"a", True)).done == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ecdsa-sha2-nistp384 AAAA",
        public(ec.generate_private_key(ec.SECP256R1())),
        public(ed25519.Ed25519PrivateKey.generate()),
    ],
)
def test_other_keys_are_no_node_keys(data):
    with pytest.raises(InputError) as e:
        normal_public_key(data)
    assert e.value.code == "RSD-1122"


def test_secrets_are_made_once_and_are_private(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    config = ServerConfig(*operator_home(tmp_path))
    files = prepare(config)
    token = read_token(config.home)
    assert prepare(config) == files == flower_files(config.home)
    assert read_token(config.home) == token
    assert len(token) == 43
    assert {p.stat().st_mode & 0o777 for p in (files.token, files.secret)} == {0o600}
    assert files.home.stat().st_mode & 0o777 == 0o700
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"


def test_unusable_tls_material_stops_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    home, _ = operator_home(tmp_path)
    good, other = make_tls(tmp_path / "a"), make_tls(tmp_path / "b")
    old = make_tls(tmp_path / "c", days=1, at=now() - timedelta(days=3))
    good.key.write_bytes(other.key.read_bytes())
    for tls in (good, old):
        with pytest.raises(EnvironmentFault) as e:
            prepare(ServerConfig(home, tls))
        assert e.value.code == "RSD-7104"


def test_a_home_that_is_not_whole_starts_nothing_and_nothing_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    home, tls = operator_home(tmp_path)
    for name in ("keys/operator.key", "tls/ca.crt", "tls/ca.key", "tls/server.crt", "tls/server.key"):
        kept = (home / name).read_bytes()
        (home / name).unlink()
        before = sorted(p.relative_to(home) for p in home.rglob("*"))
        with pytest.raises(InputError) as e:
            prepare(ServerConfig(home, tls))
        assert (e.value.code, e.value.found) == ("RSD-6215", f"missing: {name}")
        assert sorted(p.relative_to(home) for p in home.rglob("*")) == before
        (home / name).write_bytes(kept)


def operator_home(tmp_path):
    home = tmp_path / "hub"
    ok("consortium", "init", "x", "--operator", "hub", "--jurisdiction", "IE", "--threshold", 1,
       "--server", "127.0.0.1:1", "--home", home)  # fmt: skip
    return home, tls_files(home / "tls")


def test_a_closed_private_door_is_named(tmp_path):
    tls = make_tls(tmp_path)
    with Control("127.0.0.1:1", tls.ca, "token") as control, pytest.raises(PeerUnreachable) as e:
        control.nodes()
    assert e.value.code == "RSD-6104"


def test_the_child_ends_with_its_whole_group():
    child = SuperExec(("/bin/sh", "-c", "trap '' TERM; sleep 300 & echo; wait"), dict(os.environ))
    assert child.keep_running()
    assert not child.keep_running()
    group = child._process.pid
    time.sleep(0.3)
    child.stop()
    child.stop()
    found = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True, check=False)
    assert [s for s in found.stdout.split() if not s.startswith("Z")] == []


def test_a_dead_child_is_started_again():
    child = SuperExec((sys.executable, "-c", ""), dict(os.environ))
    assert child.keep_running()
    child._process.wait()
    assert child.keep_running()
    child.stop()


def test_the_child_is_quiet_and_knows_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("FLWR_LOG_LEVEL", raising=False)
    environment = superexec_environment(tmp_path, tmp_path / "f", 0.2)
    assert (environment["FLWR_DISABLE_UPDATE_CHECK"], environment["FLWR_LOG_LEVEL"]) == ("1", "WARNING")
    monkeypatch.setenv("RESIDENCY_SERVER_HOME", environment["RESIDENCY_SERVER_HOME"])
    assert server_home() == tmp_path
    monkeypatch.delenv("RESIDENCY_SERVER_HOME")
    with pytest.raises(EnvironmentFault) as e:
        server_home()
    assert e.value.code == "RSD-7107"
