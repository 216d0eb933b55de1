import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from client.node import load_node_key
from compliance.errors import InputError

P384 = ec.generate_private_key(ec.SECP384R1())
FORMS = [(Encoding.PEM, PrivateFormat.PKCS8), (Encoding.PEM, PrivateFormat.OpenSSH)]


@pytest.mark.parametrize(("encoding", "form"), FORMS)
def test_both_usual_forms_are_read(tmp_path, encoding, form):
    (tmp_path / "key").write_bytes(P384.private_bytes(encoding, form, NoEncryption()))
    assert load_node_key(tmp_path / "key").private_numbers() == P384.private_numbers()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
        P384.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
    ],
)
def test_other_keys_are_named(tmp_path, data):
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(InputError) as e:
        load_node_key(tmp_path / "key")
    assert e.value.code == "RSD-1108"
    assert "ssh-keygen" in e.value.next


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(InputError) as e:
        load_node_key(tmp_path / "key")
    assert e.value.code == "RSD-2005"
