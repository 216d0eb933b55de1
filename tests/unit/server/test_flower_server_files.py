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
from compliance.tls import make_tls
from server.app import server_home
from server.control import Control
from server.launcher import ServerConfig, flower_files, prepare, read_token
from server.nodes import forget_node, normal_public_key, remember_node, remembered_nodes
from server.superexec import SuperExec, superexec_environment


def public(key, ssh=False):
    if ssh:
        return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" user@host\n"
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_node_key_has_one_form(tmp_path):
    key = ec.generate_private_key(ec.SECP384R1())
    assert normal_public_key(public(key)) == normal_public_key(public(key, ssh=True)) == public(key)
    assert remember_node(tmp_path, public(key)) == remember_node(tmp_path, public(key, ssh=True))
    assert remembered_nodes(tmp_path) == (public(key),)
    forget_node(tmp_path, public(key, ssh=True))
    forget_node(tmp_path, public(key))
    assert remembered_nodes(tmp_path) == ()


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
    config = ServerConfig(tmp_path, make_tls(tmp_path / "tls"))
    files = prepare(config)
    token = read_token(tmp_path)
    assert prepare(config) == files == flower_files(tmp_path)
    assert read_token(tmp_path) == token
    assert len(token) == 43
    assert {p.stat().st_mode & 0o777 for p in (files.token, files.secret)} == {0o600}
    assert files.home.stat().st_mode & 0o777 == 0o700
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"


def test_unusable_tls_material_stops_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    good, other = make_tls(tmp_path / "a"), make_tls(tmp_path / "b")
    old = make_tls(tmp_path / "c", days=1, at=now() - timedelta(days=3))
    good.key.write_bytes(other.key.read_bytes())
    for tls in (good, old):
        with pytest.raises(EnvironmentFault) as e:
            prepare(ServerConfig(tmp_path, tls))
        assert e.value.code == "RSD-7104"


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
    environment = superexec_environment(tmp_path, tmp_path / "f", 0.2)
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    monkeypatch.setenv("RESIDENCY_SERVER_HOME", environment["RESIDENCY_SERVER_HOME"])
    assert server_home() == tmp_path
    monkeypatch.delenv("RESIDENCY_SERVER_HOME")
    with pytest.raises(EnvironmentFault) as e:
        server_home()
    assert e.value.code == "RSD-7107"
